//! Debian packages.
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::{
    command::{command, find, output},
    progress::Step,
};

/// A Debian package, and a program or file of it by which it is recognised where there is no dpkg.
pub type Package = (&'static str, &'static str);

/// For compiling.
pub const BUILD: &[Package] = &[("gcc", "cc"), ("libc6-dev", "/usr/include/stdio.h"), ("git", "git")];

/// For the lab, on the machine it runs on; the virtual machine sees the host's.
pub const LAB: &[Package] = &[
    ("bpftool", "bpftool"),
    ("conntrack", "conntrack"),
    ("curl", "curl"),
    ("ethtool", "ethtool"),
    ("iproute2", "ip"),
    ("iptables", "iptables"),
    ("libcharon-extra-plugins", "/usr/lib/ipsec/plugins/libstrongswan-kernel-libipsec.so"),
    ("libstrongswan-standard-plugins", "/usr/lib/ipsec/plugins/libstrongswan-openssl.so"),
    ("nftables", "nft"),
    ("strongswan-charon", "/usr/lib/ipsec/charon"),
    ("strongswan-pki", "pki"),
    ("strongswan-swanctl", "swanctl"),
    ("tcpdump", "tcpdump"),
    ("util-linux", "unshare"),
];

/// For the virtual machine and its kernel.
pub const VM: &[Package] = &[
    ("busybox-static", "busybox"),
    ("kmod", "depmod"),
    ("qemu-system-x86", "qemu-system-x86_64"),
    ("util-linux", "setpriv"),
    ("xz-utils", "xz"),
];

/// Which of these are not installed, sorted. Where there is no dpkg: an error if there are any.
pub fn missing(wanted: &[Package]) -> Result<Vec<&'static str>> {
    if find("dpkg-query").is_none() || find("apt-get").is_none() {
        let absent: Vec<_> = wanted
            .iter()
            .filter(|(_, proof)| {
                find(proof.trim_start_matches('/')).is_none() && !std::path::Path::new(proof).exists()
            })
            .map(|(package, proof)| format!("{proof} (Debian: {package})"))
            .collect();
        if absent.is_empty() {
            return Ok(Vec::new());
        }
        bail!(
            "this machine has no apt, so please install by its own package manager what holds: {}",
            absent.join(", ")
        );
    }
    let mut missing: Vec<_> = wanted.iter().map(|(package, _)| *package).collect();
    missing.sort_unstable();
    missing.dedup();
    let installed = statuses(&missing);
    missing.retain(|package| !installed.lines().any(|line| line == format!("{package} installed")));
    Ok(missing)
}

/// "NAME STATUS" lines. dpkg-query fails when it does not know one of the names, hence no check.
fn statuses(packages: &[&str]) -> String {
    let mut query = command("dpkg-query");
    query.args(["-W", "-f", "${Package} ${db:Status-Status}\n"]).args(packages);
    query.output().map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
}

/// Whether `dpkg` was interrupted: apt refuses to do anything before it is told to go on.
fn interrupted() -> bool {
    output(command("dpkg").arg("--audit")).is_ok_and(|report| !report.trim().is_empty())
}

/// An error that says what to type if we may not install.
pub fn may_install(packages: &[&str]) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!(
            "Debian packages are missing, and only root may install them: run \
             `sudo apt-get install --no-install-recommends {}`, then this again",
            packages.join(" ")
        );
    }
    Ok(())
}

/// Installs them, without what they merely recommend.
pub fn install(packages: &[&str]) -> Result<()> {
    let step = Step::start("packages", format!("{} Debian packages", packages.len()))?;
    if interrupted() {
        step.run(noninteractive("dpkg").args(["--configure", "-a"]))?;
    }
    update(&step);
    step.run(apt_get().args(["install", "-y", "--no-install-recommends"]).args(packages))
        .with_context(|| format!("cannot install the Debian packages {}", packages.join(" ")))?;
    step.done();
    Ok(())
}

/// `apt-get update`. Its failing is not the end: the lists may be good enough, else installing says why not.
pub fn update(step: &Step) {
    let _ = step.run(apt_get().arg("update"));
}

/// `apt-get` that asks nothing and waits for another one to end.
pub fn apt_get() -> Command {
    let mut command = noninteractive("apt-get");
    command.args(["-o", "DPkg::Lock::Timeout=120", "-o", "Acquire::Retries=2"]);
    command
}

fn noninteractive(program: &str) -> Command {
    let mut command = command(program);
    command.env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C.UTF-8");
    command
}
