//! Numbers as the eBPF verifier can follow them: array indices within bounds, and values it must not track.

/// Masks a number to an index below `N`, a power of two. The black box hides the number's range from LLVM,
/// which would otherwise drop the mask as redundant; the verifier of Linux 6.12 does not know that range
/// and would then reject the access.
#[inline(always)]
pub fn masked_index<const N: usize>(number: u8) -> usize {
    const { assert!(N.is_power_of_two()) };
    core::hint::black_box(number) as usize & (N - 1)
}

/// Returns the slot of this number, if there is one. The black box hides the number's range from LLVM, which would
/// otherwise drop the check of the bound; the verifier does not know that range.
#[inline(always)]
pub fn slot_of<const N: usize>(slots: &mut [u64; N], number: u8) -> Option<&mut u64> {
    slots.get_mut(core::hint::black_box(number) as usize)
}

/// Returns the same number, about which the verifier knows nothing. Otherwise the verifier carries what
/// each comparison says about a number into all later comparisons and explores one path for every
/// combination. `salt` is a value the verifier does not know: one from a packet or a map.
#[inline(always)]
pub fn forget_range(number: u8, salt: u32) -> u8 {
    (core::hint::black_box(u32::from(number) ^ salt) ^ salt) as u8
}
