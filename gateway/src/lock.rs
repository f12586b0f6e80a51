//! Locks on directories. One daemon works in a directory: two would undo each other's changes.
use std::{
    fs::{self, File, TryLockError},
    os::unix::fs::MetadataExt as _,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

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

/// Waits for the lock on a directory, which lasts until the returned file is closed. For short work: fails if another
/// process holds it longer than this.
pub fn wait(directory: &Path, limit: Duration) -> Result<File> {
    const PAUSE: Duration = Duration::from_millis(2);
    let context = || format!("lock {}", directory.display());
    let file = File::open(directory).with_context(context)?;
    let begun = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if begun.elapsed() < limit => thread::sleep(PAUSE),
            Err(TryLockError::WouldBlock) => {
                bail!("another process keeps {} locked", directory.display())
            }
            Err(TryLockError::Error(error)) => return Err(error).with_context(context),
        }
    }
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
    fn directory_that_does_not_exist_is_named() {
        let error = format!("{:#}", lock(Path::new("/nonexistent")).unwrap_err());
        assert!(error.starts_with("lock /nonexistent: "), "{error}");
    }
}
