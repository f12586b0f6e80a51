//! Measures what gatewayd's status costs: the part about the gateway, the record of one site, which is written when that
//! site changes, and all of them, which are written at a start and read by `gatewayctl status`.
//!
//! Run it in a release build: `cargo +1.98.0 run --release -p gateway --example status`. Arguments are numbers of sites,
//! 100, 10,000 and 100,000 by default. It needs no root and writes to a temporary directory.
use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use gateway::status::{FILE, PolicyStatus, Status, TunnelStatus, TunnelsFile, tunnels};
use tempfile::TempDir;

/// Measurements of each case; the median counts.
const ROUNDS: usize = 5;

fn main() -> Result<()> {
    let arguments: Result<Vec<usize>, _> =
        std::env::args().skip(1).map(|argument| argument.parse()).collect();
    let mut numbers = arguments.context("arguments are numbers of sites")?;
    if numbers.is_empty() {
        numbers = vec![100, 10_000, 100_000];
    }
    println!("| file | sites | bytes | written in | read in |");
    println!("|---|---|---|---|---|");
    for sites in numbers {
        let directory = TempDir::new()?;
        let state = directory.path();
        let status = status(sites);
        measure(FILE, sites, state, || status.write(state), || Status::read(state).map(drop))?;
        let all = sites_of(sites);
        measure(
            tunnels::FILE,
            sites,
            state,
            || {
                let file = TunnelsFile::create(state)?;
                all.iter().try_for_each(|tunnel| file.set(tunnel))?;
                file.publish(state)
            },
            || tunnels::read(state).map(drop),
        )?;
        let file = TunnelsFile::create(state)?;
        let one = &all[sites / 2];
        println!("| one record of it | {sites} | | {:.2?} | |", median(|| file.set(one))?);
    }
    Ok(())
}

/// Returns the status of a gateway with this many sites, and as much as it ever names of what is wrong.
fn status(sites: usize) -> Status {
    let lines = |count: usize| vec!["x".repeat(200); count];
    Status {
        policy: PolicyStatus { sites, customers: sites, sha256: "0".repeat(64), ..PolicyStatus::default() },
        strangers: lines(64),
        crowded: lines(16),
        failed: lines(33),
        ..Status::default()
    }
}

fn sites_of(sites: usize) -> Vec<TunnelStatus> {
    let site = |id: usize| TunnelStatus {
        customer: format!("customer-{id}"),
        site: "berlin".into(),
        id: id as u32,
        up: true,
        peer: Some("203.0.113.200:4500".into()),
        cipher: Some("AES_GCM_16_256/CURVE_25519".into()),
        encapsulated: true,
        mss: (1398, 1378),
        path_mtu_bytes: None,
    };
    (1..=sites).map(site).collect()
}

fn measure(
    file: &str,
    sites: usize,
    state: &Path,
    write: impl Fn() -> Result<()>,
    read: impl Fn() -> Result<()>,
) -> Result<()> {
    let (written, read) = (median(write)?, median(read)?);
    let bytes = fs::metadata(state.join(file))?.len();
    println!("| {file} | {sites} | {bytes} | {written:.2?} | {read:.2?} |");
    Ok(())
}

fn median(run: impl Fn() -> Result<()>) -> Result<Duration> {
    let mut results = Vec::new();
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        run()?;
        results.push(begun.elapsed());
    }
    results.sort();
    Ok(results[ROUNDS / 2])
}
