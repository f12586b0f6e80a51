//! Time as the maps hold it.

/// A time on CLOCK_MONOTONIC, or a time span, in ticks of 2^20 ns (1.05 ms). Wraps after 52 days.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
#[repr(C)]
pub struct Ticks {
    /// Units of 2^20 ns.
    pub ticks: u32,
}

impl Ticks {
    /// Converts nanoseconds, rounding down.
    #[inline(always)]
    pub const fn from_ns(ns: u64) -> Self {
        Self { ticks: (ns >> 20) as u32 }
    }

    /// Converts seconds, rounding down.
    pub const fn from_seconds(seconds: u32) -> Self {
        Self::from_ns(seconds as u64 * 1_000_000_000)
    }

    /// Returns the time this span after `self`.
    #[inline(always)]
    pub const fn plus(self, span: Self) -> Self {
        Self { ticks: self.ticks.wrapping_add(span.ticks) }
    }

    /// Returns true if this time has come. Correct for 26 days before and after.
    #[inline(always)]
    pub const fn has_come(self, now: Self) -> bool {
        now.ticks.wrapping_sub(self.ticks) as i32 >= 0
    }

    /// Returns the span from `now` to this time, 0 if it has come.
    #[inline(always)]
    pub const fn since(self, now: Self) -> Self {
        if self.has_come(now) {
            Self { ticks: 0 }
        } else {
            Self { ticks: self.ticks.wrapping_sub(now.ticks) }
        }
    }

    /// Converts to nanoseconds.
    pub const fn as_ns(self) -> u64 {
        (self.ticks as u64) << 20
    }
}
