//! Counters per customer, and the cached next hop of its server.
use crate::{
    family::Family,
    rate::Bucket,
    reason::REASON_SLOTS,
    time::Ticks,
    wire::{Ipv4, Ipv6},
};

/// Counters of one customer on one CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Counters {
    /// Packets passed to servers and to sites, by direction number. GRO packets count as their segments.
    pub passed: [u64; 2],
    /// Bytes passed from the IP header on, by direction number.
    pub passed_bytes: [u64; 2],
    /// Next hop of the customer's server in IPv4. Not a counter; it shares the first cache line, which
    /// every packet touches anyway.
    pub next_hop_v4: NextHop<Ipv4>,
    /// Next hop of the customer's server in IPv6.
    pub next_hop_v6: NextHop<Ipv6>,
    #[doc(hidden)]
    pub _reserved: u32,
    /// ESP packets whose SPI is not in INBOUND_SPIS (yet); the kernel decides on them.
    pub unknown_spi: u64,
    /// Flows opened.
    pub opened: u64,
    /// Drop events not written: over budget, or the ring was full.
    pub events_lost: u64,
    /// The budget for events.
    pub events: Bucket,
    /// The budget for ARP and neighbour discovery on the LAN.
    pub neighbours: Bucket,
    /// Packets dropped, by [`crate::reason::Reason`] number.
    pub dropped: [u64; REASON_SLOTS],
}

/// A server's MAC address, cached from the kernel's neighbour table.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct NextHop<A> {
    /// The server's IP address. The customer may have changed it, or the customer id may have been
    /// reassigned.
    pub address: A,
    /// Time of the lookup; 0: never. A start time, unlike an expiry, stays unambiguous when [`Ticks`] wrap
    /// while a customer is silent on this CPU for weeks.
    pub asked: Ticks,
    /// The server's MAC address.
    pub destination: [u8; 6],
    /// The LAN interface's MAC address.
    pub source: [u8; 6],
}

impl<A: Family> NextHop<A> {
    /// How long an entry is valid.
    pub const VALIDITY: Ticks = Ticks::from_seconds(1);

    /// Returns true if the entry is for this server and still valid.
    #[inline(always)]
    pub fn is_valid_for(&self, server: A, now: Ticks) -> bool {
        self.asked.ticks != 0
            && now.ticks.wrapping_sub(self.asked.ticks) < Self::VALIDITY.ticks
            && self.address == server
    }
}

const _: () = assert!(size_of::<Counters>() == 32 + 20 + 32 + 4 + 40 + 8 * REASON_SLOTS);
