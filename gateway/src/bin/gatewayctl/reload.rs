//! `gatewayctl reload`: has gatewayd read the policies again, and reports what it refused.
use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use gateway::{
    approval,
    kernel::{clock::monotonic_ns, pins::Pins},
    lock::holder,
    process::Process,
    status::Status,
};
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
pub fn report(state: &Path, pins: &Pins, force: bool) -> Result<Report> {
    let mut status = reload(state, pins)?;
    if let Some(held_back_ns) = status.held_back_ns.filter(|_| force) {
        approval::approve(state, held_back_ns)?;
        let forced = reload(state, pins);
        // One that gatewayd has not taken must not wait for a later reload.
        approval::take(state);
        status = forced?;
    }
    result(&status)
}

/// Sends SIGHUP and waits for the status of a reload that began after it.
fn reload(state: &Path, pins: &Pins) -> Result<Status> {
    let before = Status::read(state)
        .with_context(|| format!("no status in {}: has gatewayd run here?", state.display()))?;
    let daemon = holder(pins.directory())?.context("gatewayd is not running")?;
    let is_of = |status: &Status, daemon: Process| status.started_ticks == daemon.started_ticks;
    ensure!(is_of(&before, daemon), "gatewayd is starting, and reads the policies");
    let asked_ns = monotonic_ns();
    kill(Pid::from_raw(daemon.pid), Signal::SIGHUP).context("send gatewayd SIGHUP")?;
    let started = Instant::now();
    while started.elapsed() < PATIENCE {
        let status = Status::read(state)?;
        if is_of(&status, daemon) && status.reload_began_ns.is_some_and(|began| began >= asked_ns) {
            return Ok(status);
        }
        ensure!(
            holder(pins.directory())? == Some(daemon),
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
    let sites = status.policy.sites;
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
