//! The numbers that identify tunnels and customers. Zero identifies nothing, in every map.
use core::num::NonZeroU32;

/// Identifies a tunnel everywhere: its reqid, its XFRM mark, its map key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TunnelId(NonZeroU32);

/// Identifies a customer in the maps.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CustomerId(NonZeroU32);

macro_rules! id {
    ($name:ident) => {
        impl $name {
            /// Returns the id of this number, `None` for 0.
            #[inline(always)]
            pub const fn new(number: u32) -> Option<Self> {
                match NonZeroU32::new(number) {
                    Some(number) => Some(Self(number)),
                    None => None,
                }
            }

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
id!(TunnelId);
id!(CustomerId);
