//! The clock that the programs use.

/// Returns CLOCK_MONOTONIC in nanoseconds, like `bpf_ktime_get_ns`.
pub fn monotonic_ns() -> u64 {
    // Cannot fail for this clock (clock_gettime(2)).
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
        .map_or(0, |time| std::time::Duration::from(time).as_nanos() as u64)
}
