//! The numbers that name customers and tunnels everywhere.
use core::fmt;
use core::num::NonZeroU32;

/// Names a tunnel: its reqid, its XFRM mark and its map key are all this number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct TunnelId(NonZeroU32);

/// Names a customer in maps and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct CustomerId(NonZeroU32);

impl TunnelId {
    /// `None` for 0, which no tunnel has: it is the mark of unmarked packets.
    pub const fn new(id: u32) -> Option<Self> {
        match NonZeroU32::new(id) {
            Some(id) => Some(Self(id)),
            None => None,
        }
    }

    /// The number, in host byte order.
    pub const fn get(self) -> u32 {
        self.0.get()
    }
}

impl CustomerId {
    /// `None` for 0, which no customer has.
    pub const fn new(id: u32) -> Option<Self> {
        match NonZeroU32::new(id) {
            Some(id) => Some(Self(id)),
            None => None,
        }
    }

    /// The number, in host byte order.
    pub const fn get(self) -> u32 {
        self.0.get()
    }
}

impl fmt::Display for TunnelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for CustomerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
