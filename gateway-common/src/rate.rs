//! Rates, and the buckets that keep to them.

/// A rate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate {
    /// So many in a second...
    pub per_second: u32,
    /// ...and so many at once.
    pub burst: u32,
}

impl Rate {
    pub(crate) const fn new(per_second: u32, burst: u32) -> Self {
        Self { per_second, burst }
    }

    /// Nanoseconds between two of them.
    #[inline(always)]
    pub const fn interval_ns(self) -> u64 {
        1_000_000_000 / self.per_second as u64
    }
}

/// A rate that is kept to, in one number: the generic cell rate algorithm (ITU-T I.371).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct Bucket {
    /// When all of it is there again, CLOCK_MONOTONIC.
    pub whole_at_ns: u64,
}

impl Bucket {
    /// Takes one, if there is one: one comes in `interval_ns`, `burst` at once.
    #[inline(always)]
    pub fn take(&mut self, interval_ns: u64, burst: u32, now_ns: u64) -> bool {
        let arrival = if self.whole_at_ns > now_ns { self.whole_at_ns } else { now_ns };
        if arrival - now_ns > interval_ns * (burst as u64).saturating_sub(1) {
            return false;
        }
        self.whole_at_ns = arrival + interval_ns;
        true
    }
}
