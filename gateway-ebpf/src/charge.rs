//! Charges outer packets to budgets, see `gateway_common::outer::Budgets`.
use aya_ebpf::bindings::BPF_NOEXIST;
use gateway_common::{
    outer::{self, Arrival, Budgets, Class, Outer, PeerBudgets, cookie::Fate},
    reason::Reason,
    wire::Ipv6,
};

use crate::{
    access::Xdp,
    clock::now_ns,
    cookie, count,
    lock::with_lock,
    maps::{INBOUND_SPIS, PEERS, SOURCES, STRANGERS},
};

/// Charges an outer packet to its source, where native XDP is missing. Returns the reason to drop it if that
/// budget is empty.
#[inline(always)]
pub fn charge(arrival: &Arrival) -> Result<(), Reason> {
    let Some(class) = class_of(arrival) else { return Ok(()) };
    let now_ns = now_ns();
    let within_budget = match PEERS.get_ptr_mut(&arrival.source) {
        Some(peer) => charge_peer(peer, class, now_ns),
        None => charge_stranger(&arrival.subscriber, class, now_ns),
    };
    within(within_budget, class)
}

/// Charges an outer packet to its source, at the network card. Returns true if the packet is to continue, false
/// if it now is the answer to its sender, or the reason to drop it.
#[inline(always)]
pub fn charge_at_card(packet: Xdp, arrival: &Arrival) -> Result<bool, Reason> {
    let Some(class) = class_of(arrival) else { return Ok(true) };
    let now_ns = now_ns();
    let within_budget = match PEERS.get_ptr_mut(&arrival.source) {
        Some(peer) => charge_peer(peer, class, now_ns),
        None => match fate(packet, arrival, class, now_ns) {
            Fate::Shared => charge_stranger(&arrival.subscriber, class, now_ns),
            Fate::Own => true,
            Fate::OwnSpent => false,
            Fate::Ask => return Ok(false),
            Fate::Refuse => return Err(Reason::IkeInitUnanswerable),
        },
    };
    within(within_budget, class).map(|()| true)
}

/// Returns the fate of a stranger's packet. Proof of an address counts for IKE and its fragments only.
#[inline(always)]
fn fate(packet: Xdp, arrival: &Arrival, class: Class, now_ns: u64) -> Fate {
    match class {
        Class::Ike | Class::Fragment => cookie::fate(packet, &arrival.subscriber, class, now_ns),
        Class::UnknownSpi | Class::Icmp => Fate::Shared,
    }
}

/// Returns the class that an outer packet is charged to, if any, and counts unknown SPIs.
#[inline(always)]
fn class_of(arrival: &Arrival) -> Option<Class> {
    let known = match arrival.outer {
        // SAFETY: the element is not dereferenced.
        Outer::Esp(spi) => unsafe { INBOUND_SPIS.get(&spi) }.is_some(),
        _ => true,
    };
    if !known {
        count::unknown_spi();
    }
    Class::of(arrival.outer, known)
}

#[inline(always)]
fn within(budget: bool, class: Class) -> Result<(), Reason> {
    match (budget, class) {
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
    outer::charge_stranger(unsafe { &mut (*shared).shared }, own, class, now_ns)
}
