//! The kernel's connections, from /proc/net/nf_conntrack.
use std::{collections::BTreeMap, fs, net::IpAddr};

use anyhow::{Context, Result};
use gateway_tests_kit::namespace::Namespace;

/// State by the device's address, its port and the server's address.
pub type States = BTreeMap<(IpAddr, u16, IpAddr), String>;

/// Reads the states. The original direction is the device's: only devices open connections.
pub fn read(namespace: &Namespace) -> Result<States> {
    let text = namespace.enter(|| Ok(fs::read_to_string("/proc/thread-self/net/nf_conntrack")?))?;
    text.lines().filter(|line| line.contains(" tcp ")).map(parse).collect()
}

fn parse(line: &str) -> Result<((IpAddr, u16, IpAddr), String)> {
    // ipv4 2 tcp 6 119 SYN_SENT src=192.168.0.2 dst=10.200.0.11 sport=1024 dport=80 [UNREPLIED] src=…
    let mut words = line.split_whitespace();
    let state = words.nth(5).context("no state")?.to_owned();
    let mut value = |key: &str| -> Result<&str> {
        words.find_map(|word| word.strip_prefix(key)).with_context(|| format!("no {key} in {line:?}"))
    };
    let (device, server) = (value("src=")?.parse()?, value("dst=")?.parse()?);
    Ok(((device, value("sport=")?.parse()?, server), state))
}
