//! Paths in backticks in the documents for contributors.
use crate::lint::{markdown::code_spans, tree::Tree};

const DOCUMENTS: [&str; 2] = ["ARCHITECTURE.md", "CONTRIBUTING.md"];
/// A code span that ends like this is a path.
const EXTENSIONS: [&str; 8] = ["json", "md", "rs", "sh", "svg", "toml", "txt", "yml"];

/// Returns a message for each path that does not exist.
pub fn faults(tree: &Tree) -> Vec<String> {
    let mut faults = Vec::new();
    for document in DOCUMENTS {
        for span in tree.text(document).map(code_spans).unwrap_or_default() {
            let missing = |path: &String| is_path(tree, path) && !is_placeholder(path) && !exists(tree, path);
            for path in expanded(&span.text).iter().filter(|path| missing(path)) {
                faults.push(format!("{document}:{}: {path:?} does not exist", span.line));
            }
        }
    }
    faults
}

/// Returns true if the text looks like a path of this repository: it begins in one of its directories, or has a
/// file's extension.
fn is_path(tree: &Tree, text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '_' | '-' | '*');
    if text.is_empty() || !text.chars().all(allowed) || text.starts_with(['/', '*', '-']) {
        return false;
    }
    let is_below = text.split_once('/').is_some_and(|(first, _)| tree.has(first));
    let has_extension = text.rsplit_once('.').is_some_and(|(stem, end)| {
        EXTENSIONS.contains(&end) && !stem.is_empty() && !text.starts_with("target/")
    });
    is_below || has_extension
}

/// Returns true for a name to fill in, such as `docs/decisions/NNNN-title.md`.
fn is_placeholder(path: &str) -> bool {
    path.split(['/', '-', '.']).any(|part| matches!(part, "NNNN" | "NAME" | "NUMBER"))
}

/// Returns true if the path, which may have a `*`, or a longer path that ends with it exists.
fn exists(tree: &Tree, path: &str) -> bool {
    let path = path.trim_end_matches('/');
    if let Some((before, after)) = path.split_once('*') {
        let after = after.rsplit('*').next().unwrap_or(after);
        return tree.paths().any(|known| {
            known.find(before).is_some_and(|start| {
                let begins = start == 0 || known[..start].ends_with('/');
                begins && known[start + before.len()..].ends_with(after)
            })
        });
    }
    let (below, middle, end) = (format!("{path}/"), format!("/{path}/"), format!("/{path}"));
    tree.has(path)
        || tree
            .paths()
            .any(|known| known.starts_with(&below) || known.contains(&middle) || known.ends_with(&end))
}

/// Expands one group of braces: `a/{b,c}.rs` becomes `a/b.rs` and `a/c.rs`.
fn expanded(text: &str) -> Vec<String> {
    let parts = text.split_once('{').and_then(|(before, rest)| Some((before, rest.split_once('}')?)));
    match parts {
        Some((before, (group, after))) => {
            group.split(',').map(|item| format!("{before}{}{after}", item.trim())).collect()
        }
        None => vec![text.to_owned()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_paths_are_found() {
        let text = "`crate/src/a.rs` `crate/src/{a,b}.rs` `a.rs` `gone.rs` `crate/` `crate/src/*.rs` `crate/*.toml`\n\
                    `/sys/fs/bpf` `cargo xtask run` `docs/decisions/NNNN-title.md` `a::b` `x/y` `target/x.rs`\n";
        let tree = Tree::of(&[("ARCHITECTURE.md", text), ("crate/src/a.rs", ""), ("docs/a.md", "`gone.rs`")]);
        let faults = faults(&tree);
        let paths: Vec<_> = faults.iter().filter_map(|fault| fault.split('"').nth(1)).collect();
        assert_eq!(paths, ["crate/src/b.rs", "gone.rs", "crate/*.toml"]);
    }
}
