//! MAC addresses.
use super::frame::Frame;

/// A MAC address, stored as a number: eBPF has no memcmp to compare octets with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mac(u64);

impl Mac {
    /// Converts from octets in the order of the wire.
    #[inline(always)]
    pub const fn new(octets: [u8; 6]) -> Self {
        let [a, b, c, d, e, f] = octets;
        Self(u64::from_be_bytes([0, 0, a, b, c, d, e, f]))
    }

    /// Reads the source address of an Ethernet frame.
    #[inline(always)]
    pub fn source_of<F: Frame + ?Sized>(frame: &F) -> Option<Self> {
        const SOURCE_OFFSET: usize = 6;
        frame.read(SOURCE_OFFSET).map(Self::new)
    }

    /// Returns the address as a number of 48 bits, first octet most significant.
    #[inline(always)]
    pub const fn bits(self) -> u64 {
        self.0
    }
}
