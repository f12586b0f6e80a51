//! Charges outer packets to budgets, see `gateway_common::outer::Budgets`.
use aya_ebpf::bindings::BPF_NOEXIST;
use gateway_common::{
    outer::{self, Arrival, Budgets, Class, Outer, PeerBudgets},
    reason::Reason,
    wire::Ipv6,
};

use crate::{
    clock::now_ns,
    count,
    lock::with_lock,
    maps::{INBOUND_SPIS, PEERS, SOURCES, STRANGERS},
};

/// Charges an outer packet to its source. Returns the reason to drop it if that budget is empty.
#[inline(always)]
pub fn charge(arrival: &Arrival) -> Result<(), Reason> {
    let known = match arrival.outer {
        // SAFETY: the element is not dereferenced.
        Outer::Esp(spi) => unsafe { INBOUND_SPIS.get(&spi) }.is_some(),
        _ => true,
    };
    if !known {
        count::unknown_spi();
    }
    let Some(class) = Class::of(arrival.outer, known) else { return Ok(()) };
    let now_ns = now_ns();
    let within_budget = match PEERS.get_ptr_mut(&arrival.source) {
        Some(peer) => charge_peer(peer, class, now_ns),
        None => charge_stranger(&arrival.subscriber, class, now_ns),
    };
    match (within_budget, class) {
        (true, _) => Ok(()),
        (false, Class::Ike) => Err(Reason::IkeOverBudget),
        (false, Class::UnknownSpi) => Err(Reason::UnknownSpiOverBudget),
        (false, Class::Fragment) => Err(Reason::FragmentsOverBudget),
        (false, Class::Icmp) => Err(Reason::IcmpOverBudget),
    }
}

#[inline(always)]
fn charge_peer(peer: *mut PeerBudgets, class: Class, now_ns: u64) -> bool {
    // SAFETY: a live map value, and its lock.
    unsafe {
        with_lock(peer, &raw mut (*peer).lock, |peer: &mut PeerBudgets| {
            peer.budgets.take(class, class.peer_rate(), now_ns)
        })
    }
}

#[inline(always)]
fn charge_stranger(subscriber: &Ipv6, class: Class, now_ns: u64) -> bool {
    let Some(shared) = STRANGERS.get_ptr_mut(0) else { return false };
    let own = || {
        if SOURCES.get_ptr_mut(subscriber).is_none() {
            let _ = SOURCES.insert(subscriber, &Budgets::default(), u64::from(BPF_NOEXIST));
        }
        // SAFETY: a live map value. If another CPU changes it at the same time, one packet more passes
        // here; the budget that all strangers share is this CPU's own.
        SOURCES.get_ptr_mut(subscriber).map(|budgets| unsafe { &mut *budgets })
    };
    // SAFETY: this CPU's own slot.
    outer::charge_stranger(unsafe { &mut *shared }, own, class, now_ns)
}
