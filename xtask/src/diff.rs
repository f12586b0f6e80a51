//! `cargo xtask diff`: the differential test, natively if the kernel supports the original iptables rules, else
//! in the virtual machine.
use anyhow::Result;

use crate::{machine::Machine, native, project};

/// The kinds of rules, for both families.
const PROBE: &str = "iptables-legacy -A FORWARD -m conntrack --ctstate NEW -m mark --mark 1 -j ACCEPT && \
     iptables-legacy -t mangle -A PREROUTING -m mac --mac-source 02:00:00:00:00:01 -j MARK --set-mark 1 && \
     ip6tables-legacy -A FORWARD -m conntrack --ctstate NEW -m mark --mark 1 -j ACCEPT && \
     ip6tables-legacy -t mangle -A PREROUTING -m mac --mac-source 02:00:00:00:00:01 -j MARK --set-mark 1";

/// Sets up, builds, runs the test with these arguments and returns its exit status.
pub fn run(arguments: &[String], machine: &Machine) -> Result<i32> {
    let lacks = "we are not root, or this kernel lacks nf_conntrack or iptables";
    native::run(project::DIFF, arguments, machine, PROBE, lacks)
}
