//! `cargo xtask diff`: the differential test, on this machine's kernel if that has what the original
//! iptables rules need, else in the virtual machine.
use std::{ffi::OsString, process::Stdio};

use anyhow::Result;

use crate::{
    build,
    command::{self, command},
    setup::{self, Needs},
    vm::{self, Console, Machine},
};

/// Sets up, builds, runs it with these arguments and returns its exit status.
pub fn run(arguments: &[String], machine: &Machine) -> Result<i32> {
    setup::ensure(Needs { lab: true, ..Needs::default() })?;
    let native = kernel_can();
    setup::ensure(Needs { lab: true, vm: !native, ..Needs::default() })?;
    let program = build::all()?.join("diff");
    if native {
        let status = command(&program).args(arguments).status()?;
        return Ok(status.code().unwrap_or(1));
    }
    eprintln!(
        "The comparison runs in a virtual machine: this kernel lacks nf_conntrack, iptables, or we are not root."
    );
    let mut words = vec![program.to_string_lossy().into_owned()];
    words.extend(arguments.iter().cloned());
    vm::run(machine, &words, Console::Output(&mut std::io::stdout()))
}

/// Tries the rules in a network namespace of their own, which ends with it.
fn kernel_can() -> bool {
    let rules = "iptables-legacy -A FORWARD -m conntrack --ctstate NEW -m mark --mark 1 -j ACCEPT && \
                 iptables-legacy -t mangle -A PREROUTING -m mac --mac-source 02:00:00:00:00:01 -j MARK --set-mark 1 && \
                 ip6tables-legacy -A FORWARD -m conntrack --ctstate NEW -m mark --mark 1 -j ACCEPT && \
                 ip6tables-legacy -t mangle -A PREROUTING -m mac --mac-source 02:00:00:00:00:01 -j MARK --set-mark 1";
    let mut probe = command("unshare");
    probe.args([OsString::from("--net"), "sh".into(), "-c".into(), rules.into()]);
    command::output(probe.stdin(Stdio::null())).is_ok()
}
