//! Mentions of docs/facts.md, each with the slug of a heading there.
use crate::lint::{markdown::anchors, tree::Tree};

const FILE: &str = "docs/facts.md";
/// The name of a list that was never part of the repository, spelled so that this file does not hold it.
const FORMER: [&str; 2] = ["FA", "CTS"];

/// Returns a message for each mention of a fact that the file does not have.
pub fn faults(tree: &Tree) -> Vec<String> {
    let known = tree.text(FILE).map(anchors).unwrap_or_default();
    let former = FORMER.concat();
    let mut faults = Vec::new();
    for (path, text) in tree.texts() {
        let lines: Vec<_> = text.lines().collect();
        for (index, line) in lines.iter().enumerate() {
            let here = format!("{path}:{}", index + 1);
            let next = lines.get(index + 1).copied().unwrap_or_default();
            for slug in mentions(line, next).into_iter().filter(|slug| !known.contains(slug)) {
                faults.push(format!("{here}: {FILE} has no heading {slug:?}"));
            }
            if words(line).any(|word| word == former) {
                faults.push(format!("{here}: {former} is no file of this repository: refer to {FILE}"));
            }
        }
    }
    faults
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !c.is_alphanumeric() && c != '_')
}

/// Returns the slugs mentioned after [`FILE`] and `#`, or as a list after [`FILE`] and a colon, which may be wrapped
/// to the next line.
fn mentions(line: &str, next: &str) -> Vec<String> {
    let mut slugs = Vec::new();
    for (index, _) in line.match_indices(FILE) {
        let rest = &line[index + FILE.len()..];
        if let Some(slug) = rest.strip_prefix('#') {
            slugs.push(slug_at(slug).to_owned());
        } else if let Some(list) = rest.strip_prefix(':') {
            let wrapped = next.trim_start().trim_start_matches(['/', '!', '#', '*']);
            let list = if list.trim().is_empty() { wrapped } else { list };
            // A colon may also open a sentence; a slug has a hyphen or ends a parenthesis.
            for item in list.split(',') {
                let item = item.trim_start();
                let slug = slug_at(item);
                if !slug.contains('-') && !item[slug.len()..].starts_with(')') {
                    break;
                }
                slugs.push(slug.to_owned());
            }
        }
    }
    slugs
}

fn slug_at(text: &str) -> &str {
    let is_end = |c: char| !c.is_ascii_lowercase() && !c.is_ascii_digit() && c != '-';
    text.split(is_end).next().unwrap_or_default().trim_end_matches('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_facts_are_found_in_both_forms_and_over_a_line_break() {
        let name = FILE;
        let code = format!(
            "// ({name}: gro-merges-tunnels)\n// ({name}: no-one, no-two)\n// see {name}#no-three.\n\
             // ({name}:\n// no-four)\n// {name}: each with its command\n"
        );
        let tree = Tree::of(&[(FILE, "# Facts\n## gro-merges-tunnels\n"), ("a.rs", &code)]);
        let faults = faults(&tree);
        let slugs: Vec<_> = faults.iter().filter_map(|fault| fault.split('"').nth(1)).collect();
        assert_eq!(slugs, ["no-one", "no-two", "no-three", "no-four"]);
    }

    #[test]
    fn former_name_is_found_as_a_word_only() {
        let former = FORMER.concat();
        let tree = Tree::of(&[("a.rs", &format!("// {former} 8\n// ARTI{former}\n"))]);
        assert_eq!(faults(&tree).len(), 1);
    }
}
