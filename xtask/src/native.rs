//! Test programs that run on this machine's kernel if it can, else in the virtual machine.
use std::process::Stdio;

use anyhow::Result;

use crate::{
    build,
    command::{self, command},
    setup::{self, Needs},
    vm::{self, Console, Machine},
};

/// Sets up, builds, runs the program with these arguments and returns its exit status. `tries` is a script of
/// what the kernel must be able to do, see [`can`]; `lacks` completes "… runs in a virtual machine: ".
pub fn run(program: &str, arguments: &[String], machine: &Machine, tries: &str, lacks: &str) -> Result<i32> {
    setup::ensure(Needs { lab: true, ..Needs::default() })?;
    let native = can(tries);
    setup::ensure(Needs { lab: true, vm: !native, ..Needs::default() })?;
    let path = build::all()?.join(program);
    if native {
        let status = command(&path).args(arguments).status()?;
        return Ok(status.code().unwrap_or(1));
    }
    eprintln!("`{program}` runs in a virtual machine: {lacks}");
    let mut words = vec![path.to_string_lossy().into_owned()];
    words.extend(arguments.iter().cloned());
    vm::run(machine, &words, Console::Output(&mut std::io::stdout()))
}

/// Whether a script succeeds in a network namespace of its own, which ends with it.
pub fn can(tries: &str) -> bool {
    let mut probe = command("unshare");
    probe.args(["--net", "sh", "-c", tries]).stdin(Stdio::null());
    command::output(&mut probe).is_ok()
}
