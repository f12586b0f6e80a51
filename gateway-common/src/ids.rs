//! The numbers that identify sites, customers and CHILD_SAs. Zero identifies nothing, in every map.
use core::num::NonZeroU32;

use crate::layout::program::APPROVED_MARK;

/// Identifies a site in the maps: a stable number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TunnelId(NonZeroU32);

/// Identifies a customer in the maps.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CustomerId(NonZeroU32);

/// The reqid of a CHILD_SA: small, and recycled by charon. Says where the binding is, not whether it still holds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Reqid(NonZeroU32);

/// The XFRM mark of a CHILD_SA and of the packets in it, never used twice by a charon process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Mark(NonZeroU32);

macro_rules! number {
    ($name:ident) => {
        impl $name {
            /// Returns the number, never 0.
            #[inline(always)]
            pub const fn get(self) -> u32 {
                self.0.get()
            }
        }

        impl core::fmt::Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}
number!(TunnelId);
number!(CustomerId);
number!(Reqid);
number!(Mark);

macro_rules! id {
    ($($name:ident),+) => {$(
        impl $name {
            /// Returns the id of this number, `None` for 0.
            #[inline(always)]
            pub const fn new(number: u32) -> Option<Self> {
                match NonZeroU32::new(number) {
                    Some(number) => Some(Self(number)),
                    None => None,
                }
            }
        }
    )+};
}
id!(TunnelId, CustomerId, Reqid);

impl Mark {
    /// Returns the mark of this number, `None` for 0 and for a number with the bit that only `internet_ingress`
    /// may set ([`APPROVED_MARK`]).
    pub const fn new(number: u32) -> Option<Self> {
        match NonZeroU32::new(number) {
            Some(mark) if number & APPROVED_MARK == 0 => Some(Self(mark)),
            _ => None,
        }
    }
}
