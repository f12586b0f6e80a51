//! TCP sequence numbers.
use core::ops::{Add, Sub};

/// A TCP sequence number, host byte order. Arithmetic wraps. The order of sequence numbers is not transitive
/// (RFC 9293 section 3.4), hence [`Seq::before`] and [`Seq::after`] and no `PartialOrd`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
#[repr(transparent)]
pub struct Seq(pub u32);

impl Seq {
    /// Returns true if `self` comes before `other` in sequence space (RFC 9293 section 3.4).
    #[inline(always)]
    pub const fn before(self, other: Self) -> bool {
        (self.0.wrapping_sub(other.0) as i32) < 0
    }

    /// Returns true if `self` comes after `other` in sequence space. Two numbers 2^31 apart come both
    /// before and after each other.
    #[inline(always)]
    pub const fn after(self, other: Self) -> bool {
        other.before(self)
    }
}

impl Add<u32> for Seq {
    type Output = Self;

    #[inline(always)]
    fn add(self, count: u32) -> Self {
        Self(self.0.wrapping_add(count))
    }
}

impl Sub<u32> for Seq {
    type Output = Self;

    #[inline(always)]
    fn sub(self, count: u32) -> Self {
        Self(self.0.wrapping_sub(count))
    }
}

/// The distance from `other` to `self`.
impl Sub for Seq {
    type Output = u32;

    #[inline(always)]
    fn sub(self, other: Self) -> u32 {
        self.0.wrapping_sub(other.0)
    }
}
