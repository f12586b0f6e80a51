//! A private view of the file system: a fresh `/run`, and `/etc/gateway` for keys.
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

/// The folder in which the example policies expect the gateway's keys.
const GATEWAY_ETC: &str = "/etc/gateway";

static MADE_GATEWAY_ETC: AtomicBool = AtomicBool::new(false);

/// Moves the process, which must still be single-threaded, into a mount namespace where `/run` is empty and
/// its own. It is gone when the process has ended.
pub fn private_run() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("cannot make a mount namespace: is this root?")?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .context("cannot make the mounts private")?;
    mount_fresh("tmpfs", Path::new("/run"))
}

/// Does the same as [`private_run`], and also gives the process an empty `/etc/gateway`, and a `/run/netns` for
/// `ip netns`. Call [`clean_up`] before the process ends.
pub fn isolate() -> Result<()> {
    private_run()?;
    fs::create_dir_all("/run/netns")?;
    // `ip netns` binds names into a mount point of its own.
    mount_fresh("tmpfs", Path::new("/run/netns"))?;
    match fs::create_dir(GATEWAY_ETC) {
        Ok(()) => MADE_GATEWAY_ETC.store(true, Ordering::Relaxed),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error).context("cannot make /etc/gateway"),
    }
    mount_fresh("tmpfs", Path::new(GATEWAY_ETC))
}

/// Mounts a new file system of type `kind` on a folder.
pub fn mount_fresh(kind: &str, on: &Path) -> Result<()> {
    mount(Some(kind), on, Some(kind), MsFlags::empty(), None::<&str>)
        .with_context(|| format!("cannot mount a {kind} on {}", on.display()))
}

/// Removes the folder `/etc/gateway` if [`isolate`] made it: only that would outlive the mount namespace.
pub fn clean_up() {
    if MADE_GATEWAY_ETC.swap(false, Ordering::Relaxed) {
        // A leftover empty folder does no harm.
        let _ = umount2(GATEWAY_ETC, MntFlags::MNT_DETACH);
        let _ = fs::remove_dir(GATEWAY_ETC);
    }
}
