//! Inspects a gateway and detaches it. Reads the pinned maps, so it works while gatewayd is not running.
mod cookies;
mod counters;
mod flows;
mod names;
mod quotas;
mod reasons;
mod reload;
mod report;
mod status;
mod table;

use std::{
    io::{self, ErrorKind, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Result;
use clap::{Parser, Subcommand};
use gateway::kernel::{
    interface,
    maps::Maps,
    pins::{DEFAULT_DIRECTORY, Pins},
};

use crate::{names::Names, report::Report};

/// Inspects a gateway: tunnels, flows, and why packets were dropped. Also detaches it.
///
/// Reads the pinned eBPF maps and gatewayd's state directory, so every command works while gatewayd is not
/// running; `status` then shows the last known state. Needs root.
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
  gatewayctl flows --json | jq '.[] | select(.customer == \"acme\")'

Tables fit the terminal, or COLUMNS if set: cells wrap, and the least important columns disappear.

Exit status:
  0  success
  1  the command failed; standard error states the reason
  2  invalid arguments";

#[derive(Subcommand)]
enum Command {
    /// Show the state of gatewayd, charon and the tunnels, policy faults, failed changes and quota use
    Status,
    /// Count dropped packets by customer and reason; customer `-` stands for unattributed packets
    Drops,
    /// Count passed packets and opened connections by customer
    Counters,
    /// Show the use of quotas by customer, and of the shares of their sites
    Quotas,
    /// List the connections in the flow tables
    Flows,
    /// List all drop reasons with their numbers and meanings
    Reasons,
    /// Have gatewayd read the policies again, wait until they are in force, and fail if it refused any
    Reload,
    /// Stop forwarding, detach all programs and delete all flows
    Detach,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let format = report::Format::new(arguments.json);
    match run(&arguments).and_then(|report| print(&report.render(format)?)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<Report> {
    let pins = Pins::new(&arguments.pin);
    let state: &Path = &arguments.state;
    match arguments.command {
        Command::Status => status::report(state, &pins),
        Command::Drops => counters::drops(&Maps::open(&pins)?, &Names::read(state)?),
        Command::Counters => counters::counters(&Maps::open(&pins)?, &Names::read(state)?),
        Command::Quotas => quotas::report(&Maps::open(&pins)?, state),
        Command::Flows => flows::report(&Maps::open(&pins)?, Names::read(state)?),
        Command::Reasons => Ok(reasons::report()),
        Command::Reload => reload::report(state),
        Command::Detach => detach(&pins),
    }
}

/// Stops forwarding before it removes the programs that keep customers apart. Needs only the names of the
/// pins, so it works for any version that pinned them.
fn detach(pins: &Pins) -> Result<Report> {
    interface::stop_forwarding()?;
    pins.remove()?;
    Ok(Report::line("detached: nothing is forwarded; restart gatewayd to attach again"))
}

/// Writes the output. A reader that closes the pipe early, such as `head`, is not an error.
fn print(text: &str) -> Result<()> {
    let mut output = io::stdout().lock();
    match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result?),
    }
}
