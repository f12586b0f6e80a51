//! `lab`: the whole system in network namespaces, shown (`run`) or tested (`test`). Needs root and a
//! kernel with ESP; `cargo xtask run` and `cargo xtask test` find one.
use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use gateway_tests_kit::{interrupt::Interrupt, mounts};

use gateway_tests_lab::{
    gateway::Programs,
    lab::ensure_root,
    run::{Then, run},
    suite,
};

#[derive(Parser)]
#[command(about = "The whole system in network namespaces, demonstrated or tested")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show it: tunnels, requests, attacks; status 0 only if all held
    Run {
        #[command(flatten)]
        programs: ProgramArgs,
        /// Then open a shell on the gateway
        #[arg(long, conflicts_with = "stay")]
        shell: bool,
        /// Then stay up until Ctrl-C
        #[arg(long)]
        stay: bool,
    },
    /// Test it: each attack and each scenario is a test with a name
    Test {
        #[command(flatten)]
        programs: ProgramArgs,
        /// A filter and options, as every Rust test takes them
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
}

#[derive(Args)]
struct ProgramArgs {
    /// The folder of gatewayd and gatewayctl
    #[arg(long)]
    bin_dir: PathBuf,
    /// The folder of policies
    #[arg(long)]
    policy: PathBuf,
    /// Put a gateway that forwards everything in gatewayd's place: shows what the attacks do unhindered
    #[arg(long)]
    without_gatewayd: bool,
}

fn main() -> ExitCode {
    let result = start(Cli::parse());
    mounts::clean_up();
    result.unwrap_or_else(|error| {
        eprintln!("\nlab: {error:#}");
        ExitCode::FAILURE
    })
}

fn start(cli: Cli) -> Result<ExitCode> {
    ensure_root()?;
    match cli.command {
        Command::Run { programs, shell, stay } => {
            let programs = programs.resolve()?;
            let then = match (shell, stay) {
                (true, _) => Then::Shell,
                (_, true) => Then::Stay,
                _ => Then::End,
            };
            mounts::isolate()?;
            let held = run(programs, then, &Interrupt::install()?)?;
            Ok(if held { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Command::Test { programs, args } => {
            let programs = programs.resolve()?;
            mounts::isolate()?;
            let _interrupt = Interrupt::install()?;
            suite::test(programs, args)
        }
    }
}

impl ProgramArgs {
    /// Absolute paths: processes in namespaces have other working directories.
    fn resolve(self) -> Result<Programs> {
        let absolute = |path: PathBuf| {
            fs::canonicalize(&path).with_context(|| format!("cannot find {}", path.display()))
        };
        Ok(Programs {
            bin_dir: absolute(self.bin_dir)?,
            // The open gateway reads no policies, so the folder need not exist.
            policy_dir: if self.without_gatewayd { self.policy } else { absolute(self.policy)? },
            without_gatewayd: self.without_gatewayd,
        })
    }
}
