//! Counters, and the cached next hops of customers' servers.
use crate::{
    family::Family,
    rate::Bucket,
    reason::{REASON_SLOTS, Reason},
    time::Ticks,
    wire::{Ipv4, Ipv6},
};

/// Counters of one customer on one CPU, as few as nearly every packet touches. Drops for one reason in a row
/// are a *run*, which is counted here. When another reason comes, the run moves to the customer's [`Drops`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Counters {
    /// Packets passed to servers and to sites, by direction number. GRO packets count as their segments.
    pub passed: [u64; 2],
    /// Bytes passed from the IP header on, by direction number.
    pub passed_bytes: [u64; 2],
    /// Packets of the current run. Before `run`, because the kernel copies a value from its start: whoever finds
    /// the same even number in `run` before and after has read one run.
    pub run_packets: u64,
    /// Next hop of the customer's server in IPv4. Not a counter; it shares the first cache line, which
    /// every packet touches anyway.
    pub next_hop_v4: NextHop<Ipv4>,
    /// Next hop of the customer's server in IPv6.
    pub next_hop_v6: NextHop<Ipv6>,
    /// The reason of the current run in the lowest 8 bits, 0 before the first drop. Above it a number that is odd
    /// while a run moves, and grows by 2 with each.
    pub run: u32,
    /// Flows opened.
    pub opened: u64,
    /// Drop events.
    pub reports: Reports,
    /// Drops that [`Unattributed`] counts instead, because there was no memory for the customer's [`Drops`].
    pub unattributed: u64,
}

/// Drop events of one customer on one CPU.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct Reports {
    /// The budget for events.
    pub budget: Bucket,
    /// Events not written: over budget, or the ring was full.
    pub lost: u64,
}

/// A run that has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Run {
    /// Its [`Reason`] number.
    pub reason: u8,
    /// Its packets; 0 if no run has ended. Not an `Option`: LLVM reads the uninitialised payload of a `None`, which
    /// the verifier rejects.
    pub packets: u64,
}

/// Drops of one customer in the runs that have ended on any CPU. Programs add to it atomically.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Drops {
    /// Packets dropped, by [`Reason`] number.
    pub packets: [u64; REASON_SLOTS],
}

/// Counters of packets that belong to no known customer, on one CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Unattributed {
    /// Packets dropped, by [`Reason`] number.
    pub dropped: [u64; REASON_SLOTS],
    /// ESP packets whose SPI is not in INBOUND_SPIS (yet); the kernel decides on them.
    pub unknown_spi: u64,
    /// Drop events.
    pub reports: Reports,
    /// The budget of all who send ARP or neighbour discovery on the LAN without an address of their own.
    pub neighbours: Bucket,
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

impl Counters {
    /// The bits of `run` that hold the reason.
    const REASON_MASK: u32 = 0xff;
    /// The step of the number above the reason.
    const STEP: u32 = Self::REASON_MASK + 1;

    /// Counts a drop. Returns the run that it ends, if that has packets: the caller moves it to the customer's
    /// [`Drops`], and then calls [`Self::run_moved`].
    #[inline(always)]
    #[must_use]
    pub fn count_drop(&mut self, reason: Reason) -> Run {
        let ended = Run { reason: self.run as u8, packets: self.run_packets };
        if ended.reason == reason as u8 {
            self.run_packets = ended.packets.wrapping_add(1);
            return Run { reason: 0, packets: 0 };
        }
        let number = (self.run | Self::REASON_MASK).wrapping_add(1);
        let number = if ended.packets == 0 { number.wrapping_add(Self::STEP) } else { number };
        self.set_run(number | u32::from(reason as u8));
        self.run_packets = 1;
        ended
    }

    /// Notes that the run which ended last is counted elsewhere.
    #[inline(always)]
    pub fn run_moved(&mut self) {
        self.set_run(self.run.wrapping_add(Self::STEP));
    }

    /// Volatile, so that readers on other CPUs see the run change before and after its packets move.
    #[inline(always)]
    fn set_run(&mut self, run: u32) {
        // SAFETY: a field of ours.
        unsafe { (&raw mut self.run).write_volatile(run) };
    }

    /// Returns true while a run moves to the customer's [`Drops`].
    pub const fn is_moving(&self) -> bool {
        self.run & Self::STEP != 0
    }

    /// Returns the reason of the current run, `None` before the first drop.
    pub const fn run_reason(&self) -> Option<Reason> {
        Reason::from_number(self.run as u8)
    }
}

impl Drops {
    /// No drops.
    pub const NONE: Self = Self { packets: [0; REASON_SLOTS] };
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

// A customer takes this much on each CPU, whether it has drops or not.
const _: () = assert!(size_of::<Counters>() == 128);

// With the table's 56 bytes and the allocator's 8 a row of drops fits a block of 1024 bytes.
const _: () = assert!(size_of::<Drops>() + 56 + 8 <= 1024);

const _: () = assert!(size_of::<Unattributed>() == 8 * REASON_SLOTS + 32);
