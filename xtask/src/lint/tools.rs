//! The checks by other programs: rustfmt, rustdoc, clippy, cargo-deny.
use std::process::Command;

use anyhow::Result;

use super::check::Kind;
use crate::{
    command::pinned as pinned_command,
    progress::Step,
    project::{self, HOST_PACKAGES, Pinned, TEST_PROGRAMS, TOOL_PACKAGES},
};

/// Runs the tool behind one line of progress.
///
/// # Errors
/// If the tool fails; its output has been shown then.
pub fn run(kind: Kind, pinned: &Pinned, fix: bool) -> Result<()> {
    let mut command = match kind {
        Kind::Rustfmt => rustfmt(pinned, fix),
        Kind::References => rustdoc(pinned),
        Kind::Clippy => clippy(pinned, fix, &host_packages(), true),
        Kind::ClippyEbpf => clippy_ebpf(pinned, fix),
        _ => deny(pinned),
    };
    let step = Step::unlogged(kind.name())?;
    step.run_or_show(&mut command)?;
    step.done();
    Ok(())
}

fn rustfmt(pinned: &Pinned, fix: bool) -> Command {
    let mut command = pinned_command(pinned, "cargo");
    command.args(["fmt", "--all"]);
    if !fix {
        command.arg("--check");
    }
    command
}

/// Returns `-p NAME` for every package that runs on the host.
fn host_packages() -> Vec<&'static str> {
    HOST_PACKAGES
        .into_iter()
        .chain(TOOL_PACKAGES)
        .chain([TEST_PROGRAMS])
        .flat_map(|name| ["-p", name])
        .collect()
}

/// Resolves the links in doc comments, those of private items too. Private items may be linked from public ones: our
/// documentation is read in the source.
fn rustdoc(pinned: &Pinned) -> Command {
    let mut command = pinned_command(pinned, "cargo");
    command.args(["doc", "--no-deps", "--document-private-items"]).args(host_packages());
    command.env("RUSTDOCFLAGS", "-D warnings -A rustdoc::private_intra_doc_links");
    command
}

fn clippy(pinned: &Pinned, fix: bool, packages: &[&str], tests: bool) -> Command {
    let mut command = pinned_command(pinned, "cargo");
    command.arg("clippy").args(packages);
    if tests {
        command.arg("--all-targets");
    }
    if fix {
        command.args(["--fix", "--allow-dirty", "--allow-staged"]);
    }
    command.args(["--", "-D", "warnings"]);
    command
}

/// Checks the programs for the eBPF machine: on the host, clippy would skip the helpers' inline assembly and the
/// `cfg(bpf_target_arch)` parts. `-Z build-std` needs RUSTC_BOOTSTRAP on a stable toolchain; core has no tests there.
fn clippy_ebpf(pinned: &Pinned, fix: bool) -> Command {
    let packages = [
        "-p",
        "gateway-ebpf",
        "-p",
        "gateway-tests-ebpf",
        "--target",
        "bpfel-unknown-none",
        "-Z",
        "build-std=core",
    ];
    let mut command = clippy(pinned, fix, &packages, false);
    // Same as in aya-build: aya-ebpf selects the registers that programs see by the host's architecture.
    let architecture = format!("--cfg=bpf_target_arch=\"{}\"", std::env::consts::ARCH);
    command.env("RUSTC_BOOTSTRAP", "1").env("CARGO_ENCODED_RUSTFLAGS", architecture);
    command
}

/// Checks bans, licenses and sources, but not advisories: their database is a git repository on GitHub, which is not
/// reachable everywhere. Run `target/tools/bin/cargo-deny check advisories` by hand for those.
fn deny(pinned: &Pinned) -> Command {
    let mut command = pinned_command(pinned, project::tools().join("bin/cargo-deny"));
    command.args(["--log-level", "error", "check", "bans", "licenses", "sources"]);
    command
}
