//! The clock that the programs use.

/// CLOCK_MONOTONIC in nanoseconds, as `bpf_ktime_get_ns` has it.
pub fn monotonic_ns() -> u64 {
    // It cannot fail for this clock (clock_gettime(2)).
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
        .map_or(0, |time| std::time::Duration::from(time).as_nanos() as u64)
}
