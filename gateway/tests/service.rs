//! gatewayd as a service manager runs it: readiness, signs of life, reloads, capabilities, its lock, its bpffs. Every test
//! has its own network namespace; all of them share a mount namespace that is not process 1's.
mod place;

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Command, Output},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use gateway_tests_kit::process::Process;
use nix::sys::signal::Signal;
use place::{ACME, GATEWAYD, Place, Test};

/// The watchdog's time, short so that the test sees several signs of life.
const WATCHDOG: Duration = Duration::from_millis(800);
/// Relative to the package, in which cargo runs its tests.
const UNIT: &str = "../packaging/systemd/gatewayd.service";

fn main() -> std::process::ExitCode {
    let tests: [(&str, Test); 8] = [
        ("gatewayd_tells_when_it_is_ready_and_alive_and_stops", readiness_and_life),
        ("reload_is_announced_and_its_status_names_what_was_refused", reload_is_announced),
        ("gatewayctl_reload_waits_for_its_result", reload_waits),
        ("second_gatewayd_with_another_state_folder_is_refused", second_is_refused),
        ("second_gatewayd_is_refused_after_detach", second_is_refused_after_detach),
        ("bpffs_is_not_mounted_outside_of_process_1s_mount_namespace", mount_is_refused),
        ("bpffs_is_mounted_in_process_1s_mount_namespace", mount_is_done),
        ("units_capabilities_suffice_and_each_is_needed", capabilities),
    ];
    place::run(tests, &[])
}

fn readiness_and_life(place: &Place) -> Result<()> {
    let mut command = place.gatewayd("state");
    command.env("WATCHDOG_USEC", WATCHDOG.as_micros().to_string());
    place.pins().prepare()?;
    let daemon = Process::start(command, &place.path("log"))?;
    // The first reconciliation has ended.
    let ready = place.message()?;
    ensure!(ready.starts_with("READY=1\nSTATUS=1 customers with 1 sites"), "{ready}");
    ensure!(fs::read_to_string("/proc/sys/net/ipv4/conf/lan/forwarding")?.trim() == "1");
    for _ in 0..3 {
        let begun = Instant::now();
        place.wait_for("WATCHDOG=1")?;
        ensure!(begun.elapsed() < WATCHDOG, "{:?} without a sign of life", begun.elapsed());
    }
    ensure!(daemon.end(Signal::SIGTERM)?.success());
    place.wait_for("STOPPING=1").map(drop)
}

fn reload_is_announced(place: &Place) -> Result<()> {
    let daemon = place.start()?;
    fs::write(place.path("policies/customers/globex.toml"), "server = \n")?;
    daemon.signal(Signal::SIGHUP)?;
    let begun = place.wait_for("RELOADING=1")?;
    ensure!(begun.lines().any(|line| line.starts_with("MONOTONIC_USEC=")), "{begun}");
    let ready = place.wait_for("READY=1")?;
    ensure!(
        ready.contains("STATUS=1 customers with 1 sites; refused") && ready.contains("globex.toml"),
        "{ready}"
    );
    Ok(())
}

fn reload_waits(place: &Place) -> Result<()> {
    let _daemon = place.start()?;
    let globex = ACME.replace("10.200.0.11", "10.200.0.12").replace("acme", "globex");
    fs::write(place.path("policies/customers/globex.toml"), &globex)?;
    let output = place.gatewayctl("reload")?;
    let printed = String::from_utf8(output.stdout)? + &String::from_utf8(output.stderr)?;
    ensure!(output.status.success() && printed == "reloaded: 2 sites\n", "{printed}");

    fs::write(place.path("policies/customers/globex.toml"), globex.replace("10.200.0.12", "10.201.0.12"))?;
    let output = place.gatewayctl("reload")?;
    let printed = String::from_utf8(output.stderr)?;
    ensure!(output.status.code() == Some(1) && printed.contains("globex.toml:1:"), "{printed}");
    ensure!(printed.starts_with("error: "), "{printed}");
    Ok(())
}

