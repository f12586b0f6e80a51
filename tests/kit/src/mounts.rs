//! The lab's own view of the file system: a fresh `/run`, and `/etc/gateway` for its keys.
use std::{
    fs, io,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use anyhow::{Context, Result};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
};

/// Where the example policies say that the gateway's keys are.
const GATEWAY_ETC: &str = "/etc/gateway";

static MADE_GATEWAY_ETC: AtomicBool = AtomicBool::new(false);

/// Moves the process, which must still be single-threaded, into a mount namespace where `/run` is empty and its
/// own. It is gone when the process has ended.
pub fn private_run() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("cannot make a mount namespace: is this root?")?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .context("cannot make the mounts private")?;
    mount_fresh("tmpfs", Path::new("/run"))
}

/// Does the same as [`private_run`], and also gives the process an empty `/etc/gateway` and a `/run/netns` for
/// `ip netns`. Call [`clean_up`] before the process ends.
pub fn isolate() -> Result<()> {
    private_run()?;
    fs::create_dir_all("/run/netns")?;
    // `ip netns` wants a mount point of its own to bind names into.
    mount_fresh("tmpfs", Path::new("/run/netns"))?;
    match fs::create_dir(GATEWAY_ETC) {
        Ok(()) => MADE_GATEWAY_ETC.store(true, Ordering::Relaxed),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error).context("cannot make /etc/gateway"),
    }
    mount_fresh("tmpfs", Path::new(GATEWAY_ETC))
}

/// Mounts a new file system of this type on a folder.
pub fn mount_fresh(kind: &str, on: &Path) -> Result<()> {
    mount(Some(kind), on, Some(kind), MsFlags::empty(), None::<&str>)
        .with_context(|| format!("cannot mount a {kind} on {}", on.display()))
}

/// Removes the one thing that would outlive the mount namespace: the folder `/etc/gateway`, if the
/// lab made it.
pub fn clean_up() {
    if MADE_GATEWAY_ETC.swap(false, Ordering::Relaxed) {
        // An empty folder that stays is no harm.
        let _ = umount2(GATEWAY_ETC, MntFlags::MNT_DETACH);
        let _ = fs::remove_dir(GATEWAY_ETC);
    }
}
