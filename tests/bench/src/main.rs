//! `bench`: the benchmark's measurements, run by `cargo xtask bench`. Prints figures to stdout, one line of
//! JSON each, and progress to stderr. Needs root, iproute2, nft and iptables.
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use gateway_tests_kit::{interrupt::Interrupt, mounts};

use gateway_tests_bench::{check, control, instructions, memory, report, time};

#[derive(Parser)]
#[command(about = "Measures this project and its contenders side by side")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Instructions for each packet, on a machine whose clock counts them
    Instructions(instructions::Choices),
    /// Time for each packet, on a machine without emulation
    Time(time::Choices),
    /// Time to load customers and to add one
    Control(control::Choices),
    /// Kernel memory for each flow and each customer
    Memory(memory::Choices),
    /// Write tables and plots from new and stored figures
    Report(report::Choices),
    /// Compare this project's instructions with the committed figures
    Check(check::Choices),
}

fn main() -> ExitCode {
    let result = match &Cli::parse().task {
        Task::Instructions(choices) => isolated(|| instructions::run(choices)),
        Task::Time(choices) => isolated(|| time::run(choices)),
        Task::Control(choices) => isolated(|| control::run(choices)),
        Task::Memory(choices) => isolated(|| memory::run(choices)),
        Task::Report(choices) => report::run(choices).map(|()| true),
        Task::Check(choices) => check::run(choices),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Runs a measurement with a private `/run`, and removes it afterwards even if the measurement fails.
fn isolated(measure: impl FnOnce() -> Result<()>) -> Result<bool> {
    let result = mounts::isolate().and_then(|()| Interrupt::install()).and_then(|_interrupt| measure());
    mounts::clean_up();
    result.map(|()| true)
}
