//! gatewayd as a service manager runs it: readiness, signs of life, reloads, capabilities, its lock, its bpffs. Every test
//! has its own network namespace; all of them share a mount namespace that is not process 1's.
#[expect(dead_code, reason = "other tests use the rest")]
mod charon;
#[path = "service/status.rs"]
mod status;

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::{net::UnixDatagram, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, Output},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use gateway::kernel::pins::Pins;
use gateway_tests_kit::{
    pki::{Authority, Validity, write_private, write_public},
    process::{Process, tail},
    test_run,
};
use libtest_mimic::{Arguments, Trial};
use nix::{
    sched::{CloneFlags, unshare},
    sys::signal::Signal,
};
use tempfile::TempDir;
use time::OffsetDateTime;

/// Time limit of a wait, far above what gatewayd needs.
const PATIENCE: Duration = Duration::from_secs(20);
/// The watchdog's time, short so that the test sees several signs of life.
const WATCHDOG: Duration = Duration::from_millis(800);
const GATEWAYD: &str = env!("CARGO_BIN_EXE_gatewayd");
const GATEWAYCTL: &str = env!("CARGO_BIN_EXE_gatewayctl");
/// Relative to the package, in which cargo runs its tests.
const UNIT: &str = "../packaging/systemd/gatewayd.service";
const ACME: &str = "server = \"10.200.0.11\"\n[[site]]\nname = \"berlin\"\nidentity = \"berlin.acme.example\"\n\
                    lan = [\"192.168.0.0/16\"]\n";

type Test = fn(&Place) -> Result<()>;

fn main() -> std::process::ExitCode {
    let tests: [(&str, Test); 15] = [
        ("gatewayd_tells_when_it_is_ready_and_alive_and_stops", readiness_and_life),
        ("reload_is_announced_and_its_status_names_what_was_refused", reload_is_announced),
        ("gatewayctl_reload_waits_for_its_result", reload_waits),
        ("second_gatewayd_with_another_state_folder_is_refused", second_is_refused),
        ("second_gatewayd_is_refused_after_detach", second_is_refused_after_detach),
        ("bpffs_is_not_mounted_outside_of_process_1s_mount_namespace", mount_is_refused),
        ("bpffs_is_mounted_in_process_1s_mount_namespace", mount_is_done),
        ("units_capabilities_suffice_and_each_is_needed", capabilities),
        ("killed_gatewayd_is_not_running_even_as_a_zombie", status::killed_is_not_running),
        ("stopped_gatewayd_is_shown_as_not_reconciling", status::stopped_hangs),
        ("status_of_an_earlier_gatewayd_is_not_that_of_the_next", status::restarted_is_starting),
        ("policy_in_force_has_a_generation_and_the_hash_of_check", status::policy_is_told),
        ("failure_that_repeats_is_a_count_in_log_and_status", status::failures_are_counted),
        ("every_subcommand_ends_quietly_on_a_closed_pipe", status::closed_pipes),
        ("flows_come_while_they_are_read_and_are_filtered", status::flows_are_listed),
    ];
    let missing = test_run::prepare().and_then(|()| test_run::supported()).err();
    if let Some(missing) = &missing {
        eprintln!("SKIPPED: {missing:#}");
    }
    let no_charon = charon::missing();
    if let (None, Some(reason)) = (&missing, &no_charon) {
        eprintln!("SKIPPED: the test with a real charon: {reason}");
    }
    let trial = |name: &str, test: Test, ignored: bool| {
        let test = move || in_place(test).map_err(|error| format!("{error:#}").into());
        Trial::test(name, test).with_ignored_flag(ignored)
    };
    let mut trials: Vec<Trial> =
        tests.into_iter().map(|(name, test)| trial(name, test, missing.is_some())).collect();
    trials.push(trial(
        "charon_that_is_stopped_killed_or_back_is_named",
        status::charon_is_named,
        missing.is_some() || no_charon.is_some(),
    ));
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// A folder with policies and keys, and the service manager's socket.
struct Place {
    folder: TempDir,
    socket: UnixDatagram,
}

/// Runs a test in a thread with its own network namespace, which has the policy's two interfaces.
fn in_place(test: Test) -> Result<()> {
    let thread = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).context("cannot create a network namespace")?;
        for (name, address) in [("internet", "203.0.113.1/24"), ("lan", "10.200.0.1/24")] {
            ip(&format!("link add {name} type veth peer name {name}_peer"))?;
            ip(&format!("addr add {address} dev {name}"))?;
            ip(&format!("link set {name} up"))?;
        }
        test(&Place::new()?)
    });
    thread.join().map_err(|_| anyhow!("the test panicked"))?
}

