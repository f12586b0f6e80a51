//! The table of the kernel's connection tracking, shared by all network namespaces.
use std::fs;

use anyhow::{Context, Result};

const BUCKETS: &str = "/proc/sys/net/netfilter/nf_conntrack_buckets";
const MOST: &str = "/proc/sys/net/netfilter/nf_conntrack_max";

/// The table's sizes during a measurement. Drop restores the previous ones.
#[derive(Debug)]
pub struct Table {
    before: Vec<(&'static str, u32)>,
}

impl Table {
    /// Makes room for `flows` connections, and if `tuned` also for a bucket for each of their two tuples.
    pub fn with_room(flows: u32, tuned: bool) -> Result<Self> {
        let mut table = Self { before: Vec::new() };
        table.raise(MOST, flows.saturating_mul(2))?;
        if tuned {
            table.raise(BUCKETS, flows.saturating_mul(2).next_power_of_two())?;
        }
        Ok(table)
    }

    fn raise(&mut self, path: &'static str, least: u32) -> Result<()> {
        let context = || format!("{path} (needs the nf_conntrack module and the initial network namespace)");
        let text = fs::read_to_string(path).with_context(context)?;
        let now: u32 = text.trim().parse().with_context(context)?;
        if now < least {
            fs::write(path, least.to_string()).with_context(context)?;
            self.before.push((path, now));
        }
        Ok(())
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        for (path, value) in self.before.drain(..).rev() {
            if let Err(error) = fs::write(path, value.to_string()) {
                eprintln!("cannot reset {path} to {value}: {error}");
            }
        }
    }
}
