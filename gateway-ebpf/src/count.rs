//! Counters for each customer, and drop events within each customer's budget.
use gateway_common::{
    decide::Decision,
    layout::{Counters, DropEvent, Hook},
    limits::{EVENTS_BURST, EVENTS_PER_SECOND},
    reason::{REASON_SLOTS, Reason},
    slot::slot,
    tcp::Direction,
    wire::{Frame, Ipv4, Ipv4Header, NETWORK_OFFSET, TRANSPORT_OFFSET, TcpHeader, ethertype, protocol},
};

use crate::{
    access::Direct,
    maps::{COUNTERS, EVENTS},
    tables::now_ns,
};

/// For whom something is counted; 0: not known.
#[derive(Clone, Copy)]
pub struct Attribution {
    pub customer: u32,
    pub tunnel: u32,
}

/// Counts a drop, and writes an event if the budget has room for one.
#[inline(always)]
pub fn drop(frame: &Direct, hook: Hook, whose: Attribution, reason: Reason) {
    let Some(counters) = counters(whose.customer) else { return };
    let slot = slot::<REASON_SLOTS>(reason as u8);
    counters.dropped[slot] = counters.dropped[slot].wrapping_add(1);
    let now = now_ns();
    if !within_budget(counters, now) || !write_event(frame, hook, whose, reason, now) {
        counters.events_lost = counters.events_lost.wrapping_add(1);
    }
}

/// Counts a packet that goes on.
#[inline(always)]
pub fn passed(decision: &Decision, direction: Direction) {
    if let Some(counters) = counters(decision.customer) {
        let slot = direction as usize & 1;
        counters.passed[slot] = counters.passed[slot].wrapping_add(1);
        counters.passed_bytes[slot] = counters.passed_bytes[slot].wrapping_add(decision.bytes);
        counters.opened = counters.opened.wrapping_add(u64::from(decision.opened));
    }
}

/// Counts an ESP packet whose SPI no tunnel is known to own.
#[inline(always)]
pub fn unknown_spi() {
    if let Some(counters) = counters(0) {
        counters.unknown_spi = counters.unknown_spi.wrapping_add(1);
    }
}

#[inline(always)]
fn counters(customer: u32) -> Option<&'static mut Counters> {
    // SAFETY: this CPU's own slot of a map that outlives the program, which nothing interrupts on
    // this CPU but programs that only add to it.
    COUNTERS.get_ptr_mut(customer).map(|counters| unsafe { &mut *counters })
}

/// Generic cell rate algorithm (ITU-T I.371): one number a customer and CPU, and no division.
#[inline(always)]
fn within_budget(counters: &mut Counters, now: u64) -> bool {
    const INTERVAL_NS: u64 = 1_000_000_000 / EVENTS_PER_SECOND;
    const TOLERANCE_NS: u64 = INTERVAL_NS * (EVENTS_BURST - 1);
    let arrival = if counters.events_budget_ns > now { counters.events_budget_ns } else { now };
    if arrival > now + TOLERANCE_NS {
        return false;
    }
    counters.events_budget_ns = arrival + INTERVAL_NS;
    true
}

#[inline(always)]
fn write_event(frame: &Direct, hook: Hook, whose: Attribution, reason: Reason, time_ns: u64) -> bool {
    let mut event = DropEvent {
        time_ns,
        customer: whose.customer,
        tunnel: whose.tunnel,
        source: Ipv4 { octets: [0; 4] },
        destination: Ipv4 { octets: [0; 4] },
        source_port: 0,
        destination_port: 0,
        length: frame.length() as u32,
        protocol: 0,
        reason: reason as u8,
        hook: hook as u8,
        tcp_flags: 0,
        _reserved: 0,
    };
    if gateway_common::packet::ethertype_of(frame) == Some(ethertype::IPV4)
        && let Some(header) = frame.read::<Ipv4Header>(NETWORK_OFFSET)
    {
        event.source = header.source;
        event.destination = header.destination;
        event.protocol = header.protocol;
        describe_transport(frame, &header, &mut event);
    }
    EVENTS.output(&event, 0).is_ok()
}

#[inline(always)]
fn describe_transport(frame: &Direct, header: &Ipv4Header, event: &mut DropEvent) {
    let ported = header.protocol == protocol::TCP || header.protocol == protocol::UDP;
    if !ported || header.version_length != 0x45 || header.is_later_fragment() {
        return;
    }
    if let Some([source, destination]) =
        frame.read::<[u8; 4]>(TRANSPORT_OFFSET).map(|b| [[b[0], b[1]], [b[2], b[3]]])
    {
        event.source_port = u16::from_be_bytes(source);
        event.destination_port = u16::from_be_bytes(destination);
    }
    if header.protocol == protocol::TCP
        && let Some(tcp) = frame.read::<TcpHeader>(TRANSPORT_OFFSET)
    {
        event.tcp_flags = tcp.flags;
    }
}
