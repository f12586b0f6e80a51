//! The kernel's connections, as /proc/net/nf_conntrack shows them.
use std::{collections::BTreeMap, fs, net::IpAddr};

use anyhow::{Context, Result};
use gateway_tests_kit::namespace::Namespace;

/// The device's address, its port and the server: state.
pub type States = BTreeMap<(IpAddr, u16, IpAddr), String>;

/// Reads them. The original direction is that of the device, which alone opens connections.
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
