//! The timing wheels (Varghese and Lauck, 1987) that schedule expiry checks of flows: one for each CPU, each turned
//! by a kernel timer of its own. Every flow has one node, which is in the list of one slot. When the hand has
//! passed that slot, the flow is removed if it has ended; otherwise its node moves to a later slot.
//!
//! A flow is checked when it would end, but at least once per turn of the wheel: a flow that ends early (a
//! RST on a connection that had two hours) is gone within [`TURN_SECONDS`]. Verdicts do not wait for that:
//! a flow that has ended is no flow.
//!
//! Slots count from the hand, not from now. While the hand passes a turn it therefore visits each flow once,
//! and a wheel that fell behind catches up if all its flows can be visited within a turn. A flow is removed late by
//! the time that this takes, at most (`docs/decisions/0006-flow-expiry.md`).
use crate::{
    lock::bpf_spin_lock,
    magazine::Magazine,
    node::Number,
    time::Ticks,
    wire::{Ipv4, Ipv6},
};

/// Slots of the wheel: a power of two.
pub const SLOTS: usize = 32;
/// A slot's duration as a power of two of [`Ticks`]: 2^30 ns, slightly more than a second.
const SLOT_SHIFT: u32 = 10;
/// Duration of a slot.
pub const SLOT_NS: u64 = 1 << (20 + SLOT_SHIFT);
/// Duration of a turn, rounded up.
pub const TURN_SECONDS: u32 = 35;
/// Flows of one family that one timer run visits, which takes about a millisecond.
pub const BATCH: u32 = 1024;

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

/// Returns the index of the slot that is over when `expires` has come; of the hand's slot if that has been passed,
/// and of the last slot before the hand comes round if that is sooner.
#[inline(always)]
pub const fn slot_for(expires: Ticks, hand: u32) -> u32 {
    const MAX_AHEAD: u32 = SLOTS as u32 - 1;
    let left = slot_at(expires.since(Ticks { ticks: hand << SLOT_SHIFT }));
    let ahead = if left < MAX_AHEAD { left } else { MAX_AHEAD };
    hand.wrapping_add(ahead) & (SLOTS as u32 - 1)
}

/// Returns the time from the end of a timer run that took `took_ns` to the next one while flows are left to
/// visit, in nanoseconds: as long as the run took, so that packets get half of the CPU's time, but no longer
/// than a tick.
#[inline(always)]
pub const fn pause_ns(took_ns: u64) -> u64 {
    const LEAST_NS: u64 = 1 << 16;
    const MOST_NS: u64 = 1 << 20;
    if took_ns < LEAST_NS {
        LEAST_NS
    } else if took_ns < MOST_NS {
        took_ns
    } else {
        MOST_NS
    }
}

/// One CPU's timing wheel and free nodes.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Wheel {
    /// The timer that turns the wheel.
    pub timer: bpf_timer,
    /// The rest of the lists being checked, per family. Like the fields down to `removed`, only the timer changes
    /// it.
    pub due: [Number; 2],
    /// When the timer last ran.
    pub ran: Ticks,
    /// Flows checked, wrapping.
    pub looked_at: u32,
    /// Flows removed, wrapping.
    pub removed: u32,
    /// Held while a program changes the fields below.
    pub lock: bpf_spin_lock,
    /// Full lists of free nodes taken from the pool, or of unused numbers, wrapping.
    pub refilled: u32,
    /// Full lists of free nodes given to the pool, wrapping.
    pub spilled: u32,
    /// Attempts at a free node that another CPU had just taken or covered, wrapping.
    pub retried: u32,
    /// Running count of the slot to check next.
    pub hand: u32,
    /// The free nodes, per family.
    pub free: [Magazine; 2],
    /// The first node of each slot's list, per family.
    pub first: [[Number; 2]; SLOTS],
    /// Keeps the wheels of two CPUs out of each other's cache lines.
    #[doc(hidden)]
    pub _reserved: [u32; 28],
}

impl Wheel {
    /// Puts a node into the list of the slot at whose time the flow is visited. Returns the node that follows
    /// it in the list.
    #[inline(always)]
    pub fn schedule(&mut self, list: usize, number: Number, expires: Ticks) -> Number {
        let slot = slot_for(expires, self.hand) as usize & (SLOTS - 1);
        core::mem::replace(&mut self.first[slot][list], number)
    }

    /// Returns the number of slots that are over and have not been checked.
    #[inline(always)]
    pub const fn behind(&self, now: Ticks) -> u32 {
        slots_between(self.hand, slot_at(now))
    }

    /// Moves the hand past a slot that is over, whose lists become those to check. Returns false if there is
    /// none. Flows that lie more than a turn back are in the slots of the last turn.
    #[inline(always)]
    pub fn advance(&mut self, now: Ticks) -> bool {
        let behind = self.behind(now);
        if behind == 0 {
            return false;
        }
        if behind > SLOTS as u32 {
            self.hand = slot_at(now).wrapping_sub(SLOTS as u32);
        }
        self.due = core::mem::take(&mut self.first[self.hand as usize & (SLOTS - 1)]);
        self.hand = self.hand.wrapping_add(1);
        true
    }

    /// Returns true if flows are left to visit.
    #[inline(always)]
    pub const fn has_more(&self, now: Ticks) -> bool {
        self.due[0] != 0 || self.due[1] != 0 || self.behind(now) != 0
    }
}

/// `struct bpf_timer`; the kernel finds it by its name in BTF.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(8))]
pub struct bpf_timer {
    #[doc(hidden)]
    pub opaque: [u64; 2],
}

/// A family with its own list of nodes in every slot, and its own free nodes.
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

const _: () = assert!(SLOTS.is_power_of_two() && size_of::<Wheel>() == 448);
const _: () = assert!(SLOTS as u64 * SLOT_NS <= TURN_SECONDS as u64 * 1_000_000_000);

#[cfg(feature = "user")]
mod pod {
    // SAFETY: repr(C), integers only, without padding.
    unsafe impl aya::Pod for super::Wheel {}
}
