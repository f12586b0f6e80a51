//! `bench`: the benchmark's measurements, run by `cargo xtask bench`. Prints figures to stdout, one line of
//! JSON each, and progress to stderr. Needs root, iproute2, nft and iptables.
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use gateway_tests_kit::program::{exit_code, isolated};

use gateway_tests_bench::{check, control, instructions, memory, report, time, tunnels};

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
    /// The cost of many tunnels: IKE, and gatewayd
    Tunnels(tunnels::Choices),
    /// Write tables and plots from new and stored figures
    Report(report::Choices),
    /// Compare this project's instructions with the committed figures
    Check(check::Choices),
}

fn main() -> ExitCode {
    exit_code(match &Cli::parse().task {
        Task::Instructions(choices) => measured(|| instructions::run(choices)),
        Task::Time(choices) => measured(|| time::run(choices)),
        Task::Control(choices) => measured(|| control::run(choices)),
        Task::Memory(choices) => measured(|| memory::run(choices)),
        Task::Tunnels(choices) => measured(|| tunnels::run(choices)),
        Task::Report(choices) => report::run(choices).map(|()| true),
        Task::Check(choices) => check::run(choices),
    })
}

/// Runs a measurement, which holds if it does not fail.
fn measured(measure: impl FnOnce() -> Result<()>) -> Result<bool> {
    isolated(measure).map(|()| true)
}
