//! What one round of the flood ended in.
use std::{collections::BTreeMap, time::Duration};

use gateway::kernel::maps::Counted;
use gateway_common::reason::Reason;

use crate::{firewall::Held, party::Party, peer, victim, watch::Seen};

/// What one round of the flood ended in.
pub struct Outcome {
    /// How long the flood lasted.
    pub lasted: Duration,
    /// Frames that the attacker's site put on the wire.
    pub site_frames: u64,
    /// Frames that the internet put on the wire.
    pub internet_frames: u64,
    /// Each victim's connections.
    pub victims: BTreeMap<Party, victim::Tally>,
    /// IKE of known peers.
    pub ike: peer::Tally,
    /// What was seen meanwhile.
    pub seen: Seen,
    /// Counters of the customers, and of nobody (0), at the end.
    pub counted: BTreeMap<u32, Counted>,
    /// What each customer had once half-open flows had had the time to end, if that was waited for:
    /// counted in the tables, and as the programs count.
    pub held: Option<BTreeMap<Party, [Held; 2]>>,
}

impl Outcome {
    /// Packets of these customers that were dropped.
    pub fn dropped(&self, customers: &[u32]) -> BTreeMap<Reason, u64> {
        let mut sum = BTreeMap::new();
        for (reason, count) in customers.iter().flat_map(|id| &self.counted[id].dropped) {
            *sum.entry(*reason).or_default() += count;
        }
        sum
    }
}
