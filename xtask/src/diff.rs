//! `cargo xtask diff`: the differential test, on this machine's kernel if that has what the original
//! iptables rules need, else in the virtual machine.
use anyhow::Result;

use crate::{native, vm::Machine};

/// The rules, in both families.
const TRIES: &str = "iptables-legacy -A FORWARD -m conntrack --ctstate NEW -m mark --mark 1 -j ACCEPT && \
     iptables-legacy -t mangle -A PREROUTING -m mac --mac-source 02:00:00:00:00:01 -j MARK --set-mark 1 && \
     ip6tables-legacy -A FORWARD -m conntrack --ctstate NEW -m mark --mark 1 -j ACCEPT && \
     ip6tables-legacy -t mangle -A PREROUTING -m mac --mac-source 02:00:00:00:00:01 -j MARK --set-mark 1";

/// Sets up, builds, runs it with these arguments and returns its exit status.
pub fn run(arguments: &[String], machine: &Machine) -> Result<i32> {
    let lacks = "this kernel lacks nf_conntrack, iptables, or we are not root";
    native::run("diff", arguments, machine, TRIES, lacks)
}
