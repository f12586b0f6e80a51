//! `gatewayctl reload`: has gatewayd read the policies again, and reports what it refused.
use std::{
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use gateway::{approval, kernel::clock::monotonic_ns, status::Status};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::report::Report;

/// Time limit, above what 100,000 customers take. A reload goes on after it.
const PATIENCE: Duration = Duration::from_secs(60);
/// Interval of looks at the status.
const INTERVAL: Duration = Duration::from_millis(20);

/// Has gatewayd reload, and reports the result. If `force` is set and customers' removals are held back, approves those
/// that this reload found, and no others.
pub fn report(state: &Path, force: bool) -> Result<Report> {
    let mut status = reload(state)?;
    if let Some(held_back_ns) = status.held_back_ns.filter(|_| force) {
        approval::approve(state, held_back_ns)?;
        let forced = reload(state);
        // One that gatewayd has not taken must not wait for a later reload.
        approval::take(state);
        status = forced?;
    }
    result(&status)
}

/// Sends SIGHUP and waits for the status of a reload that began after it.
fn reload(state: &Path) -> Result<Status> {
    let before = Status::read(state)
        .with_context(|| format!("no status in {}: has gatewayd run here?", state.display()))?;
    ensure!(is_running(before.pid), "gatewayd is not running");
    let asked_ns = monotonic_ns();
    let pid = i32::try_from(before.pid).context("the status has no process id")?;
    kill(Pid::from_raw(pid), Signal::SIGHUP).context("send gatewayd SIGHUP")?;
    let started = Instant::now();
    while started.elapsed() < PATIENCE {
        let status = Status::read(state)?;
        if status.pid == before.pid && status.reload_began_ns.is_some_and(|began| began >= asked_ns) {
            return Ok(status);
        }
        ensure!(
            is_running(before.pid),
            "gatewayd has ended, and the next one will read the policies at its start"
        );
        thread::sleep(INTERVAL);
    }
    bail!(
        "the reload has not ended within {} s: `gatewayctl status` will show its result",
        PATIENCE.as_secs()
    )
}

fn result(status: &Status) -> Result<Report> {
    let sites = status.tunnels.len();
    ensure!(
        status.faults.is_empty(),
        "{}, and not everything is in force ({sites} sites are):\n{}",
        match status.faults.len() {
            1 => "1 fault".to_owned(),
            faults => format!("{faults} faults"),
        },
        status.faults.join("\n")
    );
    ensure!(
        status.failed.is_empty(),
        "the policies are read, but changes failed:\n{}",
        status.failed.join("\n")
    );
    Ok(Report::line(&format!("reloaded: {sites} sites")))
}

/// Returns true if this is the process of a gatewayd. The kernel gives the number of one that has ended to others.
fn is_running(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "gatewayd")
}
