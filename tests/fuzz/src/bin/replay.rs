//! `replay TARGET [FILE]…`: runs inputs of a target once, by default those of its corpus. Prints each failing
//! input to stdout.
use std::{path::PathBuf, process::ExitCode};

use gateway_fuzz::{Target, corpus};

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let name = arguments.next().unwrap_or_default();
    let Some(target) = name.to_str().and_then(Target::named) else {
        let names: Vec<_> = Target::ALL.iter().map(|target| target.name).collect();
        eprintln!("no target {name:?}; the targets are {}", names.join(", "));
        return ExitCode::FAILURE;
    };
    let mut inputs: Vec<PathBuf> = arguments.map(PathBuf::from).collect();
    if inputs.is_empty() {
        inputs = corpus(target).unwrap_or_default();
    }
    let mut failed = 0;
    for path in &inputs {
        let input = match std::fs::read(path) {
            Ok(input) => input,
            Err(error) => {
                eprintln!("{}: {error}", path.display());
                return ExitCode::FAILURE;
            }
        };
        if std::panic::catch_unwind(|| (target.run)(&input)).is_err() {
            println!("{} fails on {}", target.name, path.display());
            failed += 1;
        }
    }
    println!("{}: {} inputs, {failed} failed", target.name, inputs.len());
    ExitCode::from(u8::from(failed > 0 || inputs.is_empty()))
}
