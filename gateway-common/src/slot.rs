//! Array indices that the eBPF verifier can follow.

/// The index for a number below `N`, a power of two. The black box hides the number's range from
/// LLVM, which would drop the mask as needless; the verifier of Linux 6.12, which does not know that
/// range, would then refuse the access.
#[inline(always)]
pub fn slot<const N: usize>(number: u8) -> usize {
    const { assert!(N.is_power_of_two()) };
    core::hint::black_box(number) as usize & (N - 1)
}
