//! Array indices that the eBPF verifier can follow.

/// The index for a number below `N`, a power of two. The black box hides the number's range from
/// LLVM, which would drop the mask as needless; the verifier of Linux 6.12, which does not know that
/// range, would then refuse the access.
#[inline(always)]
pub fn slot<const N: usize>(number: u8) -> usize {
    const { assert!(N.is_power_of_two()) };
    core::hint::black_box(number) as usize & (N - 1)
}

/// The same number, of which the verifier knows nothing. It follows what each comparison tells about a
/// number into all later ones, a way of its own for every combination, unless it forgets. `salt` is
/// something that it does not know: what came from a packet or a map.
#[inline(always)]
pub fn forget(number: u8, salt: u32) -> u8 {
    (core::hint::black_box(u32::from(number) ^ salt) ^ salt) as u8
}
