//! `flood`: the flood test, run by `cargo xtask flood`. Needs root and iproute2.
use std::{process::ExitCode, time::Duration};

use clap::Parser;
use gateway_tests_kit::program::{exit_code, isolated};

use gateway_tests_flood::{opening, run};

#[derive(Parser)]
#[command(about = "One customer and the internet flood the gateway; the other customers must not notice")]
struct Cli {
    /// Duration of the flood in seconds
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(6..=600))]
    seconds: u64,
    /// Run only the control, in which the attacker has no quota and the test must fail
    #[arg(long)]
    without_quotas: bool,
    /// Measure instead what opening and ending this many flows takes on one CPU and on each of two
    #[arg(long, value_name = "FLOWS", value_parser = clap::value_parser!(u32).range(1_000..=8_000_000))]
    opening: Option<u32>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    exit_code(isolated(|| match cli.opening {
        Some(flows) => opening::run(flows),
        None => run::run(Duration::from_secs(cli.seconds), !cli.without_quotas),
    }))
}
