//! Measures reading and checking policies, and reporting their faults.
//!
//! Run it in a release build: `cargo +1.98.0 run --release -p gateway --example policies`. Arguments are numbers of
//! customers, 10,000 and 100,000 by default. It needs no root and writes to a temporary directory; files are in
//! the page cache when they are read.
use std::{
    fmt::Write as _,
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use gateway::policy::{Faults, load, reload};
use tempfile::TempDir;

/// Measurements of each case; the median counts.
const ROUNDS: usize = 5;

fn main() -> Result<()> {
    let arguments: Result<Vec<u32>, _> = std::env::args().skip(1).map(|argument| argument.parse()).collect();
    let mut numbers = arguments.context("arguments are numbers of customers")?;
    if numbers.is_empty() {
        numbers = vec![10_000, 100_000];
    }
    println!("| case | customers | faults | report in bytes | median of {ROUNDS} |");
    println!("|---|---|---|---|---|");
    for customers in numbers {
        ensure!(customers <= 1_000_000, "at most 1,000,000 customers");
        let directory = write_policies(customers)?;
        let directory = directory.path();
        measure("read and check", directory, customers)?;
        let policy = load(directory)?;
        let (lasted, ()) = median(|| {
            ensure!(reload(directory, Some(&policy)).faults.is_empty());
            Ok(())
        })?;
        println!("| reload without a change | {customers} | 0 | 0 | {} |", seconds(lasted));
        replace(&directory.join("gateway.toml"), "10.0.0.0/8", "172.16.0.0/12")?;
        measure("wrong `cloud_lan`", directory, customers)?;
    }
    let directory = write_policies(0)?;
    let directory = directory.path();
    let keys: String = (0..104_000).map(|n| format!("k{n:06}=1\n")).collect();
    measure_file("1 MiB of unknown keys", directory, &keys)?;
    let sites: String = (0..16_000).fold("server=\"10.0.0.1\"\n".into(), |mut text, n| {
        let _ = write!(
            text,
            "[[site]]\nname=\"a\"\nidentity=\"a.example\"\nlan=[\"172.16.{}.{}/32\"]\n",
            n / 256,
            n % 256
        );
        text
    });
    measure_file("1 MiB of sites with one name", directory, &sites)?;
    let duplicates = "server=\"10.0.0.1\"\n".repeat(58_000);
    measure_file("1 MiB of one key", directory, &duplicates)
}

/// Writes a gateway part and customers with one site each.
fn write_policies(customers: u32) -> Result<TempDir> {
    let directory = TempDir::new()?;
    let folder = directory.path().join("customers");
    fs::create_dir(&folder)?;
    let limit = customers.max(1);
    fs::write(
        directory.path().join("gateway.toml"),
        format!(
            "[interfaces]\ninternet = \"internet\"\nlan = \"lan\"\ncloud_lan = \"10.0.0.0/8\"\n\
             [ipsec]\nidentity = \"gateway.example\"\ncertificate = \"/gateway.crt\"\n\
             private_key = \"/gateway.key\"\nauthority = \"/ca.crt\"\n\
             [limits]\ntunnels = {limit}\ncustomers = {limit}\nflows = 1048576\n"
        ),
    )?;
    for n in 1..=customers {
        let [_, a, b, c] = n.to_be_bytes();
        let text = format!(
            "# Customer {n}.\nserver = \"10.{a}.{b}.{c}\"\nport = 80\n\n[[site]]\nname = \"berlin\"\n\
             identity = \"berlin.c{n}.example\"\nlan = [\"192.168.0.0/16\"]\n"
        );
        fs::write(folder.join(format!("c{n:07}.toml")), text)?;
    }
    Ok(directory)
}

fn measure_file(case: &str, directory: &Path, text: &str) -> Result<()> {
    ensure!(text.len() <= 1 << 20, "{case}: {} bytes are too many", text.len());
    fs::write(directory.join("customers/acme.toml"), text)?;
    measure(case, directory, 1)
}

/// Measures loading, and printing the faults if there are any.
fn measure(case: &str, directory: &Path, customers: u32) -> Result<()> {
    let (lasted, (faults, bytes)) = median(|| match load(directory) {
        Ok(policy) => {
            ensure!(policy.customers.len() == customers as usize);
            Ok((0, 0))
        }
        Err(faults) => {
            let faults: Faults = faults;
            Ok((faults.len(), faults.to_string().len()))
        }
    })?;
    println!("| {case} | {customers} | {faults} | {bytes} | {} |", seconds(lasted));
    Ok(())
}

fn median<T>(mut run: impl FnMut() -> Result<T>) -> Result<(Duration, T)> {
    let mut results = Vec::new();
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        let result = run()?;
        results.push((begun.elapsed(), result));
    }
    results.sort_by_key(|(lasted, _)| *lasted);
    Ok(results.swap_remove(ROUNDS / 2))
}

fn replace(path: &Path, from: &str, to: &str) -> Result<()> {
    let text = fs::read_to_string(path)?;
    Ok(fs::write(path, text.replace(from, to))?)
}

fn seconds(duration: Duration) -> String {
    format!("{:.3} s", duration.as_secs_f64())
}
