//! When strangers have to show a cookie.
use crate::rate::{Bucket, Rate};

/// The strangers' requests on one CPU that open an IKE_SA, measured.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct Demand {
    /// Empties while there are more of them than [`Demand::CALM`].
    meter: Bucket,
    /// Until then cookies are asked for, CLOCK_MONOTONIC.
    until_ns: u64,
}

impl Demand {
    /// The rate below which nobody needs a cookie. charon itself asks for cookies from 30 half-open IKE_SAs on
    /// (`cookie_threshold`).
    pub const CALM: Rate = Rate::new(20, 30);
    /// How long cookies are asked for after the rate was last exceeded. An initiator whose retransmissions were
    /// answered now with a cookie, now by charon, could not tell which of its requests charon has signed; charon
    /// waits as long (COOKIE_CALMDOWN_DELAY in receiver.c).
    pub const CALMING_DOWN_NS: u64 = 10_000_000_000;

    /// Counts a request, and returns true if it needs a cookie.
    #[inline(always)]
    pub fn count(&mut self, now_ns: u64) -> bool {
        if !self.meter.take(Self::CALM.interval_ns(), Self::CALM.burst, now_ns) {
            self.until_ns = now_ns + Self::CALMING_DOWN_NS;
        }
        self.until_ns > now_ns
    }

    /// Returns true while requests need a cookie.
    pub const fn is_high(&self, now_ns: u64) -> bool {
        self.until_ns > now_ns
    }
}
