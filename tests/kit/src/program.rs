//! The frame of a test tool's main function.
use std::process::ExitCode;

use anyhow::Result;

use crate::{interrupt::Interrupt, mounts};

/// Runs the work in a private view of the file system ([`mounts::isolate`]), where Ctrl-C ends it, and cleans up
/// afterwards even if it fails.
pub fn isolated<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    let result = mounts::isolate().and_then(|()| Interrupt::install()).and_then(|_interrupt| work());
    mounts::clean_up();
    result
}

/// Returns the exit code: 0 if everything held, 1 if something did not. Prints an error and returns 2 if it stays
/// unknown.
pub fn exit_code(held: Result<bool>) -> ExitCode {
    match held {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}
