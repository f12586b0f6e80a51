//! `bench`: the benchmark's measurements; `cargo xtask bench` runs them. Figures go to stdout, a line of
//! JSON each, and what is for people to stderr. Needs root, iproute2, nft and iptables.
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use gateway_tests::bench::{check, report};

#[derive(Parser)]
#[command(about = "Measures this project and its contenders side by side")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Write tables and plots, of figures measured anew and of those that are there
    Report(report::Choices),
    /// Compare what ours costs in instructions with the committed figures
    Check(check::Choices),
}

fn main() -> ExitCode {
    let result = match &Cli::parse().task {
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
