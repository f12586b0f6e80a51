//! gatewayctl beside a gatewayd in each of its states.
#[expect(dead_code, reason = "other tests use the rest")]
mod charon;
mod place;

use std::{
    fs,
    io::{self, BufRead as _, BufReader, Read as _},
    net::Ipv4Addr,
    process::{Command, Output, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use gateway::kernel::maps::Maps;
use gateway_common::{
    tcp::{Flow, FlowKey, State},
    wire::Ipv4,
};
use gateway_tests_kit::process::{ip, wait_for};
use nix::sys::signal::Signal;
use serde_json::Value;

use charon::Pair;
use place::{ACME, GATEWAYD, PATIENCE, Place, Test};

/// The watchdog's time, short so that a reconciliation is late soon.
const WATCHDOG: Duration = Duration::from_millis(800);
/// The only test that needs a real charon.
const WITH_CHARON: &str = "charon_that_is_stopped_killed_or_back_is_named";
/// Status of `gatewayctl status` for a gateway that is degraded.
const DEGRADED: Option<i32> = Some(3);
const SUBCOMMANDS: [&[&str]; 17] = [
    &["status"],
    &["status", "--json"],
    &["status", "--brief"],
    &["drops"],
    &["drops", "--json"],
    &["counters"],
    &["counters", "--json"],
    &["quotas"],
    &["quotas", "--json"],
    &["flows"],
    &["flows", "--json"],
    &["reasons"],
    &["reasons", "--json"],
    &["reload"],
    &["--help"],
    &["detach"],
    &["detach", "--json"],
];

fn main() -> std::process::ExitCode {
    let tests: [(&str, Test); 8] = [
        ("killed_gatewayd_is_not_running_even_as_a_zombie", killed_is_not_running),
        ("stopped_gatewayd_is_shown_as_not_reconciling", stopped_hangs),
        ("status_of_an_earlier_gatewayd_is_not_that_of_the_next", restarted_is_starting),
        ("policy_in_force_has_a_generation_and_the_hash_of_check", policy_is_told),
        ("failure_that_repeats_is_a_count_in_log_and_status", failures_are_counted),
        ("every_subcommand_ends_quietly_on_a_closed_pipe", closed_pipes),
        ("flows_come_while_they_are_read_and_are_filtered", flows_are_listed),
        (WITH_CHARON, charon_is_named),
    ];
    let no_charon = charon::missing();
    if let Some(reason) = &no_charon {
        eprintln!("SKIPPED: the test with a real charon: {reason}");
    }
    let skipped: &[&str] = if no_charon.is_some() { &[WITH_CHARON] } else { &[] };
    place::run(tests, skipped)
}

fn status(place: &Place) -> Result<(Option<i32>, Value)> {
    place.forget_messages()?;
    let output = place.gatewayctl_command(&["status", "--json"]).output()?;
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    Ok((output.status.code(), serde_json::from_slice(&output.stdout).context(errors)?))
}

/// Waits for a status of this kind.
fn wait_for_status(place: &Place, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
    let result = wait_for(what, PATIENCE, || {
        let (code, status) = status(place)?;
        ensure!((code == DEGRADED) != (status["healthy"] == true), "{code:?} {status}");
        Ok(wanted(&status).then_some(status))
    });
    result.with_context(|| format!("the last one is {:?}", status(place)))
}

fn first_reason(status: &Value) -> &str {
    status["reasons"][0].as_str().unwrap_or_default()
}

fn killed_is_not_running(place: &Place) -> Result<()> {
    let daemon = place.start()?;
    let running = wait_for_status(place, "gatewayd to be seen", |status| status["gatewayd"] == "running")?;
    // charon is away, and gatewayd is not to blame for it.
    ensure!(first_reason(&running).starts_with("charon is not"), "{running}");
    ensure!(running["tunnels"][0]["site"] == "berlin", "{running}");
    daemon.signal(Signal::SIGKILL)?;
    // Nobody waits for it: it is a zombie now, whose id and name /proc still shows.
    let stopped = wait_for_status(place, "gatewayd's end", |status| status["gatewayd"] == "not running")?;
    let stat = fs::read_to_string(format!("/proc/{}/stat", daemon.pid()))?;
    ensure!(stat.contains("(gatewayd) Z"), "{stat}");
    ensure!(stopped["reasons"] == serde_json::json!(["gatewayd is not running"]), "{stopped}");
    let text = String::from_utf8(place.gatewayctl("status")?.stdout)?;
    ensure!(text.starts_with("degraded: gatewayd is not running\n"), "{text}");
    let reload = place.gatewayctl("reload")?;
    let errors = String::from_utf8(reload.stderr)?;
    ensure!(reload.status.code() == Some(1) && errors == "error: gatewayd is not running\n", "{errors}");
    Ok(())
}

fn stopped_hangs(place: &Place) -> Result<()> {
    let mut command = place.gatewayd("state");
    // Reconciliations come every 0.4 s, so that one is late soon.
    command.env("WATCHDOG_USEC", WATCHDOG.as_micros().to_string());
    let daemon = place.start_command(command)?;
    wait_for_status(place, "gatewayd to be seen", |status| status["gatewayd"] == "running")?;
    daemon.signal(Signal::SIGSTOP)?;
    wait_for_status(place, "the signal to be seen", |status| {
        status["gatewayd"] == "hung" && first_reason(status).contains("is stopped by a signal")
    })?;
    thread::sleep(Duration::from_secs(2));
    let text = String::from_utf8(place.gatewayctl("status")?.stdout)?;
    let seconds = text.split("has not reconciled for ").nth(1).and_then(|rest| rest.split(' ').next());
    let seconds: u64 = seconds.with_context(|| text.clone())?.parse()?;
    ensure!((1..60).contains(&seconds) && text.contains("gatewayd  hung, pid"), "{text}");
    daemon.signal(Signal::SIGCONT)?;
    wait_for_status(place, "gatewayd to go on", |status| status["gatewayd"] == "running").map(drop)
}

fn restarted_is_starting(place: &Place) -> Result<()> {
    let mut daemon = place.start()?;
    let before = wait_for_status(place, "gatewayd", |status| status["gatewayd"] == "running")?;
    daemon.kill()?;
    // The lock of the pins is held, but not by the process that wrote the status.
    let other = fs::File::open(place.path("bpf"))?;
    other.try_lock()?;
    let (code, starting) = status(place)?;
    ensure!(code == DEGRADED && starting["gatewayd"] == "starting", "{starting}");
    ensure!(first_reason(&starting).contains("is starting"), "{starting}");
    drop(other);
    let _daemon = place.start()?;
    let after = wait_for_status(place, "the next one", |status| status["gatewayd"] == "running")?;
    ensure!(after["policy"]["generation"] == before["policy"]["generation"], "{before} {after}");
    Ok(())
}

fn policy_is_told(place: &Place) -> Result<()> {
    let _daemon = place.start()?;
    let before = wait_for_status(place, "gatewayd", |status| status["gatewayd"] == "running")?;
    ensure!(before["policy"]["generation"] == 1 && before["policy"]["sites"] == 1, "{before}");
    ensure!(before["reconciled_seconds_ago"].is_u64() && before["audited_ns"].is_null(), "{before}");
    let check = |place: &Place| -> Result<String> {
        let output = place.gatewayd("state").arg("--check").output()?;
        let text = String::from_utf8(output.stdout)?;
        Ok(text.lines().find_map(|line| line.strip_prefix("SHA-256 ")).context("no hash")?.to_owned())
    };
    ensure!(before["policy"]["sha256"] == check(place)?.as_str(), "{before}");
    // A comment changes nothing.
    fs::write(place.path("policies/customers/acme.toml"), format!("# comment\n{ACME}"))?;
    ensure!(place.gatewayctl("reload")?.status.success());
    ensure!(status(place)?.1["policy"]["generation"] == 1);
    let globex = ACME.replace("10.200.0.11", "10.200.0.12").replace("acme", "globex");
    fs::write(place.path("policies/customers/globex.toml"), globex)?;
    ensure!(place.gatewayctl("reload")?.status.success());
    let (_, after) = status(place)?;
    ensure!(after["policy"]["generation"] == 2 && after["policy"]["customers"] == 2, "{after}");
    ensure!(after["policy"]["sha256"] == check(place)?.as_str(), "{after}");
    ensure!(after["tunnels"].as_array().is_some_and(|tunnels| tunnels.len() == 2), "{after}");
    fs::remove_file(place.path("policies/customers/globex.toml"))?;
    ensure!(place.gatewayctl("reload")?.status.success());
    let (_, without) = status(place)?;
    ensure!(without["policy"]["sha256"] == before["policy"]["sha256"], "{without}");
    ensure!(without["policy"]["generation"] == 3 && without["tunnels"] == before["tunnels"], "{without}");
    // A refused file: the policy in force stays the same, and the first reason names the fault.
    fs::write(place.path("policies/customers/initech.toml"), "server = \n")?;
    ensure!(!place.gatewayctl("reload")?.status.success());
    let refused = wait_for_status(place, "the fault", |status| status["faults"][0].is_string())?;
    ensure!(refused["policy"]["generation"] == 3, "{refused}");
    let reasons = refused["reasons"].to_string();
    ensure!(reasons.contains(" policy fault") && reasons.contains("initech.toml:1:"), "{reasons}");
    Ok(())
}

fn failures_are_counted(place: &Place) -> Result<()> {
    let _daemon = place.start()?;
    wait_for_status(place, "gatewayd", |status| status["gatewayd"] == "running")?;
    ip("link del lan")?;
    let failing = wait_for_status(place, "the failure to repeat", |status| {
        status["failed"][0].as_str().is_some_and(|line| line.ends_with("(5 times)"))
    })?;
    ensure!(failing["failed"].as_array().is_some_and(|lines| lines.len() == 1), "{failing}");
    ensure!(failing["reasons"].to_string().contains("1 failed change: reconcile: "), "{failing}");
    // It still reconciles, in vain.
    ensure!(failing["gatewayd"] == "running", "{failing}");
    let log = fs::read_to_string(place.path("log"))?;
    let lines = log.lines().filter(|line| line.contains("ERROR") && line.contains("reconcile: "));
    ensure!(lines.count() == 3, "once, after 2 and after 4 times: {log}");
    ip("link add lan type veth peer name lan_peer")?;
    ip("addr add 10.200.0.1/24 dev lan")?;
    ip("link set lan up")?;
    wait_for_status(place, "the failure to end", |status| status["failed"] == serde_json::json!([]))?;
    let log = fs::read_to_string(place.path("log"))?;
    ensure!(log.contains("over: reconcile: "), "{log}");
    Ok(())
}

/// A charon in each of its states, and the only gateway of these tests that is healthy.
fn charon_is_named(place: &Place) -> Result<()> {
    let mut pair = Pair::start()?;
    let mut command = Command::new(GATEWAYD);
    place.arguments_with(&mut command, "state", "bpf", &pair.gateway.socket());
    let _daemon = place.start_command(command)?;
    let healthy = || wait_for_status(place, "a healthy gateway", |status| status["healthy"] == true);
    ensure!(healthy()?["audited_seconds_ago"].is_u64());
    let output = place.gatewayctl("status")?;
    let text = String::from_utf8(output.stdout)?;
    ensure!(output.status.code() == Some(0) && text.starts_with("healthy\n"), "{text}");
    ensure!(text.contains(", followed for ") && text.contains(", all SAs listed "), "{text}");

    let reason = |text: &str| {
        let has = |status: &Value| status["reasons"].to_string().contains(text);
        wait_for_status(place, text, has)
    };
    pair.gateway.freeze()?;
    let stopped = reason("is stopped by a signal")?;
    ensure!(stopped["charon_stopped"] == true, "{stopped}");
    let silent = reason("charon does not answer")?;
    ensure!(silent["charon"].is_string() && silent["charon_since_seconds"].is_u64(), "{silent}");
    pair.gateway.thaw()?;
    healthy()?;
    pair.gateway.stop();
    let away = reason("charon is not connected for ")?;
    ensure!(away["charon"].is_null() && away["charon_stopped"] == false, "{away}");
    pair.gateway.start()?;
    healthy().map(drop)
}

fn closed_pipes(place: &Place) -> Result<()> {
    let _daemon = place.start()?;
    wait_for_status(place, "gatewayd", |status| status["gatewayd"] == "running")?;
    // One flow and one counted drop, so that each command has something to write.
    let flow = FlowKey::new(1, Ipv4::from(Ipv4Addr::new(192, 168, 0, 2)), 40_000);
    Maps::open(&place.pins())?.set_flow(&flow, &Flow::default())?;
    for arguments in SUBCOMMANDS {
        let full = place.gatewayctl_command(arguments).stdout(fs::File::create("/dev/full")?).output()?;
        let errors = String::from_utf8(full.stderr)?;
        let expected = "error: write the output: No space left on device";
        ensure!(full.status.code() == Some(1), "{arguments:?} into a full disk: {}", full.status);
        ensure!(errors.starts_with(expected) && errors.lines().count() == 1, "{arguments:?}: {errors}");
        if arguments[0] == "detach" {
            // The next one needs something to detach.
            continue;
        }
        let output = with_closed_pipe(place, arguments)?;
        let expected = if arguments[0] == "status" { DEGRADED } else { Some(0) };
        ensure!(
            output.status.code() == expected && output.stderr.is_empty(),
            "{arguments:?}: {} {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let output = with_closed_pipe(place, &["detach"])?;
    ensure!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    Ok(())
}

/// Runs gatewayctl with a standard output that nobody reads.
fn with_closed_pipe(place: &Place, arguments: &[&str]) -> Result<Output> {
    let (reader, writer) = io::pipe()?;
    drop(reader);
    let mut command = place.gatewayctl_command(arguments);
    Ok(command.stdout(writer).stderr(Stdio::piped()).spawn()?.wait_with_output()?)
}

fn flows_are_listed(place: &Place) -> Result<()> {
    const FLOWS: u32 = 3000;
    let globex = ACME.replace("10.200.0.11", "10.200.0.12").replace("acme", "globex");
    fs::write(place.path("policies/customers/globex.toml"), globex)?;
    let _daemon = place.start()?;
    let status = wait_for_status(place, "gatewayd", |status| status["gatewayd"] == "running")?;
    let number = |customer: &str| {
        let tunnels = status["tunnels"].as_array().into_iter().flatten();
        let id = tunnels.into_iter().find(|tunnel| tunnel["customer"] == customer)?["id"].as_u64()?;
        u32::try_from(id).ok()
    };
    let globex = number("globex").context("globex has no site")?;
    let mut maps = Maps::open(&place.pins())?;
    let customer = maps.customer("10.200.0.12".parse()?)?.context("globex has no server")?.id;
    for device in 0..FLOWS {
        let address = Ipv4::from(Ipv4Addr::from(u32::from(Ipv4Addr::new(192, 168, 0, 0)) + device));
        let flow = Flow { tunnel: globex, state: State::Established as u8, ..Flow::default() };
        maps.set_flow(&FlowKey::new(customer, address, 40_000), &flow)?;
    }
    let lines = |arguments: &[&str]| -> Result<usize> {
        let output = place.gatewayctl_command(arguments).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?.lines().count())
    };
    let all = FLOWS as usize;
    // The text has a head.
    ensure!(lines(&["flows"])? == all + 1 && lines(&["flows", "--json"])? == all);
    for (filters, expected) in [
        (&["--customer", "acme"][..], 0),
        (&["--customer", "globex", "--site", "berlin"], all),
        (&["--site", "acme.berlin"], 0),
        (&["--address", "192.168.1.0/24"], 256),
        (&["--address", "192.168.1.7"], 1),
        (&["--address", "10.200.0.12"], all),
        (&["--address", "10.200.0.11"], 0),
    ] {
        let found = lines(&[&["flows", "--json"][..], filters].concat())?;
        ensure!(found == expected, "{filters:?}: {found} flows");
    }
    let output = place.gatewayctl_command(&["flows", "--customer", "nobody"]).output()?;
    ensure!(output.status.code() == Some(1) && output.stdout.is_empty(), "{output:?}");
    reader_of_one_line_ends_it(place)
}

/// Reads one line and closes the pipe, as `head -1` does: gatewayctl stops reading the tables.
fn reader_of_one_line_ends_it(place: &Place) -> Result<()> {
    let mut command = place.gatewayctl_command(&["flows", "--json"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut reader = BufReader::new(child.stdout.take().context("no pipe")?);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let flow: Value = serde_json::from_str(&first)?;
    ensure!(
        flow["customer"] == "globex" && flow["site"] == "berlin" && flow["state"] == "established",
        "{first}"
    );
    drop(reader);
    let mut errors = String::new();
    child.stderr.take().context("no pipe")?.read_to_string(&mut errors)?;
    ensure!(child.wait()?.success() && errors.is_empty(), "{errors}");
    Ok(())
}
