//! The kernel's connection tracking: its table is one for all network namespaces.
use std::fs;

use anyhow::{Context, Result};

const BUCKETS: &str = "/proc/sys/net/netfilter/nf_conntrack_buckets";
const MOST: &str = "/proc/sys/net/netfilter/nf_conntrack_max";

/// Its sizes as they are for a measurement; dropping it puts back what was.
#[derive(Debug)]
pub struct Table {
    before: Vec<(&'static str, u32)>,
}

impl Table {
    /// Room for so many connections; `tuned`: and buckets for their tuples, two for each.
    pub fn with_room(flows: u32, tuned: bool) -> Result<Self> {
        let mut table = Self { before: Vec::new() };
        table.raise(MOST, flows.saturating_mul(2))?;
        if tuned {
            table.raise(BUCKETS, flows.saturating_mul(2).next_power_of_two())?;
        }
        Ok(table)
    }

    fn raise(&mut self, path: &'static str, least: u32) -> Result<()> {
        let context = || format!("{path} (is nf_conntrack there, and is this the machine's own namespace?)");
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
                eprintln!("cannot set {path} to {value} again: {error}");
            }
        }
    }
}
