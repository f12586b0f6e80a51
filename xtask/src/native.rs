//! Runs a test tool on this machine's kernel if that has the needed features, else in the virtual machine.
use std::process::Stdio;

use anyhow::Result;

use crate::{
    build,
    command::{self, command},
    machine::Machine,
    project::{self, Tool},
    setup::{self, Needs},
    vm::{self, Console},
};

/// Sets up, builds, runs the tool with these arguments and returns its exit status.
///
/// `probe` is a script that succeeds if the kernel has the needed features, see [`can`]; `lacks` completes
/// "… runs in a virtual machine: ".
pub fn run(tool: Tool, arguments: &[String], machine: &Machine, probe: &str, lacks: &str) -> Result<i32> {
    setup::ensure(Needs { lab: true, ..Needs::default() })?;
    let native = can(probe);
    setup::ensure(Needs { lab: true, vm: !native, ..Needs::default() })?;
    let path = build::tool(tool)?.join(tool.program);
    if native {
        let status = command(&path).args(arguments).status()?;
        return Ok(status.code().unwrap_or(1));
    }
    eprintln!("`{}` runs in a virtual machine: {lacks}", tool.program);
    let root = project::root().to_string_lossy();
    let mut words = ["env", "-C", &root, &path.to_string_lossy()].map(str::to_owned).to_vec();
    words.extend(arguments.iter().cloned());
    vm::run(machine, &words, Console::Output(&mut std::io::stdout()))
}

/// Returns true if a script succeeds in a network namespace of its own, which ends with it.
pub fn can(script: &str) -> bool {
    let mut probe = command("unshare");
    probe.args(["--net", "sh", "-c", script]).stdin(Stdio::null());
    command::output(&mut probe).is_ok()
}
