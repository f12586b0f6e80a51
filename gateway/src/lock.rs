//! Ensures that a single daemon runs: two would undo each other's changes.
use std::{
    fs::{self, File, TryLockError},
    path::Path,
};

use anyhow::{Context, Result, bail};

/// Name of the lock file in the state directory.
const FILE: &str = "lock";

/// Locks the state directory and creates it if it does not exist. The lock lasts until the returned file is
/// closed, at the latest when the process ends for any reason. Fails if another process holds the lock.
pub fn lock(state: &Path) -> Result<File> {
    fs::create_dir_all(state).with_context(|| format!("create {}", state.display()))?;
    let path = state.join(FILE);
    let file = File::create(&path).with_context(|| format!("create {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            bail!("another gatewayd is running with the state directory {}", state.display())
        }
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("lock {}", path.display())),
    }
}
