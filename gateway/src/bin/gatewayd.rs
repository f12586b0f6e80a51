//! The gateway's daemon.
use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::Parser;
use gateway::{
    control::lock::lock,
    daemon::{Daemon, Inputs, Options},
    kernel::pins::{DEFAULT_DIRECTORY, Pins},
    strongswan::DEFAULT_SOCKET,
};
use tracing_subscriber::EnvFilter;

/// Lets each customer's IoT LANs reach that customer's server, TCP and one port, and nothing else.
///
/// Reads the policies, attaches the eBPF programs, drives strongSwan over VICI and follows the
/// tunnels. Killing it changes nothing for packets; a new one takes over what is attached.
/// SIGHUP makes it read the policies again. `gatewayctl detach` removes the programs.
///
/// Exit status: 0 ended by a signal, 1 failed, 2 the policies have faults (nothing was changed).
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Folder with gateway.toml and customers/*.toml
    #[arg(long, value_name = "DIR")]
    policy: PathBuf,
    /// Folder for what must outlive a restart: the numbers of tunnels and customers
    #[arg(long, value_name = "DIR", env = "GATEWAY_STATE", default_value = "/var/lib/gateway")]
    state: PathBuf,
    /// charon's VICI socket
    #[arg(long, value_name = "SOCKET", default_value = DEFAULT_SOCKET)]
    vici: PathBuf,
    /// Folder for pinned links and maps; a bpffs is mounted there if it is on none
    #[arg(long, value_name = "DIR", env = "GATEWAY_PIN", default_value = DEFAULT_DIRECTORY)]
    pin: PathBuf,
    /// Only check the policies and the files they name
    #[arg(long)]
    check: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info")))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .init();
    let options = Options {
        policy: arguments.policy,
        state: arguments.state,
        vici: arguments.vici,
        pins: Pins::new(arguments.pin),
    };
    let inputs = match Inputs::load(&options) {
        Ok(inputs) => inputs,
        Err(faults) => {
            eprintln!("{faults}");
            return ExitCode::from(2);
        }
    };
    if arguments.check {
        println!("{}: no faults; {}", options.policy.display(), inputs.describe());
        return ExitCode::SUCCESS;
    }
    match run(options, inputs) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn run(options: Options, inputs: Inputs) -> Result<()> {
    let _lock = lock(&options.state)?;
    let customers = inputs.describe();
    let daemon = Daemon::start(options, inputs).await?;
    tracing::info!("ready: {customers}");
    daemon.run().await
}
