//! `diff`: the differential test, which `cargo xtask diff` runs. Needs root, iptables and nf_conntrack.
use std::{path::PathBuf, process::ExitCode};

use clap::Parser;
use gateway_tests_kit::text::number;

use gateway_tests_diff::{
    arena::Families,
    purpose,
    run::{Options, run, trace, trace_states},
};

#[derive(Parser)]
#[command(about = "Sends the same packets through the original iptables rules and through our programs")]
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
    /// IPv4 alone; both families unless one is named
    #[arg(long)]
    ipv4: bool,
    /// IPv6 alone
    #[arg(long)]
    ipv6: bool,
    /// Only print the table of differences on purpose, as docs/differences.md has it
    #[arg(long)]
    differences: bool,
    /// The file of seeds that ever failed
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/seeds.txt"))]
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
