//! Everything the other commands need. Whatever is there already costs a look and nothing more; whatever
//! is half there, because the last set-up was interrupted, is made again.
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

/// What a command needs beyond the toolchain and bpf-linker, which all need.
#[derive(Clone, Copy, Default)]
pub struct Needs {
    /// The lab's programs: strongSwan, iproute2, …
    pub lab: bool,
    /// QEMU and the guest's kernel.
    pub vm: bool,
    /// cargo-deny.
    pub lint: bool,
}

/// Something to install: what, about how many seconds it takes, and how.
struct Item<'a> {
    what: String,
    seconds: u32,
    install: Box<dyn FnOnce() -> Result<()> + 'a>,
}

/// Installs what is missing, after saying so; silent when nothing is. Returns whether it installed anything.
pub fn ensure(needs: Needs) -> Result<bool> {
    let pinned = Pinned::read()?;
    if missing(&pinned, needs)?.is_empty() {
        return Ok(false);
    }
    let _lock = lock()?;
    // Another set-up may have done it while we waited.
    let items = missing(&pinned, needs)?;
    if items.is_empty() {
        return Ok(false);
    }
    let seconds: u32 = items.iter().map(|item| item.seconds).sum();
    eprintln!("Set-up, once, about {}:", about(seconds));
    for item in &items {
        eprintln!("  - {}", item.what);
    }
    for item in items {
        (item.install)()?;
    }
    // Sources and objects of what was built; the log stays.
    let _ = fs::remove_dir_all(project::tools().join("build"));
    if let Some(item) = missing(&pinned, needs)?.first() {
        bail!("set-up ran, yet this is still missing: {}", item.what);
    }
    Ok(true)
}

/// What is to be installed, in order. An error if something cannot be, before anything was begun.
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
                "Rust {0} is needed and rustup, which could install it, is not here: get rustup from \
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
    let rustup = command::find("rustup").context("rustup is not here")?;
    step.run(
        command::command(rustup)
            .args(["toolchain", "install", &pinned.rust, "--no-self-update", "--profile", "minimal"])
            .args(["--component", "rust-src,clippy,rustfmt"]),
    )
    .with_context(|| format!("cannot install Rust {}", pinned.rust))?;
    step.done();
    Ok(())
}

/// cargo itself notes the version of what it installed, last of all.
fn deny_installed(pinned: &Pinned) -> bool {
    let line = format!("\"cargo-deny {} ", pinned.cargo_deny);
    project::tools().join("bin/cargo-deny").exists()
        && fs::read_to_string(project::tools().join(".crates.toml")).is_ok_and(|noted| noted.contains(&line))
}

/// Unoptimised: it then builds in half the time and still checks our few hundred crates in a second.
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

/// One set-up at a time in this directory.
fn lock() -> Result<Flock<fs::File>> {
    let path = project::tools().join("lock");
    fs::create_dir_all(project::tools())
        .and_then(|()| fs::File::create(&path))
        .with_context(|| format!("cannot write {}", path.display()))
        .and_then(|file| {
            Flock::lock(file, FlockArg::LockExclusiveNonblock)
                .or_else(|(file, _)| {
                    eprintln!("waiting for another set-up in this directory to end …");
                    Flock::lock(file, FlockArg::LockExclusive)
                })
                .map_err(|(_, error)| error.into())
        })
}

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
    fn durations_are_said_roughly() {
        assert_eq!(about(31), "40 seconds");
        assert_eq!(about(150), "3 minutes");
    }
}
