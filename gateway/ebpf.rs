//! Compiles eBPF programs, for the build scripts of the crates that embed them.
use std::{
    env, fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use aya_build::{Package, Toolchain};

/// Compiles the package in this directory of the repository into `OUT_DIR/NAME`.
///
/// # Errors
/// If bpf-linker is not installed, or the programs do not compile.
pub fn compile(name: &str, directory: &str) -> Result<()> {
    let root = root()?;
    let linker = root.join("target/tools/bin/bpf-linker");
    println!("cargo::rerun-if-changed={}", linker.display());
    ensure!(
        linker.exists(),
        "bpf-linker, which links the eBPF programs, is not installed: run `cargo xtask setup`"
    );
    // SAFETY: a build script's main is single-threaded here.
    unsafe {
        // `-Z build-std` needs it on a stable rustc.
        env::set_var("RUSTC_BOOTSTRAP", "1");
        // aya-build passes its cargo's progress on as some 200 warnings of this package, which every later
        // cargo command repeats. Warnings and errors of rustc are still shown.
        env::set_var("CARGO_TERM_QUIET", "true");
        env::set_var("CARGO_TERM_PROGRESS_WHEN", "never");
    }
    share_target(name, &root.join("target/ebpf"))?;
    let directory = root.join(directory);
    let root_dir = directory.to_str().context("the repository's path is not UTF-8")?;
    aya_build::build_ebpf(
        [Package { name, root_dir, ..Default::default() }],
        Toolchain::Custom(env!("CARGO_PKG_RUST_VERSION")),
    )
}

/// Makes aya-build's target directory, which is below `OUT_DIR`, a link to `shared`: cargo has an `OUT_DIR` for each
/// profile and set of features, and each would hold 400 MB of its own.
fn share_target(name: &str, shared: &Path) -> Result<()> {
    let out = PathBuf::from(env::var("OUT_DIR").context("cargo sets OUT_DIR")?);
    let targets = out.join("aya-build/target");
    fs::create_dir_all(shared).with_context(|| format!("create {}", shared.display()))?;
    fs::create_dir_all(&targets).with_context(|| format!("create {}", targets.display()))?;
    let link = targets.join(name);
    // In a copy of the tree, a link kept from an earlier run leads to the original.
    if link.is_symlink() {
        fs::remove_file(&link)?;
    } else if link.is_dir() {
        fs::remove_dir_all(&link)?;
    }
    symlink(shared, &link).with_context(|| format!("link {} to {}", link.display(), shared.display()))
}

/// Returns the repository's root. Read at run time: cargo reuses a build script in a copy of the tree.
fn root() -> Result<PathBuf> {
    let package = env::var("CARGO_MANIFEST_DIR").context("cargo sets CARGO_MANIFEST_DIR")?;
    let root = Path::new(&package).ancestors().find(|directory| directory.join("Cargo.lock").exists());
    root.map(Path::to_owned).with_context(|| format!("no Cargo.lock above {package}"))
}
