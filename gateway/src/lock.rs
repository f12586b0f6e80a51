//! Locks. One daemon works in a directory, and one process at a time changes programs and forwarding: two would undo each
//! other's changes.
use std::{
    fs::{self, File, TryLockError},
    io::ErrorKind,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::stat::{major, minor};

use crate::process::Process;

/// Longest time that a start keeps programs and forwarding to itself: the kernel verifies the programs meanwhile, which
/// takes long on an emulated machine.
pub const START_LIMIT: Duration = Duration::from_secs(120);

/// Locks an existing directory itself, not a file in it: whoever works in it has to pass this, by whatever path and in
/// whatever namespace. The lock lasts until the returned file is closed, at the latest when the process ends for any
/// reason. Fails if another process holds the lock.
pub fn lock(directory: &Path) -> Result<File> {
    let context = || format!("lock {}", directory.display());
    let file = File::open(directory).with_context(context)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => bail!("another gatewayd is running with {}", directory.display()),
        Err(TryLockError::Error(error)) => return Err(error).with_context(context),
    }
    // Something may have been mounted over it, or it may have been made anew, since it was opened.
    let (locked, now) = (file.metadata()?, fs::metadata(directory).with_context(context)?);
    let same = (locked.dev(), locked.ino()) == (now.dev(), now.ino());
    ensure!(same, "{} was replaced while gatewayd was starting: start it again", directory.display());
    Ok(file)
}

/// Waits until nobody else changes programs and forwarding together, and keeps others from it until the returned file is
/// closed. The lock is that of a file in the state directory, which is gatewayd's alone: who may open a file may lock it.
/// Fails after `limit`.
pub fn hold_forwarding(state: &Path, limit: Duration) -> Result<File> {
    const PAUSE: Duration = Duration::from_millis(2);
    let path = state.join("forwarding.lock");
    let context = || format!("lock {}", path.display());
    let file = File::options().create(true).truncate(false).write(true).mode(0o600).open(&path);
    let file = file.with_context(context)?;
    let begun = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if begun.elapsed() < limit => thread::sleep(PAUSE),
            Err(TryLockError::WouldBlock) => bail!("another process keeps {} locked", path.display()),
            Err(TryLockError::Error(error)) => return Err(error).with_context(context),
        }
    }
}

/// Returns the process that holds a directory's lock. It is alive: a lock ends when a process ends, before it becomes a
/// zombie. Takes no lock itself, which could keep a gatewayd from starting.
pub fn holder(directory: &Path) -> Result<Option<Process>> {
    const LOCKS: &str = "/proc/locks";
    let looked_at = match fs::metadata(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        result => result.with_context(|| format!("look at {}", directory.display()))?,
    };
    let locks = fs::read_to_string(LOCKS).with_context(|| format!("read {LOCKS}"))?;
    Ok(find(&locks, looked_at.dev(), looked_at.ino()).and_then(Process::of))
}

/// Returns the process that has locked an inode by flock, from the text of /proc/locks (proc_locks(5)).
fn find(locks: &str, device: u64, inode: u64) -> Option<i32> {
    let wanted = format!("{:02x}:{:02x}:{inode}", major(device), minor(device));
    locks.lines().find_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        // A line of a process that waits for the lock has an arrow here.
        let kind = fields.next()?;
        let (pid, file) = (fields.nth(2)?, fields.next()?);
        (kind == "FLOCK" && file == wanted).then(|| pid.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn directory_is_locked_under_each_of_its_names() {
        let root = tempfile::tempdir().unwrap();
        let (directory, alias) = (root.path().join("a"), root.path().join("b"));
        fs::create_dir(&directory).unwrap();
        symlink(&directory, &alias).unwrap();
        let held = lock(&directory).unwrap();
        let refused = lock(&alias).unwrap_err().to_string();
        assert_eq!(refused, format!("another gatewayd is running with {}", alias.display()));
        drop(held);
        assert!(lock(&alias).is_ok());
    }

    #[test]
    fn holder_is_told_while_it_has_the_lock() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(holder(directory.path()).unwrap(), None);
        let held = lock(directory.path()).unwrap();
        // Some file systems have other numbers in /proc/locks than in stat(2).
        if let Some(found) = holder(directory.path()).unwrap() {
            assert_eq!(Some(found), Process::own());
        }
        drop(held);
        assert_eq!(holder(directory.path()).unwrap(), None);
        assert_eq!(holder(Path::new("/nonexistent")).unwrap(), None);
    }

    #[test]
    fn lock_is_found_by_device_and_inode() {
        let locks = "1: POSIX  ADVISORY  WRITE 10 00:2a:7 0 EOF\n2: FLOCK  ADVISORY  WRITE 11 00:2a:70 0 EOF\n\
                     3: -> FLOCK  ADVISORY  WRITE 12 00:2a:7 0 EOF\n3: FLOCK  ADVISORY  WRITE 13 00:2a:7 0 EOF\n";
        let device = nix::sys::stat::makedev(0, 0x2a);
        assert_eq!(find(locks, device, 7), Some(13));
        assert_eq!(find(locks, device, 8), None);
        assert_eq!(find("", device, 7), None);
    }

    #[test]
    fn directory_that_does_not_exist_is_named() {
        let error = format!("{:#}", lock(Path::new("/nonexistent")).unwrap_err());
        assert!(error.starts_with("lock /nonexistent: "), "{error}");
    }
}
