//! The programs' clock.
use aya_ebpf::helpers::bpf_ktime_get_coarse_ns;

use crate::maps::{REPLAY, REPLAY_CLOCK};

/// Returns CLOCK_MONOTONIC as of the last timer tick, in nanoseconds. The value is at most 1/CONFIG_HZ old:
/// 10 ms with HZ=100, 4 ms with HZ=250. Reading it costs a third of `bpf_ktime_get_ns`, and nothing here
/// needs a finer clock.
#[inline(always)]
pub fn now_ns() -> u64 {
    if REPLAY.load() == 1 {
        return REPLAY_CLOCK.get(0).copied().unwrap_or(0);
    }
    // SAFETY: a helper without arguments.
    unsafe { bpf_ktime_get_coarse_ns() }
}