fn second_is_refused(place: &Place) -> Result<()> {
    let mut daemon = place.start()?;
    refused(place.gatewayd("another-state").output()?, place)?;
    // By another name of the directory, too.
    std::os::unix::fs::symlink(place.path("bpf"), place.path("alias"))?;
    let mut command = Command::new(GATEWAYD);
    place.arguments_with(&mut command, "another-state", "alias", Path::new("/nonexistent"));
    let output = command.output()?;
    let printed = String::from_utf8(output.stderr)?;
    ensure!(output.status.code() == Some(1) && printed.contains("another gatewayd is running"), "{printed}");
    daemon.ensure_running()?;
    daemon.kill()?;
    place.start_command(place.gatewayd("state")).map(drop)
}

/// A gatewayd that has been detached still runs; beside another one it would write the same maps.
fn second_is_refused_after_detach(place: &Place) -> Result<()> {
    let mut daemon = place.start()?;
    let output = place.gatewayctl("detach")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    ensure!(!place.pins().exist() && place.path("bpf").exists());
    refused(place.gatewayd("another-state").output()?, place)?;
    daemon.kill()?;
    // Now nobody holds the lock, and nothing is left.
    ensure!(place.gatewayctl("detach")?.status.success());
    ensure!(!place.path("bpf").exists());
    place.start().map(drop)
}

fn refused(output: Output, place: &Place) -> Result<()> {
    let printed = String::from_utf8(output.stderr)?;
    let expected = format!("error: another gatewayd is running with {}", place.path("bpf").display());
    ensure!(output.status.code() == Some(1) && printed.lines().any(|line| line == expected), "{printed}");
    Ok(())
}

fn mount_is_refused(place: &Place) -> Result<()> {
    let output = place.gatewayd("state").output()?;
    let printed = String::from_utf8(output.stderr)?;
    ensure!(output.status.code() == Some(1), "{printed}");
    ensure!(printed.contains("it is in another mount namespace than process 1"), "{printed}");
    ensure!(printed.contains("systemctl start run-gateway-bpf.mount"), "{printed}");
    ensure!(!place.pins().exist());
    // One that somebody has mounted serves, and the log says that it ends with this namespace.
    drop(place.start()?);
    let log = fs::read_to_string(place.path("log"))?;
    ensure!(log.contains("process 1 does not have the bpffs"), "{log}");
    Ok(())
}

/// Makes a PID namespace, whose process 1 is a shell in the same mount namespace as gatewayd.
fn mount_is_done(place: &Place) -> Result<()> {
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--kill-child", "--mount", "--mount-proc"]);
    command.args(["sh", "-c", "\"$@\" & wait", "sh", GATEWAYD]);
    place.arguments(&mut command, "state");
    let _daemon = Process::start(command, &place.path("log"))?;
    place.wait_for("READY=1")?;
    let log = fs::read_to_string(place.path("log"))?;
    ensure!(!log.contains("process 1 does not have"), "{log}");
    Ok(())
}

fn capabilities(place: &Place) -> Result<()> {
    let unit = fs::read_to_string(UNIT)?;
    let line = unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet="));
    let names: Vec<&str> = line.context("the unit bounds no capabilities")?.split(' ').collect();
    let numbers = names.iter().map(|name| number(name)).collect::<Result<BTreeSet<_>>>()?;
    place.pins().prepare()?;
    for without in &numbers {
        let mut fewer = numbers.clone();
        fewer.remove(without);
        let output = bounded(place.gatewayd("state"), fewer).output()?;
        ensure!(output.status.code() == Some(1), "gatewayd starts without capability {without}");
        // The failed start has left some pins.
        ensure!(place.gatewayctl("detach")?.status.success());
        place.pins().prepare()?;
    }
    place.start_command(bounded(place.gatewayd("state"), numbers)).map(drop)
}

/// Returns a capability's number (linux/capability.h).
fn number(name: &str) -> Result<libc::c_ulong> {
    match name {
        "CAP_NET_ADMIN" => Ok(12),
        "CAP_PERFMON" => Ok(38),
        "CAP_BPF" => Ok(39),
        _ => bail!("add the number of {name}"),
    }
}

/// Limits a command to these capabilities, as a service manager does.
fn bounded(mut command: Command, keep: BTreeSet<libc::c_ulong>) -> Command {
    let limit = move || {
        for capability in (0..64).filter(|capability| !keep.contains(capability)) {
            // SAFETY: prctl with integers only. It fails for numbers that the kernel does not know.
            unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
        }
        // SAFETY: as above.
        match unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    // SAFETY: the closure only makes system calls, which is allowed between fork and exec.
    unsafe { command.pre_exec(limit) };
    command
}
