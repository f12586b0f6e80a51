//! Building the project with the pinned toolchain.
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::{
    command,
    project::{self, Pinned},
};

/// Builds everything that runs: gatewayd with its eBPF programs, gatewayctl, the lab. Returns where they are.
pub fn all() -> Result<PathBuf> {
    let pinned = Pinned::read()?;
    let packages = ["-p", "gateway", "-p", "gateway-tests-*"];
    command::run(command::pinned(&pinned, "cargo").arg("build").args(packages))?;
    Ok(project::target().join("debug"))
}

/// Builds the benchmark as gatewayd is shipped, optimised. Returns where it is.
pub fn released() -> Result<PathBuf> {
    let pinned = Pinned::read()?;
    let wanted = ["build", "--release", "-p", "gateway-tests-bench", "--bin", "bench"];
    command::run(command::pinned(&pinned, "cargo").args(wanted))?;
    Ok(project::target().join("release"))
}

/// Builds the packet replay and returns its executable: it may have to run in the virtual machine.
pub fn replay() -> Result<PathBuf> {
    let pinned = Pinned::read()?;
    let mut build = command::pinned(&pinned, "cargo");
    build.args(["test", "-p", "gateway-tests-replay", "--test", "replay", "--no-run"]);
    build.arg("--message-format=json-render-diagnostics").stderr(std::process::Stdio::inherit());
    let messages = command::output(&mut build)?;
    let executable = messages.lines().rev().find_map(executable);
    executable.map(PathBuf::from).context("cargo named no executable of the replay test")
}

/// The executable of a test in one of cargo's JSON messages, which come in any order and name the
/// package's programs too. cargo writes them without blanks, and our own target directory's path as it
/// is unless it holds quotes or backslashes.
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
