//! Installs what the other commands need. An installed item costs one check; an item that an interrupted set-up
//! left half installed is installed again.
use std::fs;

use anyhow::{Context as _, Result, bail};
use nix::fcntl::{Flock, FlockArg};

use crate::{
    command::{self, pinned as pinned_command},
    kernel, linker,
    packages::{self, Package},
    progress::Step,
    project::{self, Pinned},
};

/// The needs of a command beyond the toolchain and bpf-linker, which all commands need.
#[derive(Clone, Copy, Default)]
pub struct Needs {
    /// The programs that host tests run.
    pub host: bool,
    /// The lab's programs: strongSwan, iproute2, …
    pub lab: bool,
    /// QEMU and the guest's kernel.
    pub vm: bool,
    /// cargo-deny.
    pub lint: bool,
}

/// Something to install: its name, its approximate duration in seconds, and the installer.
struct Item<'a> {
    what: String,
    seconds: u32,
    install: Box<dyn FnOnce() -> Result<()> + 'a>,
}

/// Announces and installs missing items; silent if there are none. Returns true if it installed anything.
pub fn ensure(needs: Needs) -> Result<bool> {
    let pinned = Pinned::read()?;
    if missing(&pinned, needs)?.is_empty() {
        return Ok(false);
    }
    let _lock = lock()?;
    // Another set-up may have installed them while we waited.
    let items = missing(&pinned, needs)?;
    if items.is_empty() {
        return Ok(false);
    }
    let seconds: u32 = items.iter().map(|item| item.seconds).sum();
    eprintln!("One-time set-up, about {}:", about(seconds));
    for item in &items {
        eprintln!("  - {}", item.what);
    }
    for item in items {
        (item.install)()?;
    }
    // Sources and objects; the logs stay.
    let _ = fs::remove_dir_all(project::tools().join("build"));
    if let Some(item) = missing(&pinned, needs)?.first() {
        bail!("set-up ran, but this is still missing: {}", item.what);
    }
    Ok(true)
}

/// Returns the items to install, in order.
///
/// # Errors
/// If an item cannot be installed on this machine; nothing has been installed then.
fn missing<'a>(pinned: &'a Pinned, needs: Needs) -> Result<Vec<Item<'a>>> {
    let mut items: Vec<Item<'a>> = Vec::new();
    let mut add = |what: String, seconds: u32, install: Box<dyn FnOnce() -> Result<()> + 'a>| {
        items.push(Item { what, seconds, install });
    };

    let debian = packages::missing(&wanted(needs))?;
    if !debian.is_empty() {
        packages::may_install(&debian)?;
        let what = format!("Debian packages, system-wide: {}", debian.join(" "));
        add(what, 10 + 3 * debian.len() as u32, Box::new(move || packages::install(&debian)));
    }
    if !toolchain_installed(pinned) {
        if command::find("rustup").is_none() {
            bail!(
                "Rust {0} is needed, and rustup, which would install it, is missing: install rustup from \
                 https://rustup.rs, or put that toolchain under ~/.rustup/toolchains/{0}-HOST",
                pinned.rust
            );
        }
        let what = format!("Rust {} beside your own toolchains, by rustup", pinned.rust);
        add(what, 20, Box::new(|| install_toolchain(pinned)));
    }
    if !linker::installed(pinned) {
        let what = format!("bpf-linker {} in target/tools", pinned.bpf_linker);
        add(what, 70, Box::new(|| linker::install(pinned)));
    }
    if needs.vm && kernel::installed().is_none() {
        kernel::may_install()?;
        let what = "the virtual machine's kernel from Debian, 107 MB, unpacked in target/tools".to_owned();
        add(what, 15, Box::new(kernel::install));
    }
    if needs.lint && !deny_installed(pinned) {
        let what = format!("cargo-deny {} in target/tools", pinned.cargo_deny);
        add(what, 150, Box::new(|| install_deny(pinned)));
    }
    Ok(items)
}

fn wanted(needs: Needs) -> Vec<Package> {
    let mut wanted = packages::BUILD.to_vec();
    wanted.extend(needs.host.then_some(packages::HOST).into_iter().flatten());
    wanted.extend(needs.lab.then_some(packages::LAB).into_iter().flatten());
    wanted.extend(needs.vm.then_some(packages::VM).into_iter().flatten());
    wanted
}

fn toolchain_installed(pinned: &Pinned) -> bool {
    project::toolchain(&pinned.rust).is_some_and(|toolchain| {
        ["bin/rustc", "bin/cargo", "bin/cargo-clippy", "bin/rustfmt", "lib/rustlib/src/rust/library/core"]
            .iter()
            .all(|part| toolchain.join(part).exists())
    })
}

fn install_toolchain(pinned: &Pinned) -> Result<()> {
    let step = Step::start("toolchain", format!("Rust {}", pinned.rust))?;
    let rustup = command::find("rustup").context("rustup is not installed")?;
    step.run(
        command::command(rustup)
            .args(["toolchain", "install", &pinned.rust, "--no-self-update", "--profile", "minimal"])
            .args(["--component", "rust-src,clippy,rustfmt"]),
    )
    .with_context(|| format!("cannot install Rust {}", pinned.rust))?;
    step.done();
    Ok(())
}

/// Reads the version from cargo's own list of what it installed, which it writes last.
fn deny_installed(pinned: &Pinned) -> bool {
    let line = format!("\"cargo-deny {} ", pinned.cargo_deny);
    project::tools().join("bin/cargo-deny").exists()
        && fs::read_to_string(project::tools().join(".crates.toml")).is_ok_and(|list| list.contains(&line))
}

/// Installs cargo-deny unoptimised: it builds in half the time and still checks our few hundred crates in a second.
fn install_deny(pinned: &Pinned) -> Result<()> {
    let step = Step::start("cargo-deny", format!("cargo-deny {}", pinned.cargo_deny))?;
    step.run(
        pinned_command(pinned, "cargo")
            .env("CARGO_TARGET_DIR", project::tools().join("build"))
            .env("CARGO_PROFILE_DEV_DEBUG", "0")
            .envs([("CARGO_TERM_PROGRESS_WHEN", "always"), ("CARGO_TERM_PROGRESS_WIDTH", "60")])
            .args([
                "install",
                "cargo-deny",
                "--locked",
                "--debug",
                "--force",
                "--version",
                &pinned.cargo_deny,
            ])
            .arg("--root")
            .arg(project::tools()),
    )
    .context("cannot build cargo-deny")?;
    step.done();
    Ok(())
}

/// Locks this directory, so that only one set-up runs in it.
fn lock() -> Result<Flock<fs::File>> {
    let path = project::tools().join("lock");
    fs::create_dir_all(project::tools())
        .and_then(|()| fs::File::create(&path))
        .with_context(|| format!("cannot write {}", path.display()))
        .and_then(|file| {
            Flock::lock(file, FlockArg::LockExclusiveNonblock)
                .or_else(|(file, _)| {
                    eprintln!("Waiting for another set-up in this directory …");
                    Flock::lock(file, FlockArg::LockExclusive)
                })
                .map_err(|(_, error)| error.into())
        })
}

/// Rounds a duration for a person.
fn about(seconds: u32) -> String {
    match seconds {
        0..90 => format!("{} seconds", seconds.div_ceil(10) * 10),
        _ => format!("{} minutes", (seconds + 30) / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::about;

    #[test]
    fn durations_are_rounded() {
        assert_eq!(about(31), "40 seconds");
        assert_eq!(about(150), "3 minutes");
    }
}
