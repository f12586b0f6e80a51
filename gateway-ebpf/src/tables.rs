//! The decision's tables, in maps.
use aya_ebpf::{
    bindings::{BPF_NOEXIST, bpf_spin_lock},
    helpers,
};
use gateway_common::{
    decide::{FlowCell, Full, Tables},
    layout::{Customer, Flow, FlowKey, OutboundSpi, Settings, Tunnel},
    packet::Segment,
    wire::Ipv4,
};

use crate::maps::{
    CUSTOMERS, FLOWS, INBOUND_SPIS, OUTBOUND_SPIS, REPLAY, REPLAY_CLOCK, SEGMENT, SETTINGS, TUNNELS,
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
    fn customer(&self, server: Ipv4) -> Option<&Customer> {
        // SAFETY: an element that is replaced meanwhile stays readable until the program ends
        // (RCU); it is only read.
        unsafe { CUSTOMERS.get(&server) }
    }

    #[inline(always)]
    fn inbound_spi(&self, spi: u32) -> Option<u32> {
        // SAFETY: as in `customer`.
        unsafe { INBOUND_SPIS.get(&spi) }.copied()
    }

    #[inline(always)]
    fn flow(&self, key: &FlowKey) -> Option<impl FlowCell> {
        FLOWS.get_ptr_mut(key).map(Cell)
    }

    #[inline(always)]
    fn through_memory(&self, segment: Segment) -> Segment {
        let Some(slot) = SEGMENT.get_ptr_mut(0) else { return segment };
        // SAFETY: this CPU's own slot. The black box keeps LLVM from passing the value on directly.
        unsafe {
            *slot = segment;
            *core::hint::black_box(slot)
        }
    }

    #[inline(always)]
    fn insert_flow(&self, key: &FlowKey, flow: &Flow) -> Result<(), Full> {
        match FLOWS.insert(key, flow, u64::from(BPF_NOEXIST)) {
            // Another CPU has just opened it with a copy of this SYN.
            Ok(()) | Err(EEXIST) => Ok(()),
            Err(_) => Err(Full),
        }
    }
}

struct Cell(*mut Flow);

impl FlowCell for Cell {
    #[inline(always)]
    fn tunnel(&self) -> u32 {
        // SAFETY: the pointer is a live map value; one aligned load.
        unsafe { (*self.0).tunnel }
    }

    #[inline(always)]
    fn locked<R>(&self, change: impl FnOnce(&mut Flow) -> R) -> R {
        // SAFETY: the pointer is a live map value, the lock is its field, and while it is held no
        // other program changes the flow.
        unsafe {
            let lock = (&raw mut (*self.0).lock).cast::<bpf_spin_lock>();
            helpers::bpf_spin_lock(lock);
            let result = change(&mut *self.0);
            helpers::bpf_spin_unlock(lock);
            result
        }
    }
}

/// What holds for the whole gateway, once it is filled in.
#[inline(always)]
pub fn settings() -> Option<&'static Settings> {
    SETTINGS.get(0).filter(|settings| settings.ready == 1)
}

/// The tunnel that an outbound SPI is known to belong to.
#[inline(always)]
pub fn outbound_owner(spi: OutboundSpi) -> Option<u32> {
    // SAFETY: as in `customer`.
    unsafe { OUTBOUND_SPIS.get(&spi) }.copied()
}

/// The tunnel's customer number, 0 if there is none.
#[inline(always)]
pub fn customer_of(tunnel: u32) -> u32 {
    TUNNELS.get(tunnel).map_or(0, |tunnel| tunnel.customer)
}

/// CLOCK_MONOTONIC.
#[inline(always)]
pub fn now_ns() -> u64 {
    if REPLAY.load() == 1 {
        return REPLAY_CLOCK.get(0).copied().unwrap_or(0);
    }
    // SAFETY: a helper without arguments.
    unsafe { helpers::bpf_ktime_get_ns() }
}
