//! `cargo xtask flood`: the flood test, on this machine's kernel if we are root, else in the virtual
//! machine.
use anyhow::Result;

use crate::{native, vm::Machine};

/// A veth; and TCX, which came with Linux 6.6, as did its function in the kernel's list of symbols.
const TRIES: &str = "ip link add near type veth peer name far && grep -qw tcx_prog_attach /proc/kallsyms";

/// Sets up, builds, runs it with these arguments and returns its exit status.
pub fn run(arguments: &[String], machine: &Machine) -> Result<i32> {
    native::run("flood", arguments, machine, TRIES, "we are not root, or this kernel lacks veth or TCX")
}

/// Whether it can run on this machine's kernel.
pub fn kernel_can() -> bool {
    native::can(TRIES)
}
