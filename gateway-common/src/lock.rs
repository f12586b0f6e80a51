//! The spin lock of map values.

/// `struct bpf_spin_lock`; the kernel finds it by its name in BTF.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct bpf_spin_lock {
    #[doc(hidden)]
    pub val: u32,
}
