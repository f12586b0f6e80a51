//! Relative links of Markdown files, and mentions of decisions.
use crate::lint::{
    markdown::{anchors, links},
    tree::Tree,
};

/// Returns a message for each link and each mention of a decision that leads nowhere.
pub fn faults(tree: &Tree) -> Vec<String> {
    let mut faults = Vec::new();
    for (path, text) in tree.with_extension("md") {
        for link in links(text) {
            faults.extend(fault(tree, path, &link.text).map(|why| format!("{path}:{}: {why}", link.line)));
        }
    }
    for (path, text) in tree.texts() {
        for (index, line) in text.lines().enumerate() {
            for number in decisions(line) {
                let prefix = format!("docs/decisions/{number}-");
                if !tree.paths().any(|path| path.starts_with(&prefix)) {
                    faults.push(format!("{path}:{}: there is no decision {number}", index + 1));
                }
            }
        }
    }
    faults
}

/// Returns the fault of a link in file `from`, if there is one.
fn fault(tree: &Tree, from: &str, link: &str) -> Option<String> {
    let is_remote = link.contains("://") || link.starts_with("mailto:");
    if is_remote {
        return None;
    }
    let (path, anchor) = link.split_once('#').map_or((link, None), |(path, anchor)| (path, Some(anchor)));
    let target = if path.is_empty() { from.to_owned() } else { resolved(from, path)? };
    if !tree.has(&target) {
        return Some(format!("the link {link:?} leads to {target:?}, which does not exist"));
    }
    let anchor = anchor?;
    if target.ends_with(".md") {
        let known = anchors(tree.text(&target)?);
        return (!known.iter().any(|known| known == anchor))
            .then(|| format!("the link {link:?} names a heading that {target} does not have"));
    }
    // GitHub's anchor for a line.
    let is_line = anchor.starts_with('L') && anchor[1..].starts_with(|c: char| c.is_ascii_digit());
    (!is_line).then(|| format!("the link {link:?} has an anchor, but {target} has no headings"))
}

/// Resolves a path relative to the directory of `from`. A path that leaves the repository stays as it is, so that it
/// is not found.
fn resolved(from: &str, path: &str) -> Option<String> {
    let mut parts: Vec<_> = from.split('/').collect();
    parts.pop();
    if path.starts_with('/') {
        parts.clear();
    }
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.pop().is_none() => return Some(path.to_owned()),
            ".." => {}
            name => parts.push(name),
        }
    }
    Some(parts.join("/"))
}

/// Returns the numbers of mentioned decisions.
fn decisions(line: &str) -> impl Iterator<Item = &str> {
    const MARKER: &str = "decisions/";
    line.match_indices(MARKER).filter_map(|(index, _)| {
        let number = line.get(index + MARKER.len()..index + MARKER.len() + 4)?;
        number.bytes().all(|byte| byte.is_ascii_digit()).then_some(number)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dangling_links_are_found() {
        let tree = Tree::of(&[
            ("docs/a.md", "[1](../b.md#two) [2](c/) [3](#no) [4](../b.md#no) [5](d.md) [6](../../e)\n# A\n"),
            ("docs/c/f.rs", ""),
            (
                "b.md",
                "# Two\n[7](https://example.org/x) [8](docs/c/f.rs#L10) [9](docs/c/f.rs#x) [10](#two)\n",
            ),
        ]);
        let faults = faults(&tree);
        let links: Vec<_> = faults.iter().filter_map(|fault| fault.split('"').nth(1)).collect();
        assert_eq!(links, ["docs/c/f.rs#x", "#no", "../b.md#no", "d.md", "../../e"]);
    }

    #[test]
    fn unknown_decisions_are_found_in_every_file() {
        // Written apart: this file is checked too.
        let text = ["(decisions", "/0001) and decisions", "/0099, decisions", "/next"].concat();
        let tree = Tree::of(&[("docs/decisions/0001-first.md", ""), ("a.rs", &text)]);
        assert_eq!(faults(&tree), ["a.rs:1: there is no decision 0099"]);
    }
}
