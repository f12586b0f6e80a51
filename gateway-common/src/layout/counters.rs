//! What is counted.
use crate::{
    family::Family,
    rate::Bucket,
    reason::REASON_SLOTS,
    time::Ticks,
    wire::{Ipv4, Ipv6},
};

/// What was counted for one customer on one CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Counters {
    /// Packets passed on to servers and to sites, by direction number; of what GRO merged, the segments.
    pub passed: [u64; 2],
    /// Bytes of them, from the IP header on.
    pub passed_bytes: [u64; 2],
    /// The customer's server in IPv4. It is no counter, and stands in their first cache line as that is touched
    /// anyway.
    pub next_hop_v4: NextHop<Ipv4>,
    /// The same in IPv6.
    pub next_hop_v6: NextHop<Ipv6>,
    #[doc(hidden)]
    pub _reserved: u32,
    /// ESP packets of an SPI that is not in INBOUND_SPIS (yet); the kernel decides on those.
    pub unknown_spi: u64,
    /// Flows opened.
    pub opened: u64,
    /// Drop events that were not written: over budget, or the ring full.
    pub events_lost: u64,
    /// The budget for events.
    pub events: Bucket,
    /// Packets dropped, by [`crate::reason::Reason`] number.
    pub dropped: [u64; REASON_SLOTS],
}

/// Where a server is on the LAN, as the kernel's neighbour table had it.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct NextHop<A> {
    /// The server's address. The customer's may have become another one, or its number another customer's.
    pub address: A,
    /// When it was asked for; 0: never. An age, unlike a time to come, cannot be taken for another one when
    /// a customer is silent on this CPU for weeks, and [`Ticks`] wrap.
    pub asked: Ticks,
    /// The server's MAC address.
    pub destination: [u8; 6],
    /// The LAN interface's.
    pub source: [u8; 6],
}

impl<A: Family> NextHop<A> {
    /// How long an answer holds.
    pub const HOLDS: Ticks = Ticks::from_seconds(1);

    /// True if it says where this server is, and still holds.
    #[inline(always)]
    pub fn holds(&self, server: A, now: Ticks) -> bool {
        self.asked.ticks != 0
            && now.ticks.wrapping_sub(self.asked.ticks) < Self::HOLDS.ticks
            && self.address == server
    }
}

const _: () = assert!(size_of::<Counters>() == 32 + 20 + 32 + 4 + 32 + 8 * REASON_SLOTS);
