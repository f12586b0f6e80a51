//! `cargo xtask lint`: format, clippy with warnings denied, cargo-deny.
use std::process::Command;

use anyhow::Result;

use crate::{
    command::{self, pinned as pinned_command},
    project::{self, Pinned},
    setup::{self, Needs},
};

/// The crates that run on the host.
const HOST: [&str; 10] =
    ["-p", "gateway-common", "-p", "gateway", "-p", "gateway-tests", "-p", "gateway-fuzz", "-p", "xtask"];

/// The result of one check.
pub struct Check {
    /// E.g. `clippy, eBPF`.
    pub name: &'static str,
    /// Whether it found nothing to complain about.
    pub passed: bool,
}

/// Runs every check, also after one has failed. With `fix`, rustfmt and clippy change the files.
pub fn run(fix: bool) -> Result<Vec<Check>> {
    setup::ensure(Needs { lint: true, ..Needs::default() })?;
    let pinned = Pinned::read()?;
    let checks = [
        ("rustfmt", rustfmt(&pinned, fix)),
        ("clippy", clippy(&pinned, fix, &HOST, true)),
        ("clippy, eBPF", clippy_ebpf(&pinned, fix)),
        ("cargo-deny", deny(&pinned)),
    ];
    Ok(checks
        .into_iter()
        .map(|(name, mut command)| {
            eprintln!("{name}:");
            let passed = match command::run(&mut command) {
                Ok(()) => true,
                Err(error) => {
                    eprintln!("{error:#}");
                    false
                }
            };
            Check { name, passed }
        })
        .collect())
}

fn rustfmt(pinned: &Pinned, fix: bool) -> Command {
    let mut command = pinned_command(pinned, "cargo");
    command.args(["fmt", "--all"]);
    if !fix {
        command.arg("--check");
    }
    command
}

fn clippy(pinned: &Pinned, fix: bool, what: &[&str], tests: bool) -> Command {
    let mut command = pinned_command(pinned, "cargo");
    command.arg("clippy").args(what);
    if tests {
        command.arg("--all-targets");
    }
    if fix {
        command.args(["--fix", "--allow-dirty", "--allow-staged"]);
    }
    command.args(["--", "-D", "warnings"]);
    command
}

/// For the eBPF machine itself: on the host the helpers' inline assembly and `cfg(bpf_target_arch)` parts
/// would not be looked at. `-Z build-std` needs RUSTC_BOOTSTRAP on a stable toolchain; core has no tests there.
fn clippy_ebpf(pinned: &Pinned, fix: bool) -> Command {
    let what = ["-p", "gateway-ebpf", "--target", "bpfel-unknown-none", "-Z", "build-std=core"];
    let mut command = clippy(pinned, fix, &what, false);
    // As aya-build does: aya-ebpf reads the host's architecture, whose registers programs see, from it.
    let architecture = format!("--cfg=bpf_target_arch=\"{}\"", std::env::consts::ARCH);
    command.env("RUSTC_BOOTSTRAP", "1").env("CARGO_ENCODED_RUSTFLAGS", architecture);
    command
}

/// Not `advisories`: their database is a git repository on GitHub, which set-up must not depend on. Run
/// `target/tools/bin/cargo-deny check advisories` by hand where that can be reached.
fn deny(pinned: &Pinned) -> Command {
    eprintln!(
        "cargo-deny will check bans, licenses and sources, not advisories (their database is not reachable everywhere)."
    );
    let mut command = pinned_command(pinned, project::tools().join("bin/cargo-deny"));
    command.args(["--log-level", "error", "check", "bans", "licenses", "sources"]);
    command
}
