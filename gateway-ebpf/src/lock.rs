//! Spin locks in map values.
use aya_ebpf::{bindings::bpf_spin_lock, helpers};
use gateway_common::{
    decide::{FlowCell, UsageCell},
    layout::Usage,
    tcp::Flow,
};

/// Runs `change` while nobody else changes the value.
///
/// # Safety
/// `value` is a live map value and `lock` a field of it, which `change` does not touch.
#[inline(always)]
pub unsafe fn with_lock<T, R>(
    value: *mut T,
    lock: *mut gateway_common::lock::bpf_spin_lock,
    change: impl FnOnce(&mut T) -> R,
) -> R {
    let lock = lock.cast::<bpf_spin_lock>();
    // SAFETY: guaranteed by the caller; while the lock is held no other program changes the value.
    unsafe {
        helpers::bpf_spin_lock(lock);
        let result = change(&mut *value);
        helpers::bpf_spin_unlock(lock);
        result
    }
}

/// A value in its map, guarded by the lock it begins with.
pub struct MapCell<T>(pub *mut T);

impl FlowCell for MapCell<Flow> {
    #[inline(always)]
    fn tunnel(&self) -> u32 {
        // SAFETY: the pointer is a live map value; one aligned load.
        unsafe { (*self.0).tunnel }
    }

    #[inline(always)]
    fn locked<R>(&self, change: impl FnOnce(&mut Flow) -> R) -> R {
        // SAFETY: the lock is the flow's.
        unsafe { with_lock(self.0, &raw mut (*self.0).lock, change) }
    }
}

impl UsageCell for MapCell<Usage> {
    #[inline(always)]
    fn locked<R>(&self, change: impl FnOnce(&mut Usage) -> R) -> R {
        // SAFETY: the lock is the usage's.
        unsafe { with_lock(self.0, &raw mut (*self.0).lock, change) }
    }
}
