//! The decision's tables, in maps.
use aya_ebpf::{
    bindings::{BPF_NOEXIST, bpf_spin_lock},
    helpers,
};
use gateway_common::{
    decide::{FamilyTables, FlowCell, NotInserted, Scratch, Tables, UsageCell},
    layout::{OutboundSpi, Settings, Tunnel, Usage},
    packet::{Inner, Segment},
    tcp::{Flow, FlowKey},
    time::Ticks,
    wire::Ipv6,
};

use crate::{
    expiry,
    maps::{
        INBOUND_SPIS, INNER, NEW_FLOW, OUTBOUND_SPIS, REPLAY, REPLAY_CLOCK, SEGMENT, SETTINGS, Stored,
        TUNNELS, USAGE,
    },
};

/// As the kernel's helpers return it.
const EEXIST: i32 = -17;

/// All maps.
pub struct Maps;

impl Tables for Maps {
    #[inline(always)]
    fn settings(&self) -> Option<&Settings> {
        SETTINGS.get(0)
    }

    #[inline(always)]
    fn tunnel(&self, number: u32) -> Option<&Tunnel> {
        TUNNELS.get(number)
    }

    #[inline(always)]
    fn inbound_spi(&self, spi: u32) -> Option<u32> {
        // SAFETY: an element that is replaced meanwhile stays readable until the program ends
        // (RCU); it is only read.
        unsafe { INBOUND_SPIS.get(&spi) }.copied()
    }

    #[inline(always)]
    fn usage(&self, customer: u32) -> Option<impl UsageCell> {
        USAGE.get_ptr_mut(customer).map(Shared)
    }

    #[inline(always)]
    fn segment_scratch(&self) -> Option<impl Scratch<Segment>> {
        SEGMENT.get_ptr_mut(0).map(Slot)
    }

    #[inline(always)]
    fn flow_scratch(&self) -> Option<impl Scratch<Flow>> {
        NEW_FLOW.get_ptr_mut(0).map(|slot| Slot(slot.cast()))
    }
}

/// This CPU's slot for a value, which it has room for.
struct Slot<T>(*mut T);

impl<T> Scratch<T> for Slot<T> {
    #[inline(always)]
    fn put(&mut self, value: T) -> &mut T {
        // SAFETY: a live map value, this CPU's own. The black box keeps LLVM from using the value itself.
        unsafe {
            *self.0 = value;
            &mut *core::hint::black_box(self.0)
        }
    }
}

impl<A: Stored> FamilyTables<A> for Maps {
    #[inline(always)]
    fn customer(&self, server: A) -> Option<u32> {
        // SAFETY: as in `inbound_spi`.
        unsafe { A::customers().get(&server) }.map(|customer| customer.id)
    }

    #[inline(always)]
    fn flow(&self, key: &FlowKey<A>) -> Option<impl FlowCell> {
        A::flows().get_ptr_mut(key).map(Shared)
    }

    #[inline(always)]
    fn inner_scratch(&self) -> Option<impl Scratch<Inner<A>>> {
        const { assert!(size_of::<Inner<A>>() <= size_of::<Inner<Ipv6>>()) };
        INNER.get_ptr_mut(0).map(|slot| Slot(slot.cast()))
    }

    #[inline(always)]
    fn insert_flow(&self, key: &FlowKey<A>, flow: &Flow, now: Ticks) -> Result<(), NotInserted> {
        let Some(number) = expiry::allocate::<A>() else { return Err(NotInserted::Full) };
        match A::flows().insert(key, flow, u64::from(BPF_NOEXIST)) {
            Ok(()) => {
                expiry::list(number, key, flow.expires, now);
                Ok(())
            }
            Err(error) => {
                expiry::free::<A>(number);
                Err(if error == EEXIST { NotInserted::Exists } else { NotInserted::Full })
            }
        }
    }
}

/// A value that begins with its lock, in its map.
pub struct Shared<T>(pub *mut T);

impl FlowCell for Shared<Flow> {
    #[inline(always)]
    fn tunnel(&self) -> u32 {
        // SAFETY: the pointer is a live map value; one aligned load.
        unsafe { (*self.0).tunnel }
    }

    #[inline(always)]
    fn locked<R>(&self, change: impl FnOnce(&mut Flow) -> R) -> R {
        // SAFETY: the lock is the flow's.
        unsafe { locked(self.0, &raw mut (*self.0).lock, change) }
    }
}

impl UsageCell for Shared<Usage> {
    #[inline(always)]
    fn locked<R>(&self, change: impl FnOnce(&mut Usage) -> R) -> R {
        // SAFETY: the lock is the usage's.
        unsafe { locked(self.0, &raw mut (*self.0).lock, change) }
    }
}

/// Runs `change` while nobody else changes the value.
///
/// # Safety
/// `value` is a live map value and `lock` a field of it, which `change` does not touch.
#[inline(always)]
pub unsafe fn locked<T, R>(
    value: *mut T,
    lock: *mut gateway_common::lock::bpf_spin_lock,
    change: impl FnOnce(&mut T) -> R,
) -> R {
    let lock = lock.cast::<bpf_spin_lock>();
    // SAFETY: as the caller promises; while the lock is held no other program changes the value.
    unsafe {
        helpers::bpf_spin_lock(lock);
        let result = change(&mut *value);
        helpers::bpf_spin_unlock(lock);
        result
    }
}

/// The tunnel that an outbound SPI is known to belong to.
#[inline(always)]
pub fn outbound_owner(spi: OutboundSpi) -> Option<u32> {
    // SAFETY: as in `inbound_spi`.
    unsafe { OUTBOUND_SPIS.get(&spi) }.copied()
}

/// The tunnel's customer number, 0 if there is none.
#[inline(always)]
pub fn customer_of(tunnel: u32) -> u32 {
    TUNNELS.get(tunnel).map_or(0, |tunnel| tunnel.customer)
}

/// CLOCK_MONOTONIC, as of the last timer interrupt: reading it costs a third, and nothing here needs more
/// than its 4 ms.
#[inline(always)]
pub fn now_ns() -> u64 {
    if REPLAY.load() == 1 {
        return REPLAY_CLOCK.get(0).copied().unwrap_or(0);
    }
    // SAFETY: a helper without arguments.
    unsafe { helpers::bpf_ktime_get_coarse_ns() }
}
