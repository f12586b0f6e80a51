//! When flows are looked at to see whether they have ended: a timing wheel (Varghese and Lauck, 1987)
//! that a timer in the kernel turns. Every flow has one node, which lies in the list of one slot; when
//! that slot's time comes the flow is removed if it has ended, else its node moves to a later slot.
//!
//! A flow is looked at when it would end, but at the latest a turn of the wheel later: what ends
//! sooner than it was to (a RST on a connection that had two hours) is gone within [`TURN_SECONDS`].
//! Verdicts do not wait for that: a flow that has ended is no flow.
use crate::{
    lock::bpf_spin_lock,
    tcp::flow::FlowKey,
    time::Ticks,
    wire::{Ipv4, Ipv6},
};

/// Slots of the wheel: a power of two.
pub const SLOTS: usize = 32;
/// A slot's time as a power of two of [`Ticks`]: 2^30 ns, a bit more than a second.
const SLOT_SHIFT: u32 = 10;
/// How long a turn takes, rounded up.
pub const TURN_SECONDS: u32 = 35;

/// The number of a flow's node; 0 is none. It has 24 bits.
pub type Number = u32;
/// The highest number.
pub const MOST_NODES: Number = (1 << 24) - 1;

/// The slot of a time, counted on and on.
#[inline(always)]
pub const fn slot_at(time: Ticks) -> u32 {
    time.ticks >> SLOT_SHIFT
}

/// How many slots lie between two times, if `to` is not the earlier one. Right also when ticks wrap.
#[inline(always)]
pub const fn slots_between(from: u32, to: u32) -> u32 {
    to.wrapping_sub(from) & (u32::MAX >> SLOT_SHIFT)
}

/// The index of the slot that is over when `expires` has come, or of the last one ahead if that is
/// sooner.
#[inline(always)]
pub const fn slot_for(expires: Ticks, now: Ticks) -> u32 {
    const MOST_AHEAD: u32 = (SLOTS as u32 - 2) << SLOT_SHIFT;
    let left = expires.since(now).ticks;
    let ahead = if left < MOST_AHEAD { left } else { MOST_AHEAD };
    slot_at(now.plus(Ticks { ticks: ahead })) & (SLOTS as u32 - 1)
}

/// A flow's place in a list: whose flow it is, and the next node.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct Node<A> {
    /// The device's address.
    pub lan_address: A,
    /// Bits 0 to 23: the customer. Bits 24 to 31: bits 16 to 23 of the next node's number.
    pub customer_next: u32,
    /// Bits 16 to 31: the device's port. Bits 0 to 15 of the next node's number.
    pub port_next: u32,
}

impl<A: Copy> Node<A> {
    /// A flow's node, before another one in a list.
    #[inline(always)]
    pub fn new(key: &FlowKey<A>, next: Number) -> Self {
        Self {
            lan_address: key.lan_address,
            customer_next: (key.customer & MOST_NODES) | (next >> 16) << 24,
            port_next: u32::from(key.lan_port) << 16 | (next & 0xffff),
        }
    }

    /// The flow.
    #[inline(always)]
    pub fn key(&self) -> FlowKey<A> {
        FlowKey {
            customer: self.customer_next & MOST_NODES,
            lan_address: self.lan_address,
            lan_port: (self.port_next >> 16) as u16,
            _reserved: 0,
        }
    }

    /// The next node in its list.
    #[inline(always)]
    pub fn next(&self) -> Number {
        (self.customer_next >> 24) << 16 | (self.port_next & 0xffff)
    }
}

/// Two nodes, of an even number and the next one: the kernel rounds the elements of an array up to 8 bytes.
#[derive(Clone, Copy, Default, Debug)]
#[repr(C)]
pub struct Pair<A> {
    /// The nodes.
    pub nodes: [Node<A>; 2],
}

/// How many pairs hold the nodes of so many flows, and that of number 0, which is none's.
pub const fn pairs(flows: u32) -> u32 {
    flows / 2 + 1
}

/// One slot: the first node of each family's list, IPv4 and IPv6.
#[derive(Clone, Copy, Default, Debug)]
#[repr(C)]
pub struct Slot {
    /// Held while a program changes it.
    pub lock: bpf_spin_lock,
    /// Numbers of nodes.
    pub first: [Number; 2],
}

/// Which nodes are free, and how far the wheel has turned.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Expiry {
    /// Turns the wheel.
    pub timer: bpf_timer,
    /// Held while a program changes `free` or `highest`.
    pub lock: bpf_spin_lock,
    /// The first free node of each family.
    pub free: [Number; 2],
    /// The highest number that was ever given out, of each family.
    pub highest: [Number; 2],
    /// What is left of the lists being looked at.
    pub due: [Number; 2],
    /// The slot to look at next, counted on and on.
    pub slot: u32,
    /// When the timer last ran.
    pub ran: Ticks,
    /// Flows looked at, wrapping.
    pub looked_at: u32,
    /// Flows removed, wrapping.
    pub removed: u32,
    #[doc(hidden)]
    pub _reserved: u32,
}

/// `struct bpf_timer`; the kernel finds it by its name in BTF.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(8))]
pub struct bpf_timer {
    #[doc(hidden)]
    pub opaque: [u64; 2],
}

/// The list that a family's nodes are in.
pub trait WheelFamily {
    /// Index into arrays by family.
    const LIST: usize;
}

impl WheelFamily for Ipv4 {
    const LIST: usize = 0;
}

impl WheelFamily for Ipv6 {
    const LIST: usize = 1;
}

const _: () = assert!(SLOTS.is_power_of_two() && size_of::<Node<Ipv4>>() == 12);
const _: () = assert!(size_of::<Expiry>() == 64 && size_of::<Slot>() == 12);
const _: () = assert!((SLOTS as u64) << (20 + SLOT_SHIFT) <= TURN_SECONDS as u64 * 1_000_000_000);

#[cfg(feature = "user")]
mod pod {
    // SAFETY: repr(C), integers only, without padding.
    unsafe impl aya::Pod for super::Expiry {}
}
