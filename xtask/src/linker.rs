//! bpf-linker, which links the eBPF programs. It is built against the LLVM of the pinned rustc, whose bitcode it
//! reads; Debian's LLVM is older.
use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::{
    command::pinned as pinned_command,
    progress::Step,
    project::{self, Pinned},
};

/// Returns true if the pinned version is installed for the pinned toolchain.
pub fn installed(pinned: &Pinned) -> bool {
    let links_work = fs::read_dir(prefix().join("lib"))
        .is_ok_and(|links| links.filter_map(Result::ok).filter(|link| link.path().exists()).count() >= 2);
    links_work
        && project::tools().join("bin/bpf-linker").exists()
        && fs::read_to_string(stamp()).is_ok_and(|built| built == identity(pinned))
}

/// Builds the linker, which takes about a minute.
pub fn install(pinned: &Pinned) -> Result<()> {
    let step = Step::start("bpf-linker", format!("bpf-linker {}", pinned.bpf_linker))?;
    let _ = fs::remove_file(stamp());
    let major = link_llvm(pinned)?;
    step.run(
        pinned_command(pinned, "cargo")
            .env("LLVM_PREFIX", prefix())
            .env("CARGO_TARGET_DIR", project::tools().join("build"))
            .envs([("CARGO_TERM_PROGRESS_WHEN", "always"), ("CARGO_TERM_PROGRESS_WIDTH", "60")])
            .args(["install", "bpf-linker", "--locked", "--force", "--no-default-features"])
            .args(["--version", &pinned.bpf_linker, "--features", &format!("llvm-{major}")])
            .arg("--root")
            .arg(project::tools()),
    )
    .context("cannot build bpf-linker")?;
    fs::write(stamp(), identity(pinned))?;
    step.done();
    Ok(())
}

/// Creates an LLVM "installation" of links to the toolchain's libLLVM and returns LLVM's major version. The links
/// stay, since their directory is the linker's run-time search path.
fn link_llvm(pinned: &Pinned) -> Result<String> {
    let toolchain = project::toolchain(&pinned.rust).context("the pinned toolchain is not installed")?;
    let library = fs::read_dir(toolchain.join("lib"))?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| soname(path).is_some())
        .with_context(|| format!("no libLLVM.so.* in {}/lib", toolchain.display()))?;
    let (name, major) = soname(&library).expect("found by its name");
    let lib = prefix().join("lib");
    let _ = fs::remove_dir_all(&lib);
    fs::create_dir_all(&lib)?;
    symlink(&library, lib.join("libLLVM.so"))?;
    symlink(&library, lib.join(name))?;
    Ok(major)
}

/// Returns the file name and the major version of a path like `libLLVM.so.22.1-rust-1.98.0-stable`.
fn soname(path: &Path) -> Option<(String, String)> {
    let name = path.file_name()?.to_str()?;
    let (major, _) = name.strip_prefix("libLLVM.so.")?.split_once('.')?;
    Some((name.to_owned(), major.to_owned()))
}

fn prefix() -> PathBuf {
    project::tools().join("llvm")
}

fn stamp() -> PathBuf {
    project::tools().join("bpf-linker.stamp")
}

/// Describes a built linker: both versions and its search path for LLVM.
fn identity(pinned: &Pinned) -> String {
    format!("bpf-linker {}, Rust {}, {}\n", pinned.bpf_linker, pinned.rust, prefix().display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn soname_tells_the_llvm_version() {
        let (name, major) = soname(Path::new("/x/lib/libLLVM.so.22.1-rust-1.98.0-stable")).unwrap();
        assert_eq!((name.as_str(), major.as_str()), ("libLLVM.so.22.1-rust-1.98.0-stable", "22"));
        assert!(soname(Path::new("/x/lib/libLLVM-22-rust-1.98.0-stable.so")).is_none());
    }
}
