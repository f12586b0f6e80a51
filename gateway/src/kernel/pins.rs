//! The pins of links and maps, which outlive the daemon.
use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use gateway_common::layout::{Hook, map_list};
use nix::{
    mount::{MsFlags, mount, umount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};

/// The default directory of pins. Under /run and not under /sys/fs/bpf: `ip netns exec` mounts a fresh /sys,
/// which would hide them (docs/facts.md: netns-exec-mounts-sys).
pub const DEFAULT_DIRECTORY: &str = "/run/gateway/bpf";

/// A directory on a bpffs that holds all pins of one gateway.
#[derive(Clone, Debug)]
pub struct Pins {
    directory: PathBuf,
}

impl Pins {
    /// Names the pins in this directory, which need not exist.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into() }
    }

    /// Returns the directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Returns the path of a map's pin.
    pub fn map(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Returns the path of the pin of a hook's link.
    pub fn link(&self, hook: Hook) -> PathBuf {
        self.directory.join(format!("link_{}", hook.name()))
    }

    /// Returns true if a gateway's maps are pinned here.
    pub fn exist(&self) -> bool {
        self.map(map_list::SETTINGS.description.name).exists()
    }

    /// Creates the directory, and mounts a bpffs on it unless it is on one.
    pub fn prepare(&self) -> Result<()> {
        let directory = &self.directory;
        fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
        if self.is_bpffs()? {
            return Ok(());
        }
        mount(Some("bpf"), directory, Some("bpf"), MsFlags::empty(), Some("mode=0700"))
            .with_context(|| format!("mount a bpffs on {} (root is needed)", directory.display()))
    }

    /// Removes all pins, the bpffs if `prepare` mounted it, and the directory. Links and maps that nothing else
    /// holds end with their pins.
    pub fn remove(&self) -> Result<()> {
        let directory = &self.directory;
        if !directory.exists() {
            return Ok(());
        }
        let links = Hook::ALL.iter().map(|hook| self.link(*hook));
        for path in links.chain(map_list::pinned().map(|map| self.map(map.name))) {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("unpin {}", path.display()));
                }
                _ => {}
            }
        }
        // Fails, as it should, if the directory lies on a bpffs of somebody else's.
        let _ = umount(directory);
        fs::remove_dir(directory).with_context(|| format!("remove {}", directory.display()))
    }

    fn is_bpffs(&self) -> Result<bool> {
        let kind = statfs(&self.directory).with_context(|| format!("statfs {}", self.directory.display()))?;
        Ok(kind.filesystem_type() == BPF_FS_MAGIC)
    }
}
