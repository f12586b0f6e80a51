//! Counters for each customer, and drop events within each customer's budget.
use core::intrinsics::{AtomicOrdering, atomic_xadd};

use aya_ebpf::bindings::BPF_NOEXIST;
use gateway_common::{
    decide::Decision,
    family::Family,
    index::slot_of,
    layout::{Counters, DropEvent, Drops, Hook, Reports, Unattributed},
    limits::{EVENTS_BURST, EVENTS_PER_SECOND},
    reason::Reason,
    tcp::Direction,
    wire::{Ipv4, Ipv6, NETWORK_OFFSET, TcpHeader, ethertype, protocol},
};

use crate::{
    access::DirectPacket,
    maps::{COUNTERS, DROPS, EVENTS, STRANGERS, UNATTRIBUTED},
};

/// The customer and tunnel that a packet is counted for, 0 if not known. One value, because an eBPF function
/// takes at most five arguments.
#[derive(Clone, Copy)]
pub struct Attribution([u32; 2]);

impl Attribution {
    /// For outer frames, which have no tunnel yet.
    pub const NONE: Self = Self::new(0, 0);

    pub const fn new(customer: u32, tunnel: u32) -> Self {
        Self([customer, tunnel])
    }

    const fn customer(self) -> u32 {
        self.0[0]
    }

    pub const fn tunnel(self) -> u32 {
        self.0[1]
    }
}

/// Counts a drop, and writes an event if the budget allows one. Returns true if it wrote an event.
#[inline(always)]
pub fn drop<P: DirectPacket>(
    packet: P,
    hook: Hook,
    attribution: Attribution,
    reason: Reason,
    now_ns: u64,
) -> bool {
    let Some(reports) = count_drop(attribution.customer(), reason) else { return false };
    let reported = reports.budget.take(EVENT_INTERVAL_NS, EVENTS_BURST, now_ns)
        && write_event(packet, hook, attribution, reason, now_ns);
    reports.lost = reports.lost.wrapping_add(u64::from(!reported));
    reported
}

/// Counts a drop, and returns the drop events of whom it is counted for.
#[inline(always)]
fn count_drop(customer: u32, reason: Reason) -> Option<&'static mut Reports> {
    if customer != 0
        && let Some(counters) = counters(customer)
    {
        let ended = counters.count_drop(reason);
        if ended.packets != 0 {
            if !keep_run(customer, ended.reason, ended.packets) {
                count_unattributed(ended.reason, ended.packets);
                counters.unattributed = counters.unattributed.wrapping_add(ended.packets);
            }
            counters.run_moved();
        }
        return Some(&mut counters.reports);
    }
    count_unattributed(reason as u8, 1).map(|counters| &mut counters.reports)
}

/// Counts drops that belong to no known customer.
#[inline(always)]
fn count_unattributed(reason: u8, packets: u64) -> Option<&'static mut Unattributed> {
    let counters = unattributed()?;
    let dropped = slot_of(&mut counters.dropped, reason)?;
    *dropped = dropped.wrapping_add(packets);
    Some(counters)
}

/// Adds a run that has ended to its customer's row of DROPS. Returns false if there is no memory for the row; the
/// table itself has room for every customer's. Out of line: few drops end a run.
#[inline(never)]
fn keep_run(customer: u32, reason: u8, packets: u64) -> bool {
    static NONE: Drops = Drops::NONE;
    if DROPS.get_ptr_mut(&customer).is_none() {
        // Another CPU may be faster, which is as good.
        let _ = DROPS.insert(&customer, &NONE, u64::from(BPF_NOEXIST));
    }
    let Some(row) = DROPS.get_ptr_mut(&customer) else { return false };
    // SAFETY: a live map value, which programs only add to.
    let Some(slot) = slot_of(unsafe { &mut (*row).packets }, reason) else { return false };
    // SAFETY: an aligned number in a live map value.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(slot, packets) };
    true
}

/// Counts a packet that passes.
#[inline(always)]
pub fn passed(counters: &mut Counters, decision: &Decision, direction: Direction, segments: u32) {
    // Every segment that GRO merged had its own headers.
    let headers = u64::from(segments - 1) * u64::from(decision.header_bytes);
    let slot = direction as usize & 1;
    counters.passed[slot] = counters.passed[slot].wrapping_add(u64::from(segments));
    counters.passed_bytes[slot] =
        counters.passed_bytes[slot].wrapping_add(u64::from(decision.bytes) + headers);
    if decision.opened {
        counters.opened = counters.opened.wrapping_add(1);
    }
}

