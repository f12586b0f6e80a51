//! `bench`: the benchmark's measurements; `cargo xtask bench` runs them. Figures go to stdout, a line of
//! JSON each, and what is for people to stderr. Needs root, iproute2, nft and iptables.
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
    /// Write tables and plots, of figures measured anew and of those that are there
    Report(report::Choices),
    /// Compare what ours costs in instructions with the committed figures
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

/// With a `/run` of its own, which is gone afterwards, however it ends.
fn isolated(measure: impl FnOnce() -> Result<()>) -> Result<bool> {
    let result = mounts::isolate().and_then(|()| Interrupt::install()).and_then(|_interrupt| measure());
    mounts::clean_up();
    result.map(|()| true)
}
