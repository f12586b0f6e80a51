//! `diff`: the differential test, which `cargo xtask diff` runs. Needs root, iptables and nf_conntrack.
use std::{path::PathBuf, process::ExitCode};

use clap::Parser;
use gateway_tests_kit::{program::exit_code, text::number};

use gateway_tests_diff::{
    arena::Families,
    purpose,
    run::{Options, run, trace, trace_states},
};

#[derive(Parser)]
#[command(about = "Sends the same packets through the original iptables rules and through our programs")]
struct Cli {
    /// Send at least this many packets
    #[arg(long, default_value_t = 100_000)]
    packets: usize,
    /// Seed of the random numbers
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Value of nf_conntrack_tcp_loose; our programs adopt mid-stream connections if it is 1
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=1))]
    loose: u8,
    /// Send IPv4 only; without --ipv4 or --ipv6, both families
    #[arg(long)]
    ipv4: bool,
    /// Send IPv6 only
    #[arg(long)]
    ipv6: bool,
    /// Only print docs/differences.md, the table of intended differences
    #[arg(long)]
    differences: bool,
    /// File of the seeds that ever failed, which run first; the default is relative to the repository
    #[arg(long, default_value = "tests/diff/seeds.txt")]
    seeds: PathBuf,
    /// Write each finding to a file in this folder, too
    #[arg(long)]
    findings: Option<PathBuf>,
    /// Only run the sequence of this seed and print the verdicts of both sides
    #[arg(long, value_parser = number::<u64>)]
    trace: Option<u64>,
    /// Only shrink the sequence of this seed, which ends in different states, and print it
    #[arg(long, value_parser = number::<u64>)]
    trace_states: Option<u64>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if cli.differences {
        print!("{}", purpose::markdown());
        return ExitCode::SUCCESS;
    }
    let loose = cli.loose == 1;
    let families = match (cli.ipv4, cli.ipv6) {
        (true, false) => Families::V4,
        (false, true) => Families::V6,
        _ => Families::Both,
    };
    let Cli { packets, seed, seeds, findings, .. } = cli;
    let result = match (cli.trace, cli.trace_states) {
        (_, Some(seed)) => trace_states(seed, loose, families).map(|()| true),
        (Some(seed), _) => trace(seed, loose, families).map(|()| true),
        (None, None) => run(&Options { packets, seed, loose, families, seeds, findings }),
    };
    exit_code(result)
}
