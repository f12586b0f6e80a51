//! The repository's files and their texts.
use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context as _, Result};

use crate::command::{command, output};

/// Paths relative to the root, each with its text unless the file is binary.
pub struct Tree(BTreeMap<String, Option<String>>);

impl Tree {
    /// Reads the files that git tracks, and new ones that it does not ignore.
    pub fn read(root: &Path) -> Result<Self> {
        let mut git = command("git");
        git.current_dir(root).args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
        let listed = output(&mut git).context("the checks of the tree need git")?;
        let mut files = BTreeMap::new();
        for name in listed.split('\0').filter(|name| !name.is_empty()) {
            let path = root.join(name);
            // git still lists a file that was just deleted.
            if path.symlink_metadata().is_ok() {
                let text = fs::read(&path).ok().and_then(|bytes| String::from_utf8(bytes).ok());
                files.insert(name.to_owned(), text);
            }
        }
        Ok(Self(files))
    }

    /// Returns true if a file or a directory with files has this path.
    pub fn has(&self, path: &str) -> bool {
        let below = format!("{}/", path.trim_end_matches('/'));
        path.is_empty()
            || self.0.contains_key(path)
            || self.0.range(below.clone()..).next().is_some_and(|(name, _)| name.starts_with(&below))
    }

    /// Returns the text of a file.
    pub fn text(&self, path: &str) -> Option<&str> {
        self.0.get(path)?.as_deref()
    }

    /// Iterates over all paths.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Iterates over all files that are text, with their texts.
    pub fn texts(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().filter_map(|(path, text)| Some((path.as_str(), text.as_deref()?)))
    }

    /// Iterates over the text files with this extension.
    pub fn with_extension(&self, extension: &str) -> impl Iterator<Item = (&str, &str)> {
        self.texts().filter(move |(path, _)| path.rsplit_once('.').is_some_and(|(_, end)| end == extension))
    }

    /// Makes a tree of these paths and texts.
    #[cfg(test)]
    pub fn of(files: &[(&str, &str)]) -> Self {
        Self(files.iter().map(|(path, text)| ((*path).to_owned(), Some((*text).to_owned()))).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_directories_are_found() {
        let tree = Tree::of(&[("a/b.rs", ""), ("ab.rs", "")]);
        assert!(tree.has("a/b.rs") && tree.has("a") && tree.has("a/") && tree.has(""));
        assert!(!tree.has("a/b") && !tree.has("b.rs"));
    }
}
