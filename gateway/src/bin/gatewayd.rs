//! The gateway's daemon.
use std::{
    fs::DirBuilder,
    io::{self, IsTerminal, Write},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result};
use clap::Parser;
use gateway::{
    adoption::pinned_limits,
    cookies::Rotation,
    daemon::{Daemon, Options},
    fingerprint::fingerprint,
    inputs::{Inputs, Reading},
    kernel::pins::{DEFAULT_DIRECTORY, Pins},
    last_good::LastGood,
    lock::lock,
    policy::{self, check_certificates, read_credentials},
    strongswan::DEFAULT_SOCKET,
};
use time::OffsetDateTime;
use tracing_subscriber::EnvFilter;

/// Connects each customer's IoT LANs to that customer's server on one TCP port, and blocks everything else.
///
/// Reads the policies, attaches the eBPF programs, configures strongSwan over VICI and follows the tunnels.
/// SIGHUP reloads the policies. Packets keep flowing when gatewayd ends: the programs stay attached until
/// `gatewayctl detach`, and the next gatewayd adopts them. Needs root.
#[derive(Parser)]
#[command(version, after_help = EXAMPLES)]
struct Arguments {
    /// Directory with gateway.toml and customers/*.toml
    #[arg(long, value_name = "DIR")]
    policy: PathBuf,
    /// Directory for state that survives restarts: numbers of tunnels and customers, the last good policy, status
    #[arg(long, value_name = "DIR", env = "GATEWAY_STATE", default_value = "/var/lib/gateway")]
    state: PathBuf,
    /// charon's VICI socket
    #[arg(long, value_name = "SOCKET", default_value = DEFAULT_SOCKET)]
    vici: PathBuf,
    /// Directory for pinned links and maps; gatewayd mounts a bpffs there unless it is on one or in a sandbox
    #[arg(long, value_name = "DIR", env = "GATEWAY_PIN", default_value = DEFAULT_DIRECTORY)]
    pin: PathBuf,
    /// Check the policies and the files they name, then exit
    #[arg(long)]
    check: bool,
    /// Check without the private key, and without certificates that do not exist on this machine
    #[arg(long, requires = "check")]
    no_secrets: bool,
}

const EXAMPLES: &str = "\
Examples:
  gatewayd --policy policies/ --check   Report every fault of the policies, change nothing
  gatewayd --policy policies/ --check --no-secrets   The same where the private key is not, as in CI
  gatewayd --policy policies/           Run until SIGTERM or SIGINT
  RUST_LOG=debug gatewayd --policy policies/

Exit status:
  0  ended by SIGTERM or SIGINT, or --check found no fault
  1  failed; standard error states the reason
  2  gateway.toml has faults and no last good version of it is kept, nothing was changed;
     or --check found faults; or invalid arguments";

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info")))
        .with_writer(io::stderr)
        // A log that cannot be written, as on a full disk, must not end gatewayd.
        .log_internal_errors(false)
        .with_ansi(io::stderr().is_terminal())
        .init();
    if arguments.check {
        return check(&arguments.policy, arguments.no_secrets);
    }
    let options = Options {
        policy: arguments.policy,
        state: arguments.state,
        vici: arguments.vici,
        pins: Pins::new(arguments.pin),
    };
    let last_good = LastGood::read(&options.state).unwrap_or_default();
    let tables = pinned_limits(&options.pins);
    let reading = Inputs::start(&options.policy, &last_good, &options.state, tables);
    let Some(inputs) = &reading.inputs else {
        return without_policy(&reading);
    };
    reading.log();
    let is_saved = inputs.last_good() == last_good;
    drop(last_good);
    match run(options, reading, is_saved) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Reports why there is no policy to start with. Another attempt helps once a folder is there, and not before an operator
/// has mended `gateway.toml`.
fn without_policy(reading: &Reading) -> ExitCode {
    eprintln!("{}", reading.faults);
    if reading.is_unlisted {
        eprintln!(
            "error: the customers are unknown: their folder cannot be read, and no last good policy is kept"
        );
        return ExitCode::FAILURE;
    }
    eprintln!("error: gateway.toml has faults, and no last good version of it is kept");
    ExitCode::from(2)
}

/// Reports every fault of the policies and of the files they name.
fn check(directory: &Path, no_secrets: bool) -> ExitCode {
    let reload = policy::reload(directory, None);
    let mut faults = reload.faults;
    let mut unchecked = Vec::new();
    let mut described = String::new();
    let mut sha256 = String::new();
    if let Some(policy) = reload.policy {
        let now = OffsetDateTime::now_utc();
        let found = if no_secrets {
            let (found, files) = check_certificates(&policy.gateway, now);
            unchecked = files;
            found
        } else {
            read_credentials(&policy.gateway, now).faults
        };
        faults.extend(found.iter().cloned());
        described = policy.describe();
        sha256 = fingerprint(&policy);
    }
    if !faults.is_empty() {
        eprintln!("{faults}");
        return ExitCode::from(2);
    }
    // The exit status is the result, so a reader that closes the pipe early changes nothing.
    let mut out = io::stdout();
    let _ = writeln!(out, "{}: no faults; {described}", directory.display());
    let _ = writeln!(out, "SHA-256 {sha256}");
    for file in unchecked {
        let _ = writeln!(out, "not checked: {}", file.display());
    }
    ExitCode::SUCCESS
}

#[tokio::main(flavor = "current_thread")]
async fn run(options: Options, reading: Reading, is_saved: bool) -> Result<()> {
    // Nobody else's: whoever may open it may hold its lock.
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder.create(&options.state).with_context(|| format!("create {}", options.state.display()))?;
    // The maps and interfaces belong to one gatewayd, and so do the numbers and the status in the state directory.
    let _locks = (options.pins.prepare_and_lock()?, lock(&options.state)?);
    let customers = reading.inputs.as_ref().map(Inputs::describe).unwrap_or_default();
    let pins = options.pins.clone();
    let daemon = Daemon::start(options, reading, is_saved).await?;
    let _rotation = Rotation::start(&pins)?;
    tracing::info!("ready: {customers}");
    daemon.run().await
}
