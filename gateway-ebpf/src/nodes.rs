//! The nodes of flows in the timing wheel of `gateway_common::wheel`: allocated, scheduled, freed.
use gateway_common::{
    tcp::FlowKey,
    time::Ticks,
    wheel::{Expiry, MAX_NODES, Node, Number, Slot, slot_for},
};

use crate::{
    lock::with_lock,
    maps::{EXPIRY, FamilyMaps, WHEEL},
};

/// Allocates the node of a new flow and returns its number, or None if all are taken.
#[inline(never)]
pub fn allocate<A: FamilyMaps>() -> Option<Number> {
    /// Attempts at the first free node, which another CPU may take in between.
    const TRIES: u32 = 8;
    let expiry = EXPIRY.get_ptr_mut(0)?;
    let mut tries = 0;
    while tries < TRIES {
        // SAFETY: a live map value; one aligned load.
        let first = unsafe { (&raw const (*expiry).free[A::LIST]).read_volatile() };
        if first == 0 {
            break;
        }
        let node = node::<A>(first)?;
        // SAFETY: a live map value and its lock; `node` is a live map value, in the list while it is first.
        let taken = unsafe {
            with_lock(expiry, &raw mut (*expiry).lock, |expiry: &mut Expiry| {
                let still = expiry.free[A::LIST] == first;
                if still {
                    expiry.free[A::LIST] = (*node).next();
                }
                still
            })
        };
        if taken {
            return Some(first);
        }
        tries += 1;
    }
    // SAFETY: a live map value and its lock.
    let number = unsafe {
        with_lock(expiry, &raw mut (*expiry).lock, |expiry: &mut Expiry| {
            let next = expiry.highest[A::LIST] + 1;
            if next <= MAX_NODES {
                expiry.highest[A::LIST] = next;
            }
            next
        })
    };
    if number <= MAX_NODES && node::<A>(number).is_some() {
        return Some(number);
    }
    // SAFETY: as above.
    unsafe {
        with_lock(expiry, &raw mut (*expiry).lock, |expiry: &mut Expiry| {
            // The number is beyond the table's end. Take it back unless a higher one was given out meanwhile.
            if expiry.highest[A::LIST] == number {
                expiry.highest[A::LIST] = number - 1;
            }
        });
    }
    None
}

/// Frees the node of a number that is in no list.
#[inline(never)]
pub fn free<A: FamilyMaps>(number: Number) {
    let Some(expiry) = EXPIRY.get_ptr_mut(0) else { return };
    let Some(node) = node::<A>(number) else { return };
    let no_flow = FlowKey::<A>::default();
    // SAFETY: a live map value and its lock; the node is a live map value and in no list, hence ours.
    unsafe {
        with_lock(expiry, &raw mut (*expiry).lock, |expiry: &mut Expiry| {
            *node = Node::new(&no_flow, expiry.free[A::LIST]);
            expiry.free[A::LIST] = number;
        });
    }
}

/// Puts a flow's node into the list of the wheel's slot at whose time the flow is visited.
#[inline(never)]
pub fn schedule<A: FamilyMaps>(number: Number, key: &FlowKey<A>, expires: Ticks, now: Ticks) {
    let Some(slot) = WHEEL.get_ptr_mut(slot_for(expires, now)) else { return };
    let Some(node) = node::<A>(number) else { return };
    // SAFETY: as in `free`.
    unsafe {
        with_lock(slot, &raw mut (*slot).lock, |slot: &mut Slot| {
            *node = Node::new(key, slot.first[A::LIST]);
            slot.first[A::LIST] = number;
        });
    }
}

/// Returns the node of this number.
#[inline(always)]
pub fn node<A: FamilyMaps>(number: Number) -> Option<*mut Node<A>> {
    let pair = A::nodes().get_ptr_mut(number >> 1)?;
    // SAFETY: a live map value of two nodes; the index is 0 or 1.
    Some(unsafe { (&raw mut (*pair).nodes).cast::<Node<A>>().add((number & 1) as usize) })
}
