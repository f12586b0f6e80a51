//! The timing wheel (Varghese and Lauck, 1987) that schedules expiry checks of flows; a kernel timer turns
//! it. Every flow has one node, which is in the list of one slot. When that slot's time comes, the flow is
//! removed if it has ended; otherwise its node moves to a later slot.
//!
//! A flow is checked when it would end, but at least once per turn of the wheel: a flow that ends early (a
//! RST on a connection that had two hours) is gone within [`TURN_SECONDS`]. Verdicts do not wait for that:
//! a flow that has ended is no flow.
use crate::{
    lock::bpf_spin_lock,
    tcp::flow::FlowKey,
    time::Ticks,
    wire::{Ipv4, Ipv6},
};

/// Slots of the wheel: a power of two.
pub const SLOTS: usize = 32;
/// A slot's duration as a power of two of [`Ticks`]: 2^30 ns, slightly more than a second.
const SLOT_SHIFT: u32 = 10;
/// Duration of a turn, rounded up.
pub const TURN_SECONDS: u32 = 35;

/// The number of a flow's node, 24 bits; 0 for none.
pub type Number = u32;
/// The highest node number.
pub const MAX_NODES: Number = (1 << 24) - 1;

/// Returns the running count of the slot of a time.
#[inline(always)]
pub const fn slot_at(time: Ticks) -> u32 {
    time.ticks >> SLOT_SHIFT
}

/// Returns the number of slots from `from` to `to`, which must not be earlier. Correct when ticks wrap.
#[inline(always)]
pub const fn slots_between(from: u32, to: u32) -> u32 {
    to.wrapping_sub(from) & (u32::MAX >> SLOT_SHIFT)
}

/// Returns the index of the slot that is over when `expires` has come, or of the last slot ahead if that is
/// sooner.
#[inline(always)]
pub const fn slot_for(expires: Ticks, now: Ticks) -> u32 {
    const MAX_AHEAD: u32 = (SLOTS as u32 - 2) << SLOT_SHIFT;
    let left = expires.since(now).ticks;
    let ahead = if left < MAX_AHEAD { left } else { MAX_AHEAD };
    slot_at(now.plus(Ticks { ticks: ahead })) & (SLOTS as u32 - 1)
}

/// A flow's node: the flow's key, and the next node in its list.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct Node<A> {
    /// The device's address.
    pub lan_address: A,
    /// Bits 0 to 23: the customer. Bits 24 to 31: bits 16 to 23 of the next node's number.
    pub customer_next: u32,
    /// Bits 16 to 31: the device's port. Bits 0 to 15: bits 0 to 15 of the next node's number.
    pub port_next: u32,
}

impl<A: Copy> Node<A> {
    /// Builds a flow's node, followed by `next` in its list.
    #[inline(always)]
    pub fn new(key: &FlowKey<A>, next: Number) -> Self {
        Self {
            lan_address: key.lan_address,
            customer_next: (key.customer & MAX_NODES) | (next >> 16) << 24,
            port_next: u32::from(key.lan_port) << 16 | (next & 0xffff),
        }
    }

    /// Returns the flow's key.
    #[inline(always)]
    pub fn key(&self) -> FlowKey<A> {
        FlowKey {
            customer: self.customer_next & MAX_NODES,
            lan_address: self.lan_address,
            lan_port: (self.port_next >> 16) as u16,
            _reserved: 0,
        }
    }

    /// Returns the next node in its list.
    #[inline(always)]
    pub fn next(&self) -> Number {
        (self.customer_next >> 24) << 16 | (self.port_next & 0xffff)
    }
}

/// Two nodes, an even number and the next one: the kernel pads the elements of an array to 8 bytes.
#[derive(Clone, Copy, Default, Debug)]
#[repr(C)]
pub struct Pair<A> {
    /// The nodes.
    pub nodes: [Node<A>; 2],
}

/// Returns the number of pairs for the nodes of this many flows, plus the unused node 0.
pub const fn pairs(flows: u32) -> u32 {
    flows / 2 + 1
}

/// One slot of the wheel: a list of nodes for each family, IPv4 and IPv6.
#[derive(Clone, Copy, Default, Debug)]
#[repr(C)]
pub struct Slot {
    /// Held while a program changes the slot.
    pub lock: bpf_spin_lock,
    /// The first node of each list.
    pub first: [Number; 2],
}

/// The free nodes, and the position of the wheel.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Expiry {
    /// The timer that turns the wheel.
    pub timer: bpf_timer,
    /// Held while a program changes `free` or `highest`.
    pub lock: bpf_spin_lock,
    /// The first free node, per family.
    pub free: [Number; 2],
    /// The highest node number ever allocated, per family.
    pub highest: [Number; 2],
    /// The rest of the lists being checked.
    pub due: [Number; 2],
    /// Running count of the slot to check next.
    pub slot: u32,
    /// When the timer last ran.
    pub ran: Ticks,
    /// Flows checked, wrapping.
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

/// A family with its own list of nodes in every slot.
pub trait WheelFamily {
    /// Index of that list.
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
