//! Requirements of BPF_PROG_TEST_RUN on the process and on the kernel.
use std::{path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use nix::{
    sched::{CloneFlags, unshare},
    sys::utsname::uname,
    unistd::geteuid,
};

use crate::{cpu, mounts, packet::GATEWAY_MAC, process::output};

/// Prepares this process for test runs: moves it into a mount namespace of its own, which leaves no pins
/// behind, and onto one CPU, because the budget for events is per CPU. Call it before any thread starts.
pub fn prepare() -> Result<()> {
    ensure!(geteuid().is_root(), "root is needed");
    mounts::private_run()?;
    cpu::on_first_cpu()
}

/// Moves this process into a network namespace of its own whose loopback interface has the MAC address that
/// described frames are sent to: a test run gives a packet the type that it would have there (eth_type_trans in
/// net/ethernet/eth.c). Call it after [`prepare`].
pub fn own_network() -> Result<()> {
    let mac = GATEWAY_MAC.map(|byte| format!("{byte:02x}")).join(":");
    unshare(CloneFlags::CLONE_NEWNET).context("make a network namespace")?;
    output(Command::new("ip").args(["link", "set", "lo", "address", &mac, "up"])).map(drop)
}

/// Fails, with the reason, if this kernel lacks a feature that the programs need: BTF, BPF_PROG_TEST_RUN, and
/// TCX, new in Linux 6.6. It does not load our programs: a kernel with these features that refuses them fails
/// the test instead.
pub fn supported() -> Result<()> {
    let release = uname().context("read the kernel's release")?;
    let release = release.release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    ensure!(version >= (6, 6), "TCX needs Linux 6.6, this is {release}");
    ensure!(Path::new("/sys/kernel/btf/vmlinux").exists(), "the kernel has no BTF");
    Ok(())
}
