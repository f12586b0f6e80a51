//! `cargo xtask flood`: the flood test, on this machine's kernel if we are root, else in the virtual
//! machine.
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
    let program = build::all()?.join("flood");
    if native {
        let status = command(&program).args(arguments).status()?;
        return Ok(status.code().unwrap_or(1));
    }
    eprintln!("The flood runs in a virtual machine: we are not root, or this kernel lacks veth or TCX.");
    let mut words = vec![program.to_string_lossy().into_owned()];
    words.extend(arguments.iter().cloned());
    vm::run(machine, &words, Console::Output(&mut std::io::stdout()))
}

/// Makes a veth in a network namespace of its own, which ends with it; TCX came with Linux 6.6, as did
/// its function in the kernel's list of symbols.
pub fn kernel_can() -> bool {
    let tries = "ip link add near type veth peer name far && grep -qw tcx_prog_attach /proc/kallsyms";
    let mut probe = command("unshare");
    probe.args([OsString::from("--net"), "sh".into(), "-c".into(), tries.into()]);
    command::output(probe.stdin(Stdio::null())).is_ok()
}
