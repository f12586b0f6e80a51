//! `diff`: the differential test; `cargo xtask diff` runs it. Needs root, iptables and nf_conntrack.
use std::{path::PathBuf, process::ExitCode};

use clap::Parser;
use gateway_tests::{
    diff::run::{Options, run, trace, trace_states},
    replay::packet::number,
};

#[derive(Parser)]
#[command(about = "The same packets through the original iptables rules and through our programs")]
struct Cli {
    /// So many packets at least
    #[arg(long, default_value_t = 100_000)]
    packets: usize,
    /// Where random numbers begin
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// nf_conntrack_tcp_loose, and midstream of ours accordingly
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=1))]
    loose: u8,
    /// The file of seeds that ever failed
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/diff/seeds.txt"))]
    seeds: PathBuf,
    /// Also write each finding to a file in this folder
    #[arg(long)]
    findings: Option<PathBuf>,
    /// Only show what becomes of the sequence of this seed, run alone
    #[arg(long, value_parser = number::<u64>)]
    trace: Option<u64>,
    /// Only shrink the sequence of this seed, which ends in different states, and show it
    #[arg(long, value_parser = number::<u64>)]
    trace_states: Option<u64>,
}

fn main() -> ExitCode {
    let Cli { packets, seed, loose, seeds, findings, trace: only, trace_states: states } = Cli::parse();
    let result = match (only, states) {
        (_, Some(seed)) => trace_states(seed, loose == 1).map(|()| true),
        (Some(seed), _) => trace(seed, loose == 1).map(|()| true),
        (None, None) => run(&Options { packets, seed, loose: loose == 1, seeds, findings }),
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
