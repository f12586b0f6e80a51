//! Address prefixes.
use crate::family::Family;

/// An address prefix.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct Prefix<A> {
    /// Network address, host bits 0.
    pub network: A,
    /// Netmask.
    pub mask: A,
}

impl<A: Family> Prefix<A> {
    /// Builds a prefix of this many bits, capped at the bits of an address. Clears host bits.
    pub fn new(address: A, bits: u8) -> Self {
        let mask = A::netmask(bits);
        Self { network: address.masked(mask), mask }
    }

    /// Returns true if the address is in the prefix.
    #[inline(always)]
    pub fn contains(&self, address: A) -> bool {
        address.masked(self.mask) == self.network
    }
}
