//! Where links and maps are pinned, so that they outlive the daemon.
use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use gateway_common::layout::Hook;
use nix::{
    mount::{MsFlags, mount, umount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};

/// Where pins are unless told otherwise. Under /run and not under /sys/fs/bpf: `ip netns exec`
/// mounts a fresh /sys, which would hide them (FACTS 11).
pub const DEFAULT_DIRECTORY: &str = "/run/gateway/bpf";

/// The maps that are pinned, by name.
pub const MAPS: [&str; 19] = [
    "SETTINGS",
    "TUNNELS",
    "CUSTOMERS",
    "CUSTOMERS6",
    "INBOUND_SPIS",
    "OUTBOUND_SPIS",
    "PEERS",
    "SOURCES",
    "STRANGERS",
    "FLOWS",
    "FLOWS6",
    "NODES",
    "NODES6",
    "WHEEL",
    "EXPIRY",
    "USAGE",
    "COUNTERS",
    "EVENTS",
    "PROGRAMS",
];

/// A directory on a bpffs that holds all pins of one gateway.
#[derive(Clone, Debug)]
pub struct Pins {
    directory: PathBuf,
}

impl Pins {
    /// Pins in this directory, which need not exist.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into() }
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where a map is pinned.
    pub fn map(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Where the link of a hook is pinned.
    pub fn link(&self, hook: Hook) -> PathBuf {
        self.directory.join(format!("link_{}", hook.name()))
    }

    /// True if a gateway's maps are pinned here.
    pub fn exist(&self) -> bool {
        self.map("SETTINGS").exists()
    }

    /// Makes the directory, and mounts a bpffs on it unless it is on one.
    pub fn prepare(&self) -> Result<()> {
        let directory = &self.directory;
        fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
        if self.is_bpffs()? {
            return Ok(());
        }
        mount(Some("bpf"), directory, Some("bpf"), MsFlags::empty(), Some("mode=0700"))
            .with_context(|| format!("mount a bpffs on {} (is this root?)", directory.display()))
    }

    /// Removes all pins, the bpffs if it is ours, and the directory. What is not pinned by
    /// anybody else is gone with it.
    pub fn remove(&self) -> Result<()> {
        let directory = &self.directory;
        if !directory.exists() {
            return Ok(());
        }
        let links = Hook::ALL.map(|hook| self.link(hook));
        for path in links.into_iter().chain(MAPS.iter().map(|name| self.map(name))) {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("unpin {}", path.display()));
                }
                _ => {}
            }
        }
        // Fails, rightly, where the directory lies on somebody else's bpffs.
        let _ = umount(directory);
        fs::remove_dir(directory).with_context(|| format!("remove {}", directory.display()))
    }

    fn is_bpffs(&self) -> Result<bool> {
        let kind = statfs(&self.directory).with_context(|| format!("statfs {}", self.directory.display()))?;
        Ok(kind.filesystem_type() == BPF_FS_MAGIC)
    }
}
