//! Charges ARP and neighbour discovery on the LAN to their senders, see `gateway_common::outer::charge_neighbour`.
use gateway_common::{
    outer::{self, neighbour_buckets},
    reason::Reason,
    wire::Mac,
};

use crate::{
    access::Skb,
    count,
    maps::{NEIGHBOUR_KEY, NEIGHBOURS},
};

/// Charges a frame to its source MAC address. Returns the reason to drop it if that budget is spent.
#[inline(always)]
pub fn charge(skb: &Skb, anonymous: bool, now_ns: u64) -> Result<(), Reason> {
    let Some(sender) = Mac::source_of(skb) else { return Err(Reason::InnerMalformed) };
    let Some(counters) = count::unattributed() else { return Err(Reason::NotConfigured) };
    let [first, second] = neighbour_buckets(sender, NEIGHBOUR_KEY.load());
    // SAFETY: this CPU's own slots of a map that outlives the program, and two different ones.
    let bucket = |number| NEIGHBOURS.get_ptr_mut(number).map(|bucket| unsafe { &mut *bucket });
    let (Some(first), Some(second)) = (bucket(first), bucket(second)) else {
        return Err(Reason::NotConfigured);
    };
    match outer::charge_neighbour([first, second], &mut counters.neighbours, anonymous, now_ns) {
        true => Ok(()),
        false => Err(Reason::NeighbourOverBudget),
    }
}
