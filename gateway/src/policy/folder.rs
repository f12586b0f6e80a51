//! The names in a policy directory: which files are read, which are ignored, and which are faults.
//!
//! A name that is neither read nor ignored by rule is a fault: `acme.TOML` and `acme.tml` would else be
//! customers that nobody serves, without a word.
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::path::Path;

/// Ends of names that editors, package managers and version control leave beside a file.
const IGNORED_ENDS: [&str; 11] = [
    "~",
    ".bak",
    ".orig",
    ".rej",
    ".swp",
    ".tmp",
    ".md",
    ".dpkg-old",
    ".dpkg-new",
    ".dpkg-dist",
    ".ucf-dist",
];
/// Names that are ignored. Vim creates `4913` for a moment, and mkfs `lost+found`.
const IGNORED: [&str; 3] = ["README", "4913", "lost+found"];
/// The rule as faults state it.
pub(super) const IGNORED_RULE: &str = "or a name that is ignored (`.NAME`, `NAME~`, `#NAME#`, `NAME.bak`)";

/// Returns a directory's names that are not ignored, sorted.
pub(super) fn names(dir: &Path) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        if !is_ignored(&name) {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

fn is_ignored(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    let lock = name.starts_with('#') && name.ends_with('#');
    let left = || IGNORED_ENDS.iter().any(|end| name.ends_with(end));
    name.starts_with('.') || lock || IGNORED.contains(&&*name) || left()
}
