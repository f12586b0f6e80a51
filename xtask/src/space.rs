//! The room on the disk that a command takes below `target/`, checked before a long run begins.
use std::{
    collections::HashSet,
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use nix::sys::statvfs::statvfs;

use crate::project;

const GB: u64 = 1_000_000_000;

/// Checks that `target/` may grow to this many gigabytes.
///
/// # Errors
/// If the file system has less room than is missing. The error says how much, and where.
pub fn ensure(gigabytes: u64) -> Result<()> {
    // Before the first build there is no target/; it will be on the root's file system.
    let target = fs::canonicalize(project::target()).unwrap_or_else(|_| project::root().to_owned());
    let free = free_bytes(&target)?;
    match shortage(gigabytes * GB, free, || used_bytes(&project::target())) {
        None => Ok(()),
        Some(missing) => bail!(
            "the disk is too small: this command lets target/ grow by about {}, and {} has {} left. Make room, or \
             remove what earlier builds left with `cargo clean`",
            shown(missing),
            target.display(),
            shown(free)
        ),
    }
}

/// Returns by how many bytes `target/` still grows if they do not fit. Measures it only if that matters.
fn shortage(final_bytes: u64, free: u64, used: impl FnOnce() -> u64) -> Option<u64> {
    if free >= final_bytes {
        return None;
    }
    let missing = final_bytes.saturating_sub(used());
    (missing > free).then_some(missing)
}

/// Returns the free bytes of the file system, as far as this user may use them.
fn free_bytes(path: &Path) -> Result<u64> {
    let statistics =
        statvfs(path).with_context(|| format!("cannot ask for the room at {}", path.display()))?;
    Ok(statistics.blocks_available() * statistics.fragment_size())
}

/// Returns the bytes that the files below a directory occupy. Counts a file once, whatever the number of its hard
/// links: cargo links each program from `deps`. Skips files that vanish meanwhile.
fn used_bytes(directory: &Path) -> u64 {
    let mut linked = HashSet::new();
    let mut bytes = 0;
    let mut directories: Vec<PathBuf> = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        let entries = fs::read_dir(directory).into_iter().flatten().filter_map(io::Result::ok);
        for entry in entries {
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                directories.push(entry.path());
            } else if metadata.nlink() == 1 || linked.insert((metadata.dev(), metadata.ino())) {
                bytes += metadata.blocks() * 512;
            }
        }
    }
    bytes
}

fn shown(bytes: u64) -> String {
    format!("{:.1} GB", bytes as f64 / GB as f64)
}

#[cfg(test)]
mod tests {
    use std::env;

    use super::*;

    #[test]
    fn disk_is_too_small_only_for_what_is_not_yet_built() {
        assert_eq!(shortage(8 * GB, 9 * GB, || unreachable!("there is room for everything")), None);
        assert_eq!(shortage(8 * GB, 3 * GB, || 5 * GB), None);
        assert_eq!(shortage(8 * GB, 3 * GB, || 4 * GB), Some(4 * GB));
        assert_eq!(shortage(8 * GB, 0, || 9 * GB), None, "everything is built");
    }

    #[test]
    fn shortage_is_an_error_that_names_the_place_and_the_numbers() {
        let error = ensure(1_000_000_000).unwrap_err().to_string();
        assert!(
            error.starts_with("the disk is too small: this command lets target/ grow by about"),
            "{error}"
        );
        assert!(error.contains(" GB left. Make room"), "{error}");
        assert!(ensure(0).is_ok());
    }

    #[test]
    fn hard_links_count_once() {
        let directory = env::temp_dir().join(format!("xtask-space-{}", std::process::id()));
        fs::create_dir_all(directory.join("deps")).unwrap();
        fs::write(directory.join("deps/lab-1"), vec![1; 100_000]).unwrap();
        let once = used_bytes(&directory);
        assert!((100_000..150_000).contains(&once), "{once}");
        fs::hard_link(directory.join("deps/lab-1"), directory.join("lab")).unwrap();
        assert_eq!(used_bytes(&directory), once);
        assert_eq!(used_bytes(&directory.join("gone")), 0);
        fs::remove_dir_all(&directory).unwrap();
    }
}
