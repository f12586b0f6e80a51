//! The nodes of flows in the timing wheels of `gateway_common::wheel`: allocated, scheduled, freed.
use aya_ebpf::helpers::bpf_get_smp_processor_id;
use gateway_common::{
    magazine::{LIST_NODES, Pool},
    node::{Node, Number},
    tcp::FlowKey,
    time::Ticks,
    wheel::Wheel,
};

use crate::{
    lock::with_lock,
    maps::{FamilyMaps, POOLS, WHEELS},
};

/// Attempts at the first node of a list, which another CPU may take between the look at it and the lock.
const TRIES: u32 = 8;

/// Returns the wheel of the CPU that runs this program.
#[inline(always)]
pub fn own_wheel() -> Option<*mut Wheel> {
    // SAFETY: a helper without arguments.
    WHEELS.get_ptr_mut(unsafe { bpf_get_smp_processor_id() })
}

/// Allocates the node of a new flow and returns its number, or None if all are taken.
#[inline(never)]
pub fn allocate<A: FamilyMaps>(wheel: *mut Wheel) -> Option<Number> {
    let mut tries = 0;
    while tries < TRIES {
        tries += 1;
        // SAFETY: a live map value; one aligned load.
        let first = unsafe { (&raw const (*wheel).free[A::LIST].first).read_volatile() };
        if first == 0 {
            if !refill::<A>(wheel) {
                return None;
            }
            continue;
        }
        let node = node::<A>(first)?;
        // SAFETY: a live map value and its lock; `node` is a live map value, in the list while it is first.
        let taken = unsafe {
            with_lock(wheel, &raw mut (*wheel).lock, |wheel: &mut Wheel| {
                let taken = wheel.free[A::LIST].take(first, (*node).next());
                wheel.retried = wheel.retried.wrapping_add(u32::from(!taken));
                taken
            })
        };
        if taken {
            return Some(first);
        }
    }
    None
}

/// Refills a wheel that has run out of free nodes. Returns false if there are none.
#[inline(never)]
fn refill<A: FamilyMaps>(wheel: *mut Wheel) -> bool {
    // SAFETY: a live map value and its lock.
    let has_reserve = unsafe {
        with_lock(wheel, &raw mut (*wheel).lock, |wheel: &mut Wheel| wheel.free[A::LIST].use_reserve())
    };
    if has_reserve {
        return true;
    }
    let Some(list) = take_list::<A>() else { return false };
    // SAFETY: as above.
    let refilled = unsafe {
        with_lock(wheel, &raw mut (*wheel).lock, |wheel: &mut Wheel| {
            wheel.refilled = wheel.refilled.wrapping_add(1);
            wheel.free[A::LIST].refill(list)
        })
    };
    if !refilled {
        put_list::<A>(list);
    }
    true
}

/// Takes a full list from the pool, or makes one of unused nodes. Returns its first node.
#[inline(always)]
fn take_list<A: FamilyMaps>() -> Option<Number> {
    let pool = POOLS.get_ptr_mut(A::LIST as u32)?;
    let mut tries = 0;
    while tries < TRIES {
        tries += 1;
        // SAFETY: a live map value; one aligned load.
        let list = unsafe { (&raw const (*pool).first).read_volatile() };
        if list == 0 {
            break;
        }
        let node = node::<A>(list)?;
        // SAFETY: a live map value and its lock; `node` is a live map value, in the pool while it is first.
        let taken = unsafe {
            with_lock(pool, &raw mut (*pool).lock, |pool: &mut Pool| pool.take(list, (*node).next_list()))
        };
        if taken {
            return Some(list);
        }
    }
    tries = 0;
    while tries < TRIES {
        tries += 1;
        // SAFETY: a live map value; one aligned load.
        let highest = unsafe { (&raw const (*pool).highest).read_volatile() };
        // None beyond the table's end.
        node::<A>(highest.wrapping_add(LIST_NODES))?;
        // SAFETY: a live map value and its lock.
        let taken =
            unsafe { with_lock(pool, &raw mut (*pool).lock, |pool: &mut Pool| pool.take_unused(highest)) };
        if taken {
            link::<A>(highest);
            return Some(highest.wrapping_add(1));
        }
    }
    None
}

/// Links the nodes after `highest`, which nobody has used before, to a full list.
#[inline(never)]
fn link<A: FamilyMaps>(highest: Number) {
    let mut count = 1;
    while count <= LIST_NODES {
        let number = highest.wrapping_add(count);
        let next = if count < LIST_NODES { number.wrapping_add(1) } else { 0 };
        if let Some(node) = node::<A>(number) {
            // SAFETY: a live map value in no list, hence ours.
            unsafe { *node = Node::free(next) };
        }
        count += 1;
    }
}

/// Frees the node of a number that is in no list.
#[inline(never)]
pub fn free<A: FamilyMaps>(wheel: *mut Wheel, number: Number) {
    let Some(node) = node::<A>(number) else { return };
    // SAFETY: a live map value and its lock; the node is a live map value and in no list, hence ours.
    let full = unsafe {
        with_lock(wheel, &raw mut (*wheel).lock, |wheel: &mut Wheel| {
            let put = wheel.free[A::LIST].put(number);
            *node = Node::free(put.next);
            wheel.spilled = wheel.spilled.wrapping_add(u32::from(put.full != 0));
            put.full
        })
    };
    if full != 0 {
        put_list::<A>(full);
    }
}

/// Gives a full list to the pool.
#[inline(always)]
fn put_list<A: FamilyMaps>(list: Number) {
    let Some(pool) = POOLS.get_ptr_mut(A::LIST as u32) else { return };
    let Some(node) = node::<A>(list) else { return };
    // SAFETY: a live map value and its lock; the node is a live map value, and its list is ours.
    unsafe {
        let next = (*node).next();
        with_lock(pool, &raw mut (*pool).lock, |pool: &mut Pool| {
            *node = Node::first_of_list(next, pool.put(list));
        });
    }
}

/// Puts a flow's node into the list of a wheel's slot at whose time the flow is visited.
#[inline(never)]
pub fn schedule<A: FamilyMaps>(wheel: *mut Wheel, number: Number, key: &FlowKey<A>, expires: Ticks) {
    let Some(node) = node::<A>(number) else { return };
    // SAFETY: as in `free`.
    unsafe {
        with_lock(wheel, &raw mut (*wheel).lock, |wheel: &mut Wheel| {
            *node = Node::new(key, wheel.schedule(A::LIST, number, expires));
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