fn ip(arguments: &str) -> Result<()> {
    let status = Command::new("ip").args(arguments.split_whitespace()).status()?;
    ensure!(status.success(), "ip {arguments}: {status}");
    Ok(())
}

impl Place {
    fn new() -> Result<Self> {
        let folder = TempDir::new()?;
        let path = |name: &str| folder.path().join(name);
        fs::create_dir_all(path("policies/customers"))?;
        let pki = folder.path().display();
        let gateway = format!(
            "[interfaces]\ninternet = \"internet\"\nlan = \"lan\"\ncloud_lan = \"10.200.0.0/24\"\n[ipsec]\n\
             identity = \"gateway.example\"\ncertificate = \"{pki}/gateway.crt\"\n\
             private_key = \"{pki}/gateway.key\"\nauthority = \"{pki}/ca.crt\"\n\
             [limits]\ntunnels = 16\ncustomers = 16\nflows = 4096\n"
        );
        fs::write(path("policies/gateway.toml"), gateway)?;
        fs::write(path("policies/customers/acme.toml"), ACME)?;
        let now = OffsetDateTime::now_utc();
        let validity = Validity { from: now - time::Duration::days(1), until: now + time::Duration::days(1) };
        let authority = Authority::new("test root", validity)?;
        let issued = authority.issue("gateway.example", validity)?;
        write_public(&path("ca.crt"), authority.certificate_pem())?;
        write_public(&path("gateway.crt"), &issued.certificate_pem)?;
        write_private(&path("gateway.key"), &issued.key_pem)?;
        let socket = UnixDatagram::bind(path("notify"))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { folder, socket })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn pins(&self) -> Pins {
        Pins::new(self.path("bpf"))
    }

    /// Returns gatewayd's command with this state folder.
    fn gatewayd(&self, state: &str) -> Command {
        let mut command = Command::new(GATEWAYD);
        self.arguments(&mut command, state);
        command
    }

    fn arguments(&self, command: &mut Command, state: &str) {
        self.arguments_with(command, state, "bpf", Path::new("/nonexistent"));
    }

    fn arguments_with(&self, command: &mut Command, state: &str, pins: &str, vici: &Path) {
        command
            .arg("--policy")
            .arg(self.path("policies"))
            .arg("--state")
            .arg(self.path(state))
            .arg("--pin")
            .arg(self.path(pins))
            .arg("--vici")
            .arg(vici)
            .env("NOTIFY_SOCKET", self.path("notify"));
    }

    /// Starts gatewayd on a bpffs that is mounted already, and waits until it is ready.
    fn start(&self) -> Result<Process> {
        self.start_command(self.gatewayd("state"))
    }

    fn start_command(&self, command: Command) -> Result<Process> {
        self.pins().prepare()?;
        let daemon = Process::start(command, &self.path("log"))?;
        self.wait_for("READY=1")?;
        Ok(daemon)
    }

    /// Reads what gatewayd has told the service manager: it waits while the socket is full.
    fn drain(&self) -> Result<()> {
        self.socket.set_nonblocking(true)?;
        while self.socket.recv(&mut [0; 4096]).is_ok() {}
        Ok(self.socket.set_nonblocking(false)?)
    }

    fn gatewayctl(&self, subcommand: &str) -> Result<Output> {
        Ok(self.gatewayctl_command(&[subcommand]).output()?)
    }

    fn gatewayctl_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(GATEWAYCTL);
        command.args(arguments).arg("--state").arg(self.path("state")).arg("--pin").arg(self.path("bpf"));
        command
    }

    /// Returns the next message.
    fn message(&self) -> Result<String> {
        let mut buffer = [0; 4096];
        let log = || format!("no message of gatewayd, whose log ends:\n{}", tail(&self.path("log")));
        let length = self.socket.recv(&mut buffer).with_context(log)?;
        Ok(String::from_utf8(buffer[..length].to_vec())?)
    }

    /// Returns the first message that has this line.
    fn wait_for(&self, line: &str) -> Result<String> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let message = self.message()?;
            if message.lines().any(|other| other == line) {
                return Ok(message);
            }
        }
        bail!("no message has the line {line}")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // The mount namespace ends with this process.
        let _ = self.pins().remove();
    }
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
