//! Inspects a gateway and detaches it. Reads the pinned maps, so it works while gatewayd is not running.
mod cookies;
mod counters;
mod flows;
mod names;
mod output;
mod pki;
mod quotas;
mod reasons;
mod reload;
mod report;
mod selection;
mod status;
mod table;
mod table_use;

use std::{
    io::{self, ErrorKind, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Result;
use clap::{Parser, Subcommand};
use gateway::{
    kernel::{
        interface,
        maps::Maps,
        pins::{DEFAULT_DIRECTORY, Pins},
    },
    lock::{START_LIMIT, hold_forwarding},
};

use crate::{
    names::Names,
    output::Output,
    report::{Format, Report},
    selection::Filters,
};

/// Exit status of `status` if the gateway is degraded.
const DEGRADED: u8 = 3;

/// Inspects a gateway: tunnels, flows, and why packets were dropped. Also detaches it, and makes certificates.
///
/// Reads the pinned eBPF maps and gatewayd's state directory, so every command works while gatewayd is not
/// running; `status` then shows the last known state. Needs root, but for `pki` and `reasons`.
#[derive(Parser)]
#[command(version, after_help = EXAMPLES)]
struct Arguments {
    /// Directory of gatewayd's pinned links and maps
    #[arg(long, global = true, value_name = "DIR", env = "GATEWAY_PIN", default_value = DEFAULT_DIRECTORY)]
    pin: PathBuf,
    /// gatewayd's state directory
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "GATEWAY_STATE",
        default_value = "/var/lib/gateway"
    )]
    state: PathBuf,
    /// Print JSON instead of tables
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  gatewayctl status             Is the gateway healthy, which tunnels are up?
  gatewayctl drops              Why were packets dropped, by customer?
  gatewayctl status --brief     The same without sites and customers, for a probe
  gatewayctl flows --customer acme --address 192.168.1.0/24
  gatewayctl flows --json | jq 'select(.handshake == \"half-open\")'

Tables fit the terminal, or COLUMNS if set: cells wrap, and the least important columns disappear. The output of
`flows` comes while the tables are read: its columns have fixed widths, and with --json each line is an object.

Exit status:
  0  success; of `status`: the gateway is healthy
  1  the command failed; standard error states the reason
  2  invalid arguments
  3  of `status`: the gateway is degraded; the first lines state the reasons";

#[derive(Subcommand)]
enum Command {
    /// Show whether the gateway is healthy, the state of gatewayd, charon, policy and tunnels, and quota use
    Status(status::Options),
    /// Count dropped packets by customer and reason; customer `-` stands for unattributed packets
    Drops,
    /// Count passed packets and opened connections by customer
    Counters,
    /// Show the use of quotas by customer, and of the shares of their sites
    Quotas,
    /// List the connections in the flow tables
    Flows(Filters),
    /// List all drop reasons with their numbers and meanings
    Reasons,
    /// Have gatewayd read the policies again, wait until they are in force, and fail if it refused any
    Reload {
        /// If they are held back because they remove many customers, let exactly these removals through
        #[arg(long)]
        force: bool,
    },
    /// Stop forwarding, detach all programs and delete all flows
    Detach,
    /// Make and keep certificates, offline: needs no gatewayd, no network and no root
    Pki(Box<pki::Arguments>),
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return usage(&error),
    };
    let mut output = Output::new(io::stdout().lock());
    match run(&arguments, &mut output).and_then(|code| output.flush().map(|()| code)) {
        Ok(code) => code,
        Err(error) => {
            complain(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments, output: &mut Output<io::StdoutLock>) -> Result<ExitCode> {
    let pins = Pins::new(&arguments.pin);
    let state: &Path = &arguments.state;
    let format = Format::new(arguments.json);
    let mut code = ExitCode::SUCCESS;
    let report = match &arguments.command {
        Command::Status(options) => {
            let (report, healthy) = status::report(state, &pins, *options)?;
            if !healthy {
                code = ExitCode::from(DEGRADED);
            }
            report
        }
        Command::Drops => counters::drops(&Maps::open(&pins)?, &Names::read(state)?)?,
        Command::Counters => counters::counters(&Maps::open(&pins)?, &Names::read(state)?)?,
        Command::Quotas => quotas::report(&Maps::open(&pins)?, state)?,
        Command::Flows(filters) => {
            flows::list(&pins, &Names::read(state)?, filters, format, output)?;
            return Ok(code);
        }
        Command::Reasons => reasons::report(),
        Command::Reload { force } => reload::report(state, &pins, *force)?,
        Command::Detach => detach(state, &pins)?,
        Command::Pki(pki) => pki::run(pki)?,
    };
    output.write(&report.render(format)?)?;
    Ok(code)
}

/// Stops forwarding before it removes the programs that keep customers apart. Needs only the names of the
/// pins, so it works for any version that pinned them.
fn detach(state: &Path, pins: &Pins) -> Result<Report> {
    // A gatewayd that finds its programs attached turns forwarding on.
    let _held = hold_forwarding(state, START_LIMIT);
    interface::stop_forwarding()?;
    pins.remove()?;
    Ok(Report::line("detached: nothing is forwarded; restart gatewayd to attach again"))
}

/// Prints help or version, or the reason why the arguments are invalid.
fn usage(error: &clap::Error) -> ExitCode {
    let code = ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
    match error.print().and_then(|()| io::stdout().flush()) {
        Err(unwritten) if unwritten.kind() != ErrorKind::BrokenPipe && !error.use_stderr() => {
            complain(&format!("error: write the output: {unwritten}"));
            ExitCode::FAILURE
        }
        _ => code,
    }
}

/// Writes to the standard error, unless nobody reads it.
fn complain(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}
