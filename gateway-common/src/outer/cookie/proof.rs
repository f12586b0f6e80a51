//! Sources that have shown a valid cookie.
use crate::{outer::budget::Class, rate::Bucket};

/// The own budgets of a source that receives what is sent to its address: it is charged to no other. No packet
/// without a valid cookie adds one, so spoofed sources cannot evict it.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct Proof {
    ike: Bucket,
    fragments: Bucket,
    /// Until then the proof counts, CLOCK_MONOTONIC. Afterwards somebody else may have the address.
    until_ns: u64,
}

impl Proof {
    /// How long a proof counts: IKE_AUTH has to follow the cookie within charon's `half_open_timeout` of 30 s, and
    /// strongSwan gives up retransmissions after 165 s.
    pub const VALIDITY_NS: u64 = 180_000_000_000;

    /// Renews the proof.
    #[inline(always)]
    pub fn renew(&mut self, now_ns: u64) {
        self.until_ns = now_ns + Self::VALIDITY_NS;
    }

    /// Returns true if the proof counts.
    #[inline(always)]
    pub fn is_valid(&self, now_ns: u64) -> bool {
        self.until_ns > now_ns
    }

    /// Takes a token of a class and returns true, or returns false if none is left. Has no budget but for IKE and
    /// fragments.
    #[inline(always)]
    pub fn take(&mut self, class: Class, now_ns: u64) -> bool {
        let rate = class.stranger_rate();
        match class {
            Class::Ike => self.ike.take(rate.interval_ns(), rate.burst, now_ns),
            Class::Fragment => self.fragments.take(rate.interval_ns(), rate.burst, now_ns),
            Class::UnknownSpi | Class::Icmp => false,
        }
    }
}

const _: () = assert!(size_of::<Proof>() == 24);
