//! Threads on chosen CPUs.
use anyhow::{Context, Result};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

/// Keeps this thread on the first CPU it may run on.
pub fn on_first_cpu() -> Result<()> {
    stay_on(allowed()?.into_iter().next())
}

/// Keeps this thread on the last CPU it may run on.
pub fn on_last_cpu() -> Result<()> {
    stay_on(allowed()?.into_iter().next_back())
}

/// Returns the CPUs that this thread may run on, in order.
pub fn allowed() -> Result<Vec<usize>> {
    let allowed = sched_getaffinity(this_thread()).context("read the CPU affinity")?;
    Ok((0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap_or(false)).collect())
}

/// Keeps this thread on one CPU.
pub fn on_cpu(cpu: usize) -> Result<()> {
    stay_on(Some(cpu))
}

fn stay_on(cpu: Option<usize>) -> Result<()> {
    let mut one = CpuSet::new();
    one.set(cpu.context("there is no CPU to run on")?)?;
    sched_setaffinity(this_thread(), &one).context("stay on one CPU")
}

fn this_thread() -> Pid {
    Pid::from_raw(0)
}
