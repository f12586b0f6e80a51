//! The pins of links and maps, which outlive the daemon.
use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use gateway_common::layout::{Hook, map_list};
use nix::{
    errno::Errno,
    mount::{MsFlags, mount, umount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};
use tracing::warn;

use crate::{kernel::mounts, lock::lock};

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

    /// Creates the directory, and mounts a bpffs on it unless it is on one, in whatever mount namespace this process is:
    /// the pins end with it. For tests; gatewayd's pins have to last.
    pub fn prepare(&self) -> Result<()> {
        self.prepare_if(|| Ok(()))
    }

    /// Creates the directory, and mounts a bpffs on it unless it is on one. Then locks it for one gatewayd, until the
    /// returned file is closed.
    ///
    /// # Errors
    /// If another gatewayd holds the lock, or a bpffs would have to be mounted in another mount namespace than that of
    /// process 1: as in a service manager's sandbox, it would end with gatewayd, and the pins with it.
    pub fn prepare_and_lock(&self) -> Result<File> {
        let directory = &self.directory;
        let mountable = || match mounts::are_those_of_init() {
            Ok(true) => Ok(()),
            Ok(false) => bail!(refusal(directory, "it is in another mount namespace than process 1")),
            Err(error) => {
                bail!(refusal(directory, &format!("it cannot see the mounts of process 1 ({error:#})")))
            }
        };
        self.prepare_if(mountable)?;
        // Somebody has mounted it here on purpose.
        if let Ok(false) = mounts::init_has_file_system_of(directory) {
            warn!(
                "process 1 does not have the bpffs on {} mounted: programs and maps end with the mount namespace of this one",
                directory.display()
            );
        }
        lock(directory)
    }

    /// Prepares the directory. Asks `mountable` before it mounts a bpffs.
    fn prepare_if(&self, mountable: impl FnOnce() -> Result<()>) -> Result<()> {
        let directory = &self.directory;
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(directory).with_context(|| format!("create {}", directory.display()))?;
        if self.is_bpffs()? {
            return Ok(());
        }
        // One process at a time: a second bpffs would hide the first, and the lock on it.
        let _below = lock(directory)?;
        if self.is_bpffs()? {
            return Ok(());
        }
        mountable()?;
        mount(Some("bpf"), directory, Some("bpf"), MsFlags::empty(), Some("mode=0700"))
            .with_context(|| format!("mount a bpffs on {} (root is needed)", directory.display()))
    }

    /// Removes all pins, and unless a gatewayd is running the bpffs, if one is mounted here, and the directory. Links and
    /// maps that nothing else holds end with their pins.
    pub fn remove(&self) -> Result<()> {
        let directory = &self.directory;
        if !directory.exists() {
            return Ok(());
        }
        // First the pin that `exist` looks for: whatever stops this in between, gatewayd sees that it is detached.
        let settings = self.map(map_list::SETTINGS.description.name);
        let links = Hook::ALL.iter().map(|hook| self.link(*hook));
        let maps = map_list::pinned().map(|map| self.map(map.name));
        for path in std::iter::once(settings).chain(links).chain(maps) {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("unpin {}", path.display()));
                }
                _ => {}
            }
        }
        // A gatewayd that is running holds its lock on the directory: without it, a second one could start. The lock itself
        // would keep the bpffs busy.
        match lock(directory) {
            Ok(held) => drop(held),
            Err(_) => return Ok(()),
        }
        // Any other error: the directory lies on a bpffs of somebody else's.
        if umount(directory) == Err(Errno::EBUSY) {
            return Ok(());
        }
        fs::remove_dir(directory).with_context(|| format!("remove {}", directory.display()))
    }

    fn is_bpffs(&self) -> Result<bool> {
        let kind = statfs(&self.directory).with_context(|| format!("statfs {}", self.directory.display()))?;
        Ok(kind.filesystem_type() == BPF_FS_MAGIC)
    }
}

/// Returns why gatewayd does not mount a bpffs, and what to do.
fn refusal(directory: &Path, reason: &str) -> String {
    let directory = directory.display();
    format!(
        "no bpffs is mounted on {directory}, and gatewayd does not mount one because {reason}: programs and maps would end \
         with gatewayd. Mount it outside of gatewayd's sandbox or container, then start gatewayd again: \
         `systemctl start run-gateway-bpf.mount` (packaging/systemd), or `mount -t bpf -o mode=0700 bpf {directory}`"
    )
}
