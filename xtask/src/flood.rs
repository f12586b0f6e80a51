//! `cargo xtask flood`: the flood test, natively if we are root, else in the virtual machine.
use anyhow::Result;

use crate::{machine::Machine, native, project};

/// Needs veth, and TCX: it came with Linux 6.6, as did this function in the kernel's list of symbols.
const PROBE: &str = "ip link add near type veth peer name far && grep -qw tcx_prog_attach /proc/kallsyms";

/// Sets up, builds, runs the test with these arguments and returns its exit status.
pub fn run(arguments: &[String], machine: &Machine) -> Result<i32> {
    let lacks = "we are not root, or this kernel lacks veth or TCX";
    native::run(project::FLOOD, arguments, machine, PROBE, lacks)
}

/// Returns true if the test can run on this machine's kernel.
pub fn kernel_can() -> bool {
    native::can(PROBE)
}
