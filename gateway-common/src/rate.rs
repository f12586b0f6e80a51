//! Rate limits and the buckets that enforce them.

/// A rate limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate {
    /// Sustained rate per second.
    pub per_second: u32,
    /// Largest burst.
    pub burst: u32,
}

impl Rate {
    pub(crate) const fn new(per_second: u32, burst: u32) -> Self {
        Self { per_second, burst }
    }

    /// Returns the nanoseconds between two events at the sustained rate.
    #[inline(always)]
    pub const fn interval_ns(self) -> u64 {
        1_000_000_000 / self.per_second as u64
    }
}

/// A rate limiter whose state is one number: the generic cell rate algorithm (ITU-T I.371).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct Bucket {
    /// When the bucket is full again, CLOCK_MONOTONIC.
    pub full_at_ns: u64,
}

impl Bucket {
    /// Takes one token and returns true, or returns false if none is left. One token arrives every
    /// `interval_ns`; the bucket holds `burst` tokens.
    #[inline(always)]
    pub fn take(&mut self, interval_ns: u64, burst: u32, now_ns: u64) -> bool {
        let arrival = if self.full_at_ns > now_ns { self.full_at_ns } else { now_ns };
        if arrival - now_ns > interval_ns * (burst as u64).saturating_sub(1) {
            return false;
        }
        self.full_at_ns = arrival + interval_ns;
        true
    }

    /// Returns true if [`Self::take`] would find no token.
    #[inline(always)]
    pub fn is_spent(self, interval_ns: u64, burst: u32, now_ns: u64) -> bool {
        let mut copy = self;
        !copy.take(interval_ns, burst, now_ns)
    }
}
