//! gatewayctl as a process.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::{
    fs::File,
    io,
    process::{Command, Output, Stdio},
};

/// Runs gatewayctl with a standard output that nobody reads.
fn with_closed_pipe(arguments: &[&str]) -> Output {
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    let mut command = Command::new(env!("CARGO_BIN_EXE_gatewayctl"));
    let child = command.args(arguments).stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
    child.wait_with_output().unwrap()
}

/// Commands that succeed without a gateway. tests/service.rs has the others.
const COMMANDS: [&[&str]; 5] =
    [&["reasons"], &["reasons", "--json"], &["--help"], &["flows", "--help"], &["--version"]];

#[test]
fn output_that_cannot_be_written_is_status_1() {
    for arguments in COMMANDS {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gatewayctl"));
        let output = command.args(arguments).stdout(File::create("/dev/full").unwrap()).output().unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {errors}");
        let expected = "error: write the output: No space left on device";
        assert!(errors.starts_with(expected) && errors.lines().count() == 1, "{arguments:?}: {errors}");
    }
}

#[test]
fn closed_standard_error_changes_no_status() {
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    let mut command = Command::new(env!("CARGO_BIN_EXE_gatewayctl"));
    let status = command.args(["--state", "/nonexistent", "status"]).stderr(writer).status().unwrap();
    assert_eq!(status.code(), Some(1));
}

#[test]
fn closed_pipe_ends_it_quietly() {
    for arguments in COMMANDS {
        let output = with_closed_pipe(arguments);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && errors.is_empty(), "{arguments:?}: {} {errors}", output.status);
    }
}

#[test]
fn columns_limit_the_width_of_tables() {
    for columns in [60, 80, 200] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gatewayctl"));
        let output = command.arg("reasons").env("COLUMNS", columns.to_string()).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && text.contains("TunnelDown"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= columns), "{text}");
    }
}

#[test]
fn failure_is_one_line_and_status_1() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gatewayctl"));
    let output = command.args(["--state", "/nonexistent", "status"]).output().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(
        errors.starts_with("error: no status in /nonexistent") && errors.lines().count() == 1,
        "{errors}"
    );
}
