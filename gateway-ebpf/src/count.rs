//! Counters for each customer, and drop events within each customer's budget.
use gateway_common::{
    decide::Decision,
    family::Family,
    index::masked_index,
    layout::{Counters, DropEvent, Hook},
    limits::{EVENTS_BURST, EVENTS_PER_SECOND},
    reason::{REASON_SLOTS, Reason},
    tcp::Direction,
    wire::{Ipv4, Ipv6, TcpHeader, ethertype, protocol},
};

use crate::{
    access::Direct,
    maps::{COUNTERS, EVENTS},
};

/// For whom something is counted: customer and tunnel, 0 if not known. One value for the program that hands it
/// on, which can hand on five.
#[derive(Clone, Copy)]
pub struct Attribution([u32; 2]);

impl Attribution {
    /// Nobody's packet: outer frames have no tunnel yet.
    pub const NOBODY: Self = Self::of(0, 0);

    pub const fn of(customer: u32, tunnel: u32) -> Self {
        Self([customer, tunnel])
    }

    const fn customer(self) -> u32 {
        self.0[0]
    }

    pub const fn tunnel(self) -> u32 {
        self.0[1]
    }
}

/// Counts a drop, and writes an event if the budget has room for one; true if it did.
#[inline(always)]
pub fn drop<F: Direct>(frame: F, hook: Hook, whose: Attribution, reason: Reason, now_ns: u64) -> bool {
    let Some(counters) = of(whose.customer()) else { return false };
    let slot = masked_index::<REASON_SLOTS>(reason as u8);
    counters.dropped[slot] = counters.dropped[slot].wrapping_add(1);
    let told = counters.events.take(EVENT_INTERVAL_NS, EVENTS_BURST, now_ns)
        && tell(frame, hook, whose, reason, now_ns);
    counters.events_lost = counters.events_lost.wrapping_add(u64::from(!told));
    told
}

/// Counts a packet that goes on.
#[inline(always)]
pub fn passed(counters: &mut Counters, decision: &Decision, direction: Direction, segments: u32) {
    // Each of the segments that GRO merged had headers of its own.
    let headers = u64::from(segments - 1) * u64::from(decision.header_bytes);
    let slot = direction as usize & 1;
    counters.passed[slot] = counters.passed[slot].wrapping_add(u64::from(segments));
    counters.passed_bytes[slot] =
        counters.passed_bytes[slot].wrapping_add(u64::from(decision.bytes) + headers);
    if decision.opened {
        counters.opened = counters.opened.wrapping_add(1);
    }
}

/// Counts an ESP packet whose SPI no tunnel is known to own.
#[inline(always)]
pub fn unknown_spi() {
    if let Some(counters) = of(0) {
        counters.unknown_spi = counters.unknown_spi.wrapping_add(1);
    }
}

/// What is counted for a customer on this CPU; 0: for nobody.
#[inline(always)]
pub fn of(customer: u32) -> Option<&'static mut Counters> {
    // SAFETY: this CPU's own slot of a map that outlives the program, which nothing interrupts on
    // this CPU but programs that only add to it.
    COUNTERS.get_ptr_mut(customer).map(|counters| unsafe { &mut *counters })
}

/// Writes an event; false if there is no room. A function of its own, so that it takes no room on the caller's
/// stack.
#[inline(never)]
fn tell<F: Direct>(frame: F, hook: Hook, whose: Attribution, reason: Reason, time_ns: u64) -> bool {
    let Some(mut entry) = EVENTS.reserve(0) else { return false };
    // SAFETY: integers only, for which zero is a value; the kernel aligns entries to 8. Volatile, word by word:
    // LLVM would make it a loop over bytes.
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
    event.customer = whose.customer();
    event.tunnel = whose.tunnel();
    event.length = frame.length() as u32;
    event.reason = reason as u8;
    event.hook = hook as u8;
    match gateway_common::wire::ethertype_of(&frame) {
        Some(ethertype::IPV4) => describe::<Ipv4, F>(frame, event),
        Some(ethertype::IPV6) => describe::<Ipv6, F>(frame, event),
        _ => {}
    }
    entry.submit(0);
    true
}

/// What can be said of a packet, as far as its header is one.
#[inline(always)]
fn describe<A: Family, F: Direct>(frame: F, event: &mut DropEvent) {
    let Ok(header) = A::header(&frame) else { return };
    event.source = header.source.mapped();
    event.destination = header.destination.mapped();
    event.protocol = header.protocol;
    let ported = header.protocol == protocol::TCP || header.protocol == protocol::UDP;
    if !ported || header.is_later_fragment() {
        return;
    }
    if let Ok([a, b, c, d]) = header.payload::<_, [u8; 4]>(&frame, 0) {
        event.source_port = u16::from_be_bytes([a, b]);
        event.destination_port = u16::from_be_bytes([c, d]);
    }
    if header.protocol == protocol::TCP
        && let Ok(tcp) = header.payload::<_, TcpHeader>(&frame, 0)
    {
        event.tcp_flags = tcp.flags;
    }
}

/// One event of a customer in so many nanoseconds.
const EVENT_INTERVAL_NS: u64 = 1_000_000_000 / EVENTS_PER_SECOND;