/// Counts an ESP packet whose SPI belongs to no known tunnel.
#[inline(always)]
pub fn unknown_spi() {
    if let Some(counters) = unattributed() {
        counters.unknown_spi = counters.unknown_spi.wrapping_add(1);
    }
}

/// Counts a cookie that charon asks a stranger for.
#[inline(always)]
pub fn charons_cookie() {
    if let Some(strangers) = STRANGERS.get_ptr_mut(0) {
        // SAFETY: this CPU's own slot.
        let asked = unsafe { &mut (*strangers).asked_by_charon };
        *asked = asked.wrapping_add(1);
    }
}

/// Returns this CPU's counters of packets that belong to no known customer.
#[inline(always)]
pub fn unattributed() -> Option<&'static mut Unattributed> {
    // SAFETY: as in `counters`.
    UNATTRIBUTED.get_ptr_mut(0).map(|counters| unsafe { &mut *counters })
}

/// Returns a customer's counters on this CPU.
#[inline(always)]
pub fn counters(customer: u32) -> Option<&'static mut Counters> {
    // SAFETY: this CPU's own slot of a map that outlives the program. Only programs that add to the
    // counters can interrupt this one on its CPU.
    COUNTERS.get_ptr_mut(customer).map(|counters| unsafe { &mut *counters })
}

/// Writes an event; returns false if the ring has no room. Out of line: keeps its locals off the caller's
/// 512-byte stack.
#[inline(never)]
fn write_event<P: DirectPacket>(
    packet: P,
    hook: Hook,
    attribution: Attribution,
    reason: Reason,
    time_ns: u64,
) -> bool {
    let Some(mut entry) = EVENTS.reserve(0) else { return false };
    // SAFETY: integers only, for which zero is valid; the kernel aligns entries to 8 bytes. Volatile stores
    // of words: LLVM would turn plain ones into a loop over bytes.
    let event = unsafe {
        let words = entry.as_mut_ptr().cast::<u64>();
        let mut word = 0;
        while word < size_of::<DropEvent>() / 8 {
            words.add(word).write_volatile(0);
            word += 1;
        }
        entry.assume_init_mut()
    };
    event.time_ns = time_ns;
    event.customer = attribution.customer();
    event.tunnel = attribution.tunnel();
    event.length = packet.length() as u32;
    event.reason = reason as u8;
    event.hook = hook as u8;
    match gateway_common::wire::ethertype_of(&packet) {
        Some(ethertype::IPV4) => describe::<Ipv4, P>(packet, event),
        Some(ethertype::IPV6) => describe::<Ipv6, P>(packet, event),
        Some(ethertype::ARP) => describe_arp(packet, event),
        _ => {}
    }
    entry.submit(0);
    true
}

/// Fills in addresses, ports and flags as far as the packet's headers are valid.
#[inline(always)]
fn describe<A: Family, P: DirectPacket>(packet: P, event: &mut DropEvent) {
    let Ok(header) = A::header(&packet) else { return };
    event.source = header.source.mapped();
    event.destination = header.destination.mapped();
    event.protocol = header.protocol;
    let ported = header.protocol == protocol::TCP || header.protocol == protocol::UDP;
    if !ported || header.is_later_fragment() {
        return;
    }
    if let Ok([a, b, c, d]) = header.payload::<_, [u8; 4]>(&packet, 0) {
        event.source_port = u16::from_be_bytes([a, b]);
        event.destination_port = u16::from_be_bytes([c, d]);
    }
    if header.protocol == protocol::TCP
        && let Ok(tcp) = header.payload::<_, TcpHeader>(&packet, 0)
    {
        event.tcp_flags = tcp.flags;
    }
}

/// Fills in the addresses of an ARP packet: who claims to ask or answer, and whom (RFC 826).
#[inline(always)]
fn describe_arp<P: DirectPacket>(packet: P, event: &mut DropEvent) {
    const SENDER_OFFSET: usize = NETWORK_OFFSET + 14;
    const TARGET_OFFSET: usize = NETWORK_OFFSET + 24;
    let address = |offset| packet.read(offset).map(|octets| Ipv4 { octets }.mapped());
    if let (Some(sender), Some(target)) = (address(SENDER_OFFSET), address(TARGET_OFFSET)) {
        (event.source, event.destination) = (sender, target);
    }
}

/// Nanoseconds in which a customer's budget gains one event.
const EVENT_INTERVAL_NS: u64 = 1_000_000_000 / EVENTS_PER_SECOND;
