//! The crates of the workspace, each by its root file.
use std::collections::BTreeSet;

use super::super::tree::Tree;

/// Returns the root files of libraries, programs and build scripts. Integration tests are exempt, except in the test
/// tools, which are nothing but tests.
pub fn roots(tree: &Tree) -> BTreeSet<String> {
    let mut roots = BTreeSet::new();
    let manifests = tree.texts().filter(|(path, _)| path.ends_with("Cargo.toml"));
    for (manifest, text) in manifests.filter(|(_, text)| text.lines().any(|line| line.trim() == "[package]"))
    {
        let package = manifest.trim_end_matches("Cargo.toml");
        let is_tool = package.starts_with("tests/");
        let is_root = |path: &str| {
            let Some(path) = path.strip_prefix(package) else { return false };
            matches!(path, "src/lib.rs" | "src/main.rs" | "build.rs")
                || is_target(path, "src/bin/")
                || (is_tool && is_target(path, "tests/"))
        };
        roots.extend(tree.paths().filter(|path| is_root(path)).map(str::to_owned));
        roots.extend(named(text, is_tool).into_iter().map(|path| format!("{package}{path}")));
    }
    roots.retain(|path| tree.text(path).is_some());
    roots
}

/// Returns true for `DIRECTORY/NAME.rs` and `DIRECTORY/NAME/main.rs`.
fn is_target(path: &str, directory: &str) -> bool {
    path.strip_prefix(directory).is_some_and(|name| match name.split_once('/') {
        None => name.ends_with(".rs"),
        Some((_, rest)) => rest == "main.rs",
    })
}

/// Returns the paths that a manifest gives to its targets.
fn named(manifest: &str, tests_too: bool) -> Vec<String> {
    let mut section = "";
    let mut paths = Vec::new();
    for line in manifest.lines().map(str::trim) {
        if line.starts_with('[') {
            section = line;
        }
        let is_target = matches!(section, "[lib]" | "[[bin]]") || (tests_too && section == "[[test]]");
        if let Some(path) = line.strip_prefix("path = \"").filter(|_| is_target) {
            paths.push(path.trim_end_matches('"').to_owned());
        }
    }
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roots_are_found_by_convention_and_by_name() {
        let tree = Tree::of(&[
            ("Cargo.toml", "[workspace]\n"),
            (
                "a/Cargo.toml",
                "[package]\nname = \"a\"\n[[bin]]\npath = \"own.rs\"\n[[test]]\npath = \"tests/t.rs\"\n",
            ),
            ("a/own.rs", ""),
            ("a/build.rs", ""),
            ("a/src/lib.rs", ""),
            ("a/src/other.rs", ""),
            ("a/src/bin/b.rs", ""),
            ("a/src/bin/c/main.rs", ""),
            ("a/src/bin/c/part.rs", ""),
            ("a/tests/t.rs", ""),
            ("tests/lab/Cargo.toml", "[package]\n[[test]]\npath = \"t.rs\"\n"),
            ("tests/lab/t.rs", ""),
        ]);
        let expected = [
            "a/build.rs",
            "a/own.rs",
            "a/src/bin/b.rs",
            "a/src/bin/c/main.rs",
            "a/src/lib.rs",
            "tests/lab/t.rs",
        ];
        assert_eq!(roots(&tree).into_iter().collect::<Vec<_>>(), expected);
    }
}
