//! Builds the project with the pinned toolchain.
use std::{path::PathBuf, process::Command};

use anyhow::{Context as _, Result};

use crate::{
    command::{self, pinned},
    progress::Step,
    project::{self, GATEWAY, LAB, Pinned, REPLAY, Tool},
};

/// Builds gatewayd with its eBPF programs, gatewayctl and the lab. Returns their directory.
///
/// Nothing else is built, so that the lab can start before the benchmark and the tests are compiled.
pub fn lab() -> Result<PathBuf> {
    let mut build = cargo(&["build", "-p", GATEWAY, "-p", LAB.package])?;
    build.args(["--bin", "gatewayd", "--bin", "gatewayctl", "--bin", LAB.program]);
    quietly("building gatewayd and the lab", &mut build)?;
    Ok(project::target().join("debug"))
}

/// Builds a tool, which holds the eBPF programs itself. Returns its directory.
pub fn tool(tool: Tool) -> Result<PathBuf> {
    let mut build = cargo(&["build", "-p", tool.package, "--bin", tool.program])?;
    quietly(&format!("building {}", tool.program), &mut build)?;
    Ok(project::target().join("debug"))
}

/// Builds a tool optimised, as gatewayd is shipped. Returns its directory.
pub fn released(tool: Tool) -> Result<PathBuf> {
    let mut build = cargo(&["build", "--release", "-p", tool.package, "--bin", tool.program])?;
    quietly(&format!("building an optimised {}", tool.program), &mut build)?;
    Ok(project::target().join("release"))
}

/// Compiles the tests that `cargo test` with these arguments runs.
pub fn tests(arguments: &[&str]) -> Result<()> {
    let mut build = cargo(&["test", "--no-run"])?;
    quietly("building the host tests", build.args(arguments))
}

/// Builds the packet replay and returns its executable, which may have to run in the virtual machine.
pub fn replay() -> Result<PathBuf> {
    let arguments = ["test", "-p", REPLAY.package, "--test", REPLAY.program, "--no-run"];
    quietly("building the packet replay", &mut cargo(&arguments)?)?;
    // Everything is fresh now, so this only asks for the name.
    let mut named = cargo(&arguments)?;
    let messages = command::output(named.arg("--message-format=json-render-diagnostics"))?;
    let executable = messages.lines().rev().find_map(executable);
    executable.map(PathBuf::from).context("cargo named no executable of the replay test")
}

/// Returns a cargo command of the pinned toolchain.
fn cargo(arguments: &[&str]) -> Result<Command> {
    let mut cargo = pinned(&Pinned::read()?, "cargo");
    cargo.args(arguments);
    Ok(cargo)
}

/// Runs cargo behind one line of progress; its output is shown only if it fails.
fn quietly(title: &str, cargo: &mut Command) -> Result<()> {
    let step = Step::unlogged(title)?;
    cargo.envs([("CARGO_TERM_PROGRESS_WHEN", "always"), ("CARGO_TERM_PROGRESS_WIDTH", "60")]);
    step.run_or_show(cargo)?;
    step.done();
    Ok(())
}

/// Returns the executable of a test named in one of cargo's JSON messages. They come in any order and name the
/// package's programs too. cargo writes them without blanks, and writes our target directory's path literally
/// unless it holds quotes or backslashes.
fn executable(message: &str) -> Option<&str> {
    if !message.contains(r#""kind":["test"]"#) {
        return None;
    }
    let (_, rest) = message.split_once(r#""executable":""#)?;
    Some(rest.split_once('"')?.0)
}

#[cfg(test)]
mod tests {
    use super::executable;

    #[test]
    fn executable_is_that_of_the_test_and_of_no_program() {
        let library = r#"{"reason":"compiler-artifact","target":{"kind":["lib"]},"executable":null}"#;
        let program = r#"{"reason":"compiler-artifact","target":{"kind":["bin"]},"executable":"/x/lab"}"#;
        let test = r#"{"reason":"compiler-artifact","target":{"kind":["test"]},"executable":"/x/replay-1"}"#;
        assert_eq!(executable(library), None);
        assert_eq!(executable(program), None);
        assert_eq!(executable(test), Some("/x/replay-1"));
    }
}
