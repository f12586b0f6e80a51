//! `lab`: the whole system in network namespaces, as a demonstration (`run`) or a test suite (`test`).
//! Needs root and a kernel with ESP; `cargo xtask run` and `cargo xtask test` provide both.
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
    /// Demonstrate tunnels, requests and attacks; exit status 0 only if everything held
    Run {
        #[command(flatten)]
        programs: ProgramArgs,
        /// Open a shell on the gateway afterwards
        #[arg(long, conflicts_with = "stay")]
        shell: bool,
        /// Keep the lab up until Ctrl-C afterwards
        #[arg(long)]
        stay: bool,
    },
    /// Run every attack and every scenario as a named test
    Test {
        #[command(flatten)]
        programs: ProgramArgs,
        /// Filter and options of a Rust test harness
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
}

#[derive(Args)]
struct ProgramArgs {
    /// Folder that holds gatewayd and gatewayctl
    #[arg(long)]
    bin_dir: PathBuf,
    /// Folder of policies
    #[arg(long)]
    policy: PathBuf,
    /// Replace gatewayd with a gateway that forwards everything, to show what the attacks achieve without it
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
    /// Makes the paths absolute: processes in namespaces have other working directories.
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
