//! Removing flows that have ended: the wheel of `gateway_common::wheel`, in maps.
use core::ffi::c_void;

use aya_ebpf::{
    bindings::bpf_timer,
    helpers::{bpf_ktime_get_ns, bpf_loop, bpf_timer_init, bpf_timer_set_callback, bpf_timer_start},
};
use gateway_common::{
    decide::UsageCell,
    tcp::{Flow, FlowKey, status},
    time::Ticks,
    wheel::{Expiry, MAX_NODES, Node, Number, SLOTS, Slot, slot_at, slot_for, slots_between},
    wire::{Ipv4, Ipv6},
};

use crate::{
    maps::{EXPIRY, REPLAY, Stored, USAGE, WHEEL},
    tables::{Shared, locked, now_ns},
};

/// Flows of one family that are looked at in one go, which takes less than a millisecond.
const BATCH: u32 = 1024;
/// How long until the next go if some are left.
const NEXT_GO_NS: u64 = 1 << 20;

/// A number for a new flow's node; None if all are taken.
#[inline(never)]
pub fn allocate<A: Stored>() -> Option<Number> {
    /// Other CPUs may take the one that is tried.
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
            locked(expiry, &raw mut (*expiry).lock, |expiry: &mut Expiry| {
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
        locked(expiry, &raw mut (*expiry).lock, |expiry: &mut Expiry| {
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
        locked(expiry, &raw mut (*expiry).lock, |expiry: &mut Expiry| {
            // Beyond the table's end, and nobody was given a higher one meanwhile.
            if expiry.highest[A::LIST] == number {
                expiry.highest[A::LIST] = number - 1;
            }
        });
    }
    None
}

/// Gives back a number that is in no list.
#[inline(never)]
pub fn free<A: Stored>(number: Number) {
    let Some(expiry) = EXPIRY.get_ptr_mut(0) else { return };
    let Some(node) = node::<A>(number) else { return };
    let nobody = FlowKey::<A>::default();
    // SAFETY: a live map value and its lock; the node is a live map value and in no list, hence ours.
    unsafe {
        locked(expiry, &raw mut (*expiry).lock, |expiry: &mut Expiry| {
            *node = Node::new(&nobody, expiry.free[A::LIST]);
            expiry.free[A::LIST] = number;
        });
    }
}

/// Puts a flow into the list of the slot at whose time it is to be looked at.
#[inline(never)]
pub fn list<A: Stored>(number: Number, key: &FlowKey<A>, expires: Ticks, now: Ticks) {
    let Some(slot) = WHEEL.get_ptr_mut(slot_for(expires, now)) else { return };
    let Some(node) = node::<A>(number) else { return };
    // SAFETY: as in `free`.
    unsafe {
        locked(slot, &raw mut (*slot).lock, |slot: &mut Slot| {
            *node = Node::new(key, slot.first[A::LIST]);
            slot.first[A::LIST] = number;
        });
    }
}

/// Arms the timer, or arms it again with this program's code in place of an older one's. In a replay
/// the wheel is turned by hand instead. Returns 0 or a negative error number.
#[inline(always)]
pub fn arm() -> i32 {
    const EBUSY: i64 = -16;
    const CLOCK_MONOTONIC: u64 = 1;
    let Some(expiry) = EXPIRY.get_ptr_mut(0) else { return -1 };
    if REPLAY.load() == 1 {
        turn(expiry, Ticks::from_ns(now_ns()));
        return 0;
    }
    // SAFETY: the timer is in a value of this map, and the callback has the signature for it.
    unsafe {
        let timer = (&raw mut (*expiry).timer).cast::<bpf_timer>();
        let map = (&raw const EXPIRY).cast_mut().cast::<c_void>();
        // Busy: it is there already.
        let made = bpf_timer_init(timer, map, CLOCK_MONOTONIC);
        if made != 0 && made != EBUSY {
            return made as i32;
        }
        let set = bpf_timer_set_callback(timer, time_has_come as *mut c_void);
        if set != 0 {
            return set as i32;
        }
        bpf_timer_start(timer, NEXT_GO_NS, 0) as i32
    }
}

extern "C" fn time_has_come(_map: *mut c_void, _key: *mut u32, expiry: *mut Expiry) -> i64 {
    // SAFETY: the kernel calls this with the value that the timer is in.
    unsafe {
        let now_ns = bpf_ktime_get_ns();
        let next_ns = turn(expiry, Ticks::from_ns(now_ns));
        bpf_timer_start((&raw mut (*expiry).timer).cast::<bpf_timer>(), next_ns, 0);
    }
    0
}

/// Looks at flows whose slot's time has come, as many as one go allows. Returns how long to wait
/// before the next go, in nanoseconds.
#[inline(always)]
fn turn(expiry: *mut Expiry, now: Ticks) -> u64 {
    const SLOT_NS: u64 = 1 << 30;
    // SAFETY: a live map value, of which these fields are changed here only, and this runs on one CPU
    // at a time.
    let expiry = unsafe { &mut *expiry };
    expiry.ran = now;
    if expiry.due[0] == 0 && expiry.due[1] == 0 {
        let behind = slots_between(expiry.slot, slot_at(now));
        if behind == 0 {
            return SLOT_NS;
        }
        if behind > SLOTS as u32 {
            expiry.slot = slot_at(now).wrapping_sub(SLOTS as u32);
        }
        let Some(slot) = WHEEL.get_ptr_mut(expiry.slot & (SLOTS as u32 - 1)) else { return SLOT_NS };
        // SAFETY: a live map value and its lock.
        expiry.due = unsafe {
            locked(slot, &raw mut (*slot).lock, |slot: &mut Slot| core::mem::take(&mut slot.first))
        };
        expiry.slot = expiry.slot.wrapping_add(1);
    }
    look::<Ipv4>(expiry, now);
    look::<Ipv6>(expiry, now);
    let more = expiry.due[0] != 0 || expiry.due[1] != 0 || slots_between(expiry.slot, slot_at(now)) != 0;
    if more { NEXT_GO_NS } else { SLOT_NS }
}

/// What a go over one list knows.
struct Go {
    now: Ticks,
    number: Number,
    looked_at: u32,
    removed: u32,
}

#[inline(always)]
fn look<A: Stored>(expiry: &mut Expiry, now: Ticks) {
    let mut go = Go { now, number: expiry.due[A::LIST], looked_at: 0, removed: 0 };
    if go.number == 0 {
        return;
    }
    // SAFETY: `look_at` has the signature bpf_loop calls, and gets the state it is made for.
    unsafe { bpf_loop(BATCH, look_at::<A> as *mut c_void, (&raw mut go).cast(), 0) };
    expiry.due[A::LIST] = go.number;
    expiry.looked_at = expiry.looked_at.wrapping_add(go.looked_at);
    expiry.removed = expiry.removed.wrapping_add(go.removed);
}

/// bpf_loop's callback: 0 goes on, 1 ends.
extern "C" fn look_at<A: Stored>(_round: u32, go: *mut Go) -> i64 {
    // SAFETY: the pointer is the one `look` passed, and nobody else uses it meanwhile.
    let go = unsafe { &mut *go };
    let number = go.number;
    if number == 0 {
        return 1;
    }
    let Some(node) = node::<A>(number) else {
        go.number = 0;
        return 1;
    };
    // SAFETY: a live map value; while it is in the list being looked at nobody else changes it.
    let node = unsafe { *node };
    go.number = node.next();
    go.looked_at += 1;
    let key = node.key();
    let half_open = match A::flows().get_ptr_mut(&key) {
        // Somebody removed it by hand.
        None => 0,
        Some(flow) => {
            let now = go.now;
            // SAFETY: a live map value, and its lock.
            let (over, half_open, expires) = unsafe {
                locked(flow, &raw mut (*flow).lock, |flow: &mut Flow| {
                    let over = flow.is_over(now);
                    if over {
                        // Whoever found it just now must not open another one in its place.
                        flow.end();
                    }
                    (over, u32::from(flow.has(status::HALF_OPEN)), flow.expires)
                })
            };
            if !over {
                list(number, &key, expires, now);
                return 0;
            }
            let _ = A::flows().remove(&key);
            half_open
        }
    };
    if let Some(usage) = USAGE.get_ptr_mut(key.customer) {
        Shared(usage).locked(|usage| usage.give_back(1, half_open));
    }
    free::<A>(number);
    go.removed += 1;
    0
}

/// The node of this number.
#[inline(always)]
fn node<A: Stored>(number: Number) -> Option<*mut Node<A>> {
    let pair = A::nodes().get_ptr_mut(number >> 1)?;
    // SAFETY: a live map value of two nodes, of which the index is 0 or 1.
    Some(unsafe { (&raw mut (*pair).nodes).cast::<Node<A>>().add((number & 1) as usize) })
}
