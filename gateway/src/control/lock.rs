//! One daemon at a time: two would undo each other's changes.
use std::{
    fs::{self, File, TryLockError},
    path::Path,
};

use anyhow::{Context, Result, bail};

/// The file's name in the state directory.
const FILE: &str = "lock";

/// Locks the state directory, which is made if it is not there, for as long as the returned file is open: until the process ends, however
/// it does. Fails if another process has it.
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
