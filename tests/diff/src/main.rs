//! `diff`: the differential test; `cargo xtask diff` runs it. Needs root, iptables and nf_conntrack.
use std::{path::PathBuf, process::ExitCode};

use clap::Parser;
use gateway_tests_kit::text::number;

use gateway_tests_diff::{
    arena::Families,
    purpose,
    run::{Options, run, trace, trace_states},
};

#[derive(Parser)]
#[command(about = "The same packets through the original iptables rules and through our programs")]
struct Cli {
    /// Number of packets, at least
    #[arg(long, default_value_t = 100_000)]
    packets: usize,
    /// Seed of the random numbers
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// nf_conntrack_tcp_loose, with our adoption of mid-stream connections set to match
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=1))]
    loose: u8,
    /// Test IPv4 only; without --ipv4 and --ipv6 both families
    #[arg(long)]
    ipv4: bool,
    /// Test IPv6 only
    #[arg(long)]
    ipv6: bool,
    /// Only print the table of intended differences, as in docs/differences.md
    #[arg(long)]
    differences: bool,
    /// File of all seeds that ever failed
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/seeds.txt"))]
    seeds: PathBuf,
    /// Folder to write each finding to, as a file
    #[arg(long)]
    findings: Option<PathBuf>,
    /// Only run the sequence of this seed, alone, and show its verdicts
    #[arg(long, value_parser = number::<u64>)]
    trace: Option<u64>,
    /// Only shrink the sequence of this seed, which must end in different states, and show it
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
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}
