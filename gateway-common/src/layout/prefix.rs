//! A prefix of addresses.
use crate::family::Family;

/// A prefix.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct Prefix<A> {
    /// Network address, host bits 0.
    pub network: A,
    /// Netmask.
    pub mask: A,
}

impl<A: Family> Prefix<A> {
    /// A prefix of this many bits, at most as many as an address has; host bits are cleared.
    pub fn new(address: A, bits: u8) -> Self {
        let mask = A::netmask(bits);
        Self { network: address.masked(mask), mask }
    }

    /// True if the address lies in it.
    #[inline(always)]
    pub fn contains(&self, address: A) -> bool {
        address.masked(self.mask) == self.network
    }
}
