//! Debian packages: which are missing, and their installation.
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::{
    command::{command, find, output},
    progress::Step,
};

/// A Debian package, and a program or file of it that proves its presence on a machine without dpkg.
pub type Package = (&'static str, &'static str);

/// Packages for compiling.
pub const BUILD: &[Package] = &[("gcc", "cc"), ("libc6-dev", "/usr/include/stdio.h"), ("git", "git")];

/// Packages for the host tests: systemd checks the units that we ship; GnuTLS, OpenSSL and strongSwan check certificates.
pub const HOST: &[Package] = &[
    ("bsdutils", "script"),
    ("gnutls-bin", "certtool"),
    ("iproute2", "ip"),
    ("libstrongswan-standard-plugins", "/usr/lib/ipsec/plugins/libstrongswan-openssl.so"),
    ("openssl", "openssl"),
    ("strongswan-pki", "pki"),
    ("systemd", "systemd-analyze"),
    ("util-linux", "unshare"),
];

/// Packages for the lab; the virtual machine sees those of the host.
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

/// Packages for the virtual machine and its kernel.
pub const VM: &[Package] = &[
    ("busybox-static", "busybox"),
    ("kmod", "depmod"),
    ("qemu-system-x86", "qemu-system-x86_64"),
    ("util-linux", "setpriv"),
    ("xz-utils", "xz"),
];

/// Returns the names of the packages that are not installed, sorted.
///
/// # Errors
/// If some are missing on a machine without dpkg and apt.
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
            "this machine has no apt; install the packages that provide these with its own package manager: {}",
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

/// Returns lines "NAME STATUS". The exit status is ignored: dpkg-query fails if it does not know a name.
fn statuses(packages: &[&str]) -> String {
    let mut query = command("dpkg-query");
    query.args(["-W", "-f", "${Package} ${db:Status-Status}\n"]).args(packages);
    query.output().map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
}

/// Returns true if `dpkg` was interrupted; apt refuses to work until `dpkg --configure` has run.
fn interrupted() -> bool {
    output(command("dpkg").arg("--audit")).is_ok_and(|report| !report.trim().is_empty())
}

/// Returns an error with the command to type if only root may install these packages.
pub fn may_install(packages: &[&str]) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!(
            "Debian packages are missing and only root may install them: run \
             `sudo apt-get install --no-install-recommends {}`, then run this again",
            packages.join(" ")
        );
    }
    Ok(())
}

/// Installs packages without those they only recommend.
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

/// Runs `apt-get update`. A failure is ignored: the old lists may do, and otherwise installing reports the reason.
pub fn update(step: &Step) {
    let _ = step.run(apt_get().arg("update"));
}

/// Returns a command for `apt-get` that asks no questions and waits for another instance to end.
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
