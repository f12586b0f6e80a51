//! The approval of removals that are held back: a file that `gatewayctl reload --force` leaves for one reload.
//!
//! It names the removals that it approves, and the reload compares: an approval that comes late, or after the folder has
//! changed, approves nothing.
use std::{fs, io, path::Path};

use anyhow::{Context, Result};
use tracing::warn;

use crate::{atomic, policy::read_regular};

/// Name of the file in the state directory.
const FILE: &str = "approved-removals";
/// Largest file in bytes: it holds a number.
const MAX_BYTES: u64 = 32;

/// Approves, for gatewayd's next reload, the removals that it has held back at this time (`Status::held_back_ns`).
pub fn approve(state: &Path, held_back_ns: u64) -> Result<()> {
    let path = state.join(FILE);
    atomic::write(&path, held_back_ns.to_string().as_bytes())
        .with_context(|| format!("write {}", path.display()))
}

/// Takes the approval away. Returns the time that it names, if there is an approval and it counts only once.
pub fn take(state: &Path) -> Option<u64> {
    let path = state.join(FILE);
    let read = read_regular(&path, MAX_BYTES).ok().and_then(|(text, _)| String::from_utf8(text).ok());
    match fs::remove_file(&path) {
        Ok(()) => read?.parse().ok(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            warn!("no removal is approved: cannot remove {}: {error}", path.display());
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn approval_is_taken_once() {
        let state = tempfile::tempdir().unwrap();
        assert_eq!(take(state.path()), None);
        approve(state.path(), u64::MAX).unwrap();
        assert_eq!((take(state.path()), take(state.path())), (Some(u64::MAX), None));
    }

    #[test]
    fn approval_that_is_no_number_or_cannot_be_taken_away_counts_nothing() {
        let state = tempfile::tempdir().unwrap();
        for bad in [&b""[..], b"-1", b"1 2", b"\xff", &[b'1'; 33]] {
            fs::write(state.path().join(FILE), bad).unwrap();
            assert_eq!(take(state.path()), None);
            assert!(!state.path().join(FILE).exists());
        }
        // It would count again and again.
        fs::create_dir(state.path().join(FILE)).unwrap();
        assert_eq!(take(state.path()), None);
    }
}
