//! The guest's kernel: Debian's Linux 6.12, unpacked under target/ and not installed.
use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    command::{command, find, output},
    packages,
    progress::Step,
    project,
};

/// The long-term series that docs/facts.md was measured on. Debian 12 has it in its security suite; it is Debian
/// 13's own kernel.
const SERIES: &str = "6.12";

/// An unpacked kernel.
pub struct Kernel {
    /// Linux version, e.g. `6.12.117+deb12-amd64`.
    pub version: String,
    /// The bootable image.
    pub image: PathBuf,
    /// Directory that holds one named after the version, and `overlay.ko` unpacked for the guest's init.
    pub modules: PathBuf,
}

/// Returns the kernel that set-up unpacked, if any.
pub fn installed() -> Option<Kernel> {
    let directory = directory();
    let image = fs::read_dir(directory.join("boot"))
        .ok()?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| image_version(path).is_some())?;
    let version = image_version(&image)?;
    Some(Kernel { version, image, modules: directory.join("lib/modules") })
}

/// Returns an error if no kernel can be installed on this machine.
pub fn may_install() -> Result<()> {
    ensure!(
        cfg!(target_arch = "x86_64"),
        "the virtual machine's kernel is for x86_64, unlike this machine: use a machine whose own kernel has ESP"
    );
    ensure!(
        find("apt-cache").is_some(),
        "the virtual machine's kernel is downloaded by apt, which is not installed: unpack the Debian package \
         linux-image-{SERIES}.*-amd64 into {} (see xtask/src/kernel.rs), or use a machine whose own kernel has ESP",
        directory().display()
    );
    Ok(())
}

/// Downloads and unpacks the newest kernel of the series.
pub fn install() -> Result<()> {
    let step = Step::start("kernel", format!("the virtual machine's kernel, Linux {SERIES}"))?;
    let partial = project::tools().join("kernel.partial");
    let _ = fs::remove_dir_all(&partial);
    fs::create_dir_all(&partial)?;
    let package = download(&step, &partial)?;
    step.run(command("dpkg-deb").arg("-x").arg(&package).arg(&partial))?;
    fs::remove_file(&package)?;
    // Debian 13's packages have usr/lib only; depmod and the guest read lib.
    if let Err(error) = std::os::unix::fs::symlink("usr/lib", partial.join("lib")) {
        ensure!(error.kind() == ErrorKind::AlreadyExists, error);
    }
    let modules = partial.join("lib/modules");
    let version = fs::read_dir(&modules)?.next().context("no modules in the package")??.file_name();
    step.run(command("depmod").arg("-b").arg(&partial).arg(&version))?;
    unpack_overlay(&modules, &modules.join(&version).join("kernel/fs/overlayfs"))?;
    let _ = fs::remove_dir_all(directory());
    fs::rename(&partial, directory())?;
    step.done();
    Ok(())
}

/// Downloads the package and returns its file. Old package lists name packages that no longer exist, so a failure
/// is retried once with new lists.
fn download(step: &Step, into: &Path) -> Result<PathBuf> {
    let attempt = || -> Result<PathBuf> {
        let name = newest()?;
        step.run(packages::apt_get().current_dir(into).arg("download").arg(&name))
            .with_context(|| format!("cannot download {name}"))?;
        let mut files = fs::read_dir(into)?.filter_map(Result::ok).map(|entry| entry.path());
        files.find(|path| path.extension().is_some_and(|end| end == "deb")).context("apt-get left no .deb")
    };
    attempt().or_else(|error| {
        if !nix::unistd::geteuid().is_root() {
            return Err(error);
        }
        packages::update(step);
        attempt()
    })
}

/// Returns the name of the newest package in apt's lists.
fn newest() -> Result<String> {
    let listed = output(command("apt-cache").args(["search", "--names-only", "^linux-image-6[.]12[.]"]))?;
    let names = listed.lines().filter_map(|line| line.split_once(' ')).map(|(name, _)| name);
    let Some(name) = names.filter(|name| release(name).is_some()).max_by_key(|name| release(name)) else {
        bail!(
            "apt knows no package linux-image-{SERIES}.*+debNN-amd64 (Debian 12: in its security suite; \
             Debian 13: in its main suite): add that suite to /etc/apt/sources.list and run this again"
        );
    };
    Ok(name.to_owned())
}

/// Returns the numbers in a name like `linux-image-6.12.117+deb12-amd64`: (117, 12). `None` for debug symbols and
/// for unsigned, cloud and real-time kernels.
fn release(package: &str) -> Option<(u32, u32)> {
    let rest = package.strip_prefix("linux-image-6.12.")?.strip_suffix("-amd64")?;
    let (patch, debian) = rest.split_once("+deb")?;
    Some((patch.parse().ok()?, debian.parse().ok()?))
}

/// Unpacks overlay.ko, since busybox's insmod in the guest's init cannot.
fn unpack_overlay(modules: &Path, from: &Path) -> Result<()> {
    let to = modules.join("overlay.ko");
    if from.join("overlay.ko").exists() {
        fs::copy(from.join("overlay.ko"), to)?;
        return Ok(());
    }
    let packed = from.join("overlay.ko.xz");
    let file = fs::File::create(to)?;
    let status = command("xz").arg("-dc").arg(&packed).stdout(file).stdin(Stdio::null()).status()?;
    ensure!(status.success(), "cannot unpack {}", packed.display());
    Ok(())
}

fn image_version(image: &Path) -> Option<String> {
    Some(image.file_name()?.to_str()?.strip_prefix("vmlinuz-")?.to_owned())
}

fn directory() -> PathBuf {
    project::tools().join("kernel")
}

#[cfg(test)]
mod tests {
    use super::release;

    #[test]
    fn only_plain_signed_kernels_count_and_by_number() {
        assert_eq!(release("linux-image-6.12.117+deb12-amd64"), Some((117, 12)));
        assert!(release("linux-image-6.12.117+deb12-amd64") > release("linux-image-6.12.94+deb12-amd64"));
        for other in ["cloud-amd64", "rt-amd64", "amd64-dbg", "amd64-unsigned"] {
            assert_eq!(release(&format!("linux-image-6.12.117+deb12-{other}")), None);
        }
    }
}
