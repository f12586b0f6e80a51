//! `bench`: the benchmark's measurements; `cargo xtask bench` runs them. Figures go to stdout, a line of
//! JSON each, and what is for people to stderr. Needs root, iproute2, nft and iptables.
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use gateway_tests::{
    bench::{instructions, time},
    lab::{interrupt::Interrupt, mounts},
};

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
    /// Time for each packet, on a machine that is not emulated
    Time(time::Choices),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = mounts::isolate().and_then(|()| Interrupt::install()).and_then(|_interrupt| match &cli.task {
        Task::Instructions(choices) => instructions::run(choices),
        Task::Time(choices) => time::run(choices),
    });
    mounts::clean_up();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
