//! Removes flows that have ended: a timer turns the wheel of `gateway_common::wheel`.
use core::ffi::c_void;

use aya_ebpf::{
    bindings::bpf_timer,
    helpers::{bpf_ktime_get_ns, bpf_loop, bpf_timer_init, bpf_timer_set_callback, bpf_timer_start},
    macros::classifier,
    programs::TcContext,
};
use gateway_common::{
    decide::UsageCell,
    tcp::{Flow, status},
    time::Ticks,
    wheel::{Expiry, Number, SLOTS, Slot, slot_at, slots_between},
    wire::{Ipv4, Ipv6},
};

use crate::{
    clock::now_ns,
    lock::{MapCell, with_lock},
    maps::{EXPIRY, FamilyMaps, REPLAY, USAGE, WHEEL},
    nodes,
};

/// Flows of one family that one timer run visits, which takes less than a millisecond.
const BATCH: u32 = 1024;
/// Time to the next timer run while flows are left to visit.
const NEXT_BATCH_NS: u64 = 1 << 20;

/// Arms the timer. The daemon runs this program once after loading; from then on ended flows are removed
/// whether or not the daemon lives. Returns 0 or a negative error number.
#[classifier]
pub fn expiry(_ctx: TcContext) -> i32 {
    arm()
}

/// Arms the timer, or re-arms it with this program's code in place of an older version's. In a replay, turns
/// the wheel once instead. Returns 0 or a negative error number.
#[inline(always)]
fn arm() -> i32 {
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
        // EBUSY: the timer exists already.
        let initialised = bpf_timer_init(timer, map, CLOCK_MONOTONIC);
        if initialised != 0 && initialised != EBUSY {
            return initialised as i32;
        }
        let set = bpf_timer_set_callback(timer, on_timer as *mut c_void);
        if set != 0 {
            return set as i32;
        }
        bpf_timer_start(timer, NEXT_BATCH_NS, 0) as i32
    }
}

extern "C" fn on_timer(_map: *mut c_void, _key: *mut u32, expiry: *mut Expiry) -> i64 {
    // SAFETY: the kernel passes the map value that contains the timer.
    unsafe {
        let now_ns = bpf_ktime_get_ns();
        let next_ns = turn(expiry, Ticks::from_ns(now_ns));
        bpf_timer_start((&raw mut (*expiry).timer).cast::<bpf_timer>(), next_ns, 0);
    }
    0
}

/// Visits the flows of a slot that is due, at most a batch of each family. Returns the time to the next run,
/// in nanoseconds.
#[inline(always)]
fn turn(expiry: *mut Expiry, now: Ticks) -> u64 {
    const SLOT_NS: u64 = 1 << 30;
    // SAFETY: a live map value. Only this function changes these fields, and it runs on one CPU at a time.
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
            with_lock(slot, &raw mut (*slot).lock, |slot: &mut Slot| core::mem::take(&mut slot.first))
        };
        expiry.slot = expiry.slot.wrapping_add(1);
    }
    visit_due::<Ipv4>(expiry, now);
    visit_due::<Ipv6>(expiry, now);
    let more = expiry.due[0] != 0 || expiry.due[1] != 0 || slots_between(expiry.slot, slot_at(now)) != 0;
    if more { NEXT_BATCH_NS } else { SLOT_NS }
}

/// The state of one pass over a list of due flows.
struct Pass {
    now: Ticks,
    /// The next node, 0 at the list's end.
    number: Number,
    visited: u32,
    removed: u32,
}

#[inline(always)]
fn visit_due<A: FamilyMaps>(expiry: &mut Expiry, now: Ticks) {
    let mut pass = Pass { now, number: expiry.due[A::LIST], visited: 0, removed: 0 };
    if pass.number == 0 {
        return;
    }
    // SAFETY: `visit` has the signature that bpf_loop calls, and gets the state it expects.
    unsafe { bpf_loop(BATCH, visit::<A> as *mut c_void, (&raw mut pass).cast(), 0) };
    expiry.due[A::LIST] = pass.number;
    expiry.looked_at = expiry.looked_at.wrapping_add(pass.visited);
    expiry.removed = expiry.removed.wrapping_add(pass.removed);
}

/// Removes one flow if it has ended, or schedules it again. The callback of bpf_loop: returns 0 to continue,
/// 1 to stop.
extern "C" fn visit<A: FamilyMaps>(_round: u32, pass: *mut Pass) -> i64 {
    // SAFETY: the pointer is the one `visit_due` passed, and nobody else uses it meanwhile.
    let pass = unsafe { &mut *pass };
    let number = pass.number;
    if number == 0 {
        return 1;
    }
    let Some(node) = nodes::node::<A>(number) else {
        pass.number = 0;
        return 1;
    };
    // SAFETY: a live map value; nobody else changes it while it is in the list being visited.
    let node = unsafe { *node };
    pass.number = node.next();
    pass.visited += 1;
    let key = node.key();
    let half_open = match A::flows().get_ptr_mut(&key) {
        // Somebody removed the flow by hand.
        None => 0,
        Some(flow) => {
            let now = pass.now;
            // SAFETY: a live map value, and its lock.
            let (over, half_open, expires) = unsafe {
                with_lock(flow, &raw mut (*flow).lock, |flow: &mut Flow| {
                    let over = flow.is_over(now);
                    if over {
                        // A program that has just looked the flow up must not reopen it.
                        flow.end();
                    }
                    (over, u32::from(flow.has(status::HALF_OPEN)), flow.expires)
                })
            };
            if !over {
                nodes::schedule(number, &key, expires, now);
                return 0;
            }
            let _ = A::flows().remove(&key);
            half_open
        }
    };
    if let Some(usage) = USAGE.get_ptr_mut(key.customer) {
        MapCell(usage).locked(|usage| usage.give_back(1, half_open));
    }
    nodes::free::<A>(number);
    pass.removed += 1;
    0
}
