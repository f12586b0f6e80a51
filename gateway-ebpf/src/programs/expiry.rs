//! Removes flows that have ended: a timer for each CPU turns that CPU's wheel of `gateway_common::wheel`.
use core::ffi::c_void;

use aya_ebpf::{
    EbpfContext as _,
    bindings::{__sk_buff, BPF_F_TIMER_CPU_PIN, bpf_timer},
    helpers::{
        bpf_get_smp_processor_id, bpf_ktime_get_ns, bpf_loop, bpf_timer_init, bpf_timer_set_callback,
        bpf_timer_start,
    },
    macros::classifier,
    programs::TcContext,
};
use gateway_common::{
    decide::UsageCell,
    node::Number,
    tcp::{Flow, status},
    time::Ticks,
    wheel::{BATCH, SLOT_NS, Wheel, pause_ns},
    wire::{Ipv4, Ipv6},
};

use crate::{
    clock::now_ns,
    lock::{MapCell, with_lock},
    maps::{FamilyMaps, REPLAY, SHARES, USAGE, WHEELS},
    nodes,
};

/// Arms the timer of the wheel whose CPU is in skb->cb[0]. The daemon runs this program once for each CPU after
/// loading, on that CPU if it can; from then on ended flows are removed whether or not the daemon lives. Returns
/// 0 or a negative error number.
#[classifier]
pub fn expiry(ctx: TcContext) -> i32 {
    let skb: *mut __sk_buff = ctx.as_ptr().cast();
    // SAFETY: the context of a TC program is a `__sk_buff`; the index is constant.
    arm(unsafe { (*skb).cb[0] })
}

/// Arms a wheel's timer, or re-arms it with this program's code in place of an older version's. In a replay, turns
/// the wheel once instead. Returns 0 or a negative error number.
#[inline(always)]
fn arm(cpu: u32) -> i32 {
    const EBUSY: i64 = -16;
    const CLOCK_MONOTONIC: u64 = 1;
    const SOON_NS: u64 = 1 << 20;
    let Some(wheel) = WHEELS.get_ptr_mut(cpu) else { return -1 };
    if REPLAY.load() == 1 {
        turn(wheel, now_ns());
        return 0;
    }
    // SAFETY: the timer is in a value of this map, and the callback has the signature for it.
    unsafe {
        let timer = (&raw mut (*wheel).timer).cast::<bpf_timer>();
        let map = (&raw const WHEELS).cast_mut().cast::<c_void>();
        // EBUSY: the timer exists already.
        let initialised = bpf_timer_init(timer, map, CLOCK_MONOTONIC);
        if initialised != 0 && initialised != EBUSY {
            return initialised as i32;
        }
        let set = bpf_timer_set_callback(timer, on_timer as *mut c_void);
        if set != 0 {
            return set as i32;
        }
    }
    start(wheel, cpu, SOON_NS) as i32
}

extern "C" fn on_timer(_map: *mut c_void, cpu: *mut u32, wheel: *mut Wheel) -> i64 {
    // SAFETY: the kernel passes the key and the map value that contains the timer.
    unsafe {
        let began_ns = bpf_ktime_get_ns();
        let more = turn(wheel, began_ns);
        let next_ns = if more { pause_ns(bpf_ktime_get_ns().wrapping_sub(began_ns)) } else { SLOT_NS };
        start(wheel, *cpu, next_ns);
    }
    0
}

/// Starts a wheel's timer: on the wheel's CPU for good if it is this one, otherwise wherever the kernel likes.
/// The timer of a pinned CPU that goes offline moves to another (kernel/time/hrtimer.c, `hrtimers_cpu_dying`).
/// Returns 0 or a negative error number.
#[inline(always)]
fn start(wheel: *mut Wheel, cpu: u32, after_ns: u64) -> i64 {
    // SAFETY: the wheel is a live map value whose timer is initialised.
    unsafe {
        let timer = (&raw mut (*wheel).timer).cast::<bpf_timer>();
        // Before Linux 6.7 the kernel refuses the flag.
        if bpf_get_smp_processor_id() == cpu
            && bpf_timer_start(timer, after_ns, u64::from(BPF_F_TIMER_CPU_PIN)) == 0
        {
            return 0;
        }
        bpf_timer_start(timer, after_ns, 0)
    }
}

/// Visits the flows of a slot that is due, at most a batch of each family. Returns true if flows are left to
/// visit.
#[inline(always)]
fn turn(wheel: *mut Wheel, now_ns: u64) -> bool {
    let now = Ticks::from_ns(now_ns);
    // SAFETY: a live map value and its lock. The fields that are changed without it are only this function's,
    // which runs on one CPU at a time for each wheel.
    unsafe {
        (*wheel).ran = now;
        if (*wheel).due[0] == 0 && (*wheel).due[1] == 0 {
            with_lock(wheel, &raw mut (*wheel).lock, |wheel: &mut Wheel| wheel.advance(now));
        }
        visit_due::<Ipv4>(wheel, now);
        visit_due::<Ipv6>(wheel, now);
        (*wheel).has_more(now)
    }
}

/// The state of one pass over a list of due flows.
struct Pass {
    wheel: *mut Wheel,
    now: Ticks,
    /// The next node, 0 at the list's end.
    number: Number,
    visited: u32,
    removed: u32,
}

/// Visits the due flows of a family.
///
/// # Safety
/// `wheel` is a live map value, and only this function changes its counters and this family's due list.
#[inline(always)]
unsafe fn visit_due<A: FamilyMaps>(wheel: *mut Wheel, now: Ticks) {
    // SAFETY: guaranteed by the caller. `visit` has the signature that bpf_loop calls, and gets the state it
    // expects.
    unsafe {
        let mut pass = Pass { wheel, now, number: (*wheel).due[A::LIST], visited: 0, removed: 0 };
        if pass.number == 0 {
            return;
        }
        bpf_loop(BATCH, visit::<A> as *mut c_void, (&raw mut pass).cast(), 0);
        (*wheel).due[A::LIST] = pass.number;
        (*wheel).looked_at = (*wheel).looked_at.wrapping_add(pass.visited);
        (*wheel).removed = (*wheel).removed.wrapping_add(pass.removed);
    }
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
    let (half_open, site) = match A::flows().get_ptr_mut(&key) {
        // Somebody removed the flow by hand. Number 0 is no site's.
        None => (0, 0),
        Some(flow) => {
            let now = pass.now;
            // SAFETY: a live map value, and its lock.
            let (over, half_open, site, expires) = unsafe {
                with_lock(flow, &raw mut (*flow).lock, |flow: &mut Flow| {
                    let over = flow.is_over(now);
                    if over {
                        // A program that has just looked the flow up must not reopen it.
                        flow.end();
                    }
                    (over, u32::from(flow.has(status::HALF_OPEN)), flow.tunnel, flow.expires)
                })
            };
            if !over {
                nodes::schedule(pass.wheel, number, &key, expires);
                return 0;
            }
            let _ = A::flows().remove(&key);
            (half_open, site)
        }
    };
    if let Some(usage) = USAGE.get_ptr_mut(key.customer) {
        MapCell(usage).locked(|usage| usage.give_back(1, half_open));
    }
    if let Some(share) = SHARES.get_ptr_mut(site) {
        MapCell(share).locked(|usage| usage.give_back_share(key.customer, 1, half_open));
    }
    nodes::free::<A>(pass.wheel, number);
    pass.removed += 1;
    0
}
