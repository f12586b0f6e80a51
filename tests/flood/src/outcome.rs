//! The outcome of a flood, for the judge.
use std::{collections::BTreeMap, time::Duration};

use gateway::kernel::{cookies, counted::Counted};
use gateway_common::reason::Reason;

use crate::{firewall::Held, new_site, party::Party, peer, victim, watch::Seen};

/// The outcome of one round.
pub struct Outcome {
    /// Duration of the flood.
    pub lasted: Duration,
    /// Frames sent by the attacker's site.
    pub site_frames: u64,
    /// Frames sent by the internet.
    pub internet_frames: u64,
    /// Each victim's connections.
    pub victims: BTreeMap<Party, victim::Tally>,
    /// IKE packets.
    pub ike: peer::Tally,
    /// New sites.
    pub new_sites: new_site::Tally,
    /// IKE cookies.
    pub cookies: cookies::Counts,
    /// Observations during the round.
    pub seen: Seen,
    /// Final counters of the customers, and of packets without a customer (0).
    pub counted: BTreeMap<u32, Counted>,
    /// Each customer's flows after the half-open ones expired, if the round waited for that: as counted in
    /// the tables, and as counted by the programs.
    pub held: Option<BTreeMap<Party, [Held; 2]>>,
}

impl Outcome {
    /// Returns the dropped packets of the given customers by reason.
    pub fn dropped(&self, customers: &[u32]) -> BTreeMap<Reason, u64> {
        let mut sum = BTreeMap::new();
        for (reason, count) in customers.iter().flat_map(|id| &self.counted[id].dropped) {
            *sum.entry(*reason).or_default() += count;
        }
        sum
    }
}
