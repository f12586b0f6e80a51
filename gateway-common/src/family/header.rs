//! The parts of an IP header that both families have.
use crate::wire::{Frame, Wire};

/// A packet's IP header, extension headers skipped.
#[derive(Clone, Copy, Debug)]
pub struct Header<A> {
    /// Source address.
    pub source: A,
    /// Destination address.
    pub destination: A,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// See [`protocol`](crate::wire::protocol).
    pub protocol: u8,
    /// The packet is whole, or the fragment's place in it.
    pub fragment: Fragment,
    /// Offset of the transport header in the frame, in bytes.
    pub transport: u8,
    /// Bytes from the transport header to the packet's end.
    pub payload_bytes: u16,
}

impl<A> Header<A> {
    /// Reads a header at this offset of the payload. Fails beyond the end that the IP header gives: the
    /// rest of the frame may be padding.
    #[inline(always)]
    pub fn payload<F: Frame + ?Sized, T: Wire>(&self, frame: &F, offset: usize) -> Result<T, Fault> {
        if (self.payload_bytes as usize) < offset + size_of::<T>() {
            return Err(Fault::Malformed);
        }
        frame.read(self.transport as usize + offset).ok_or(Fault::Malformed)
    }

    /// Returns true for the first or a later fragment.
    #[inline(always)]
    pub fn is_fragment(&self) -> bool {
        self.fragment != Fragment::No
    }

    /// Returns true for a later fragment.
    #[inline(always)]
    pub fn is_later_fragment(&self) -> bool {
        self.fragment == Fragment::Later
    }
}

/// A packet's place in a fragmented packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Fragment {
    /// The packet is whole.
    No = 0,
    /// The first fragment: begins with the transport header.
    First = 1,
    /// A later fragment: has no transport header.
    Later = 2,
}

/// The IP header that an ICMP error quotes.
#[derive(Clone, Copy, Debug)]
pub struct Quoted<A> {
    /// Source address.
    pub source: A,
    /// Destination address.
    pub destination: A,
    /// See [`protocol`](crate::wire::protocol).
    pub protocol: u8,
}

/// A fault in an IP header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The packet is longer than the frame, or the header contradicts itself.
    Malformed,
    /// The header has IPv4 options, or IPv6 extension headers other than one fragment header.
    Options,
}

/// Type and code of an ICMP message.
pub type IcmpHead = [u8; 2];

impl Fragment {
    #[inline(always)]
    pub(super) const fn new(later: bool, more: bool) -> Self {
        match (later, more) {
            (true, _) => Self::Later,
            (false, true) => Self::First,
            (false, false) => Self::No,
        }
    }
}
