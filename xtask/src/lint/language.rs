//! Check `language`: a sentence in a comment opens with its subject, not with a relative clause.
use super::{comments, tree::Tree};

/// Words that no sentence of a comment may begin with: the clause they open hides the subject.
const OPENERS: [&str; 9] = ["What", "Of", "Where", "As", "Whether", "Whose", "Who", "Whom", "Which"];

/// Returns a message for each sentence that begins with one of those words.
pub fn faults(tree: &Tree) -> Vec<String> {
    let mut faults = Vec::new();
    for (path, text) in tree.texts() {
        let mut in_example = false;
        for comment in comments::of(path, text) {
            if comment.text.starts_with("```") {
                in_example = !in_example;
            } else if let Some(word) = opener(&comment.text).filter(|_| !in_example) {
                faults.push(format!(
                    "{path}:{}: a sentence begins with {word:?}: {}",
                    comment.line, comment.text
                ));
            }
        }
    }
    faults
}

/// Returns the first forbidden word at the beginning of a line or after the end of a sentence. Wrapped lines begin
/// in lower case unless a sentence does.
fn opener(line: &str) -> Option<&'static str> {
    let line = line.trim_start_matches(['-', '*', '(', ' ']);
    let is_stop = |c: char| matches!(c, '.' | '!' | '?');
    let after = line.match_indices(is_stop).filter_map(|(index, _)| {
        let rest = line[index + 1..].trim_start_matches(['"', '\'', ')', '`']);
        rest.strip_prefix(' ')
    });
    std::iter::once(line).chain(after).find_map(|sentence| {
        let sentence = sentence.trim_start_matches([' ', '(']);
        OPENERS.into_iter().find(|word| {
            sentence.strip_prefix(word).is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric()))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_openers_are_found_in_every_kind_of_comment() {
        let text = "//! What it is.\n/// Returns it. Where it is, is known.\nlet a = 1; // As before\n\
                    // - Whether it holds\n/* Of those */\n";
        let faults = faults(&Tree::of(&[("a.rs", text), ("b.toml", "# Whose it is\n# Who asks\n")]));
        let lines: Vec<_> = faults.iter().map(|fault| fault.split(": ").next().unwrap()).collect();
        assert_eq!(lines, ["a.rs:1", "a.rs:2", "a.rs:3", "a.rs:4", "a.rs:5", "b.toml:1", "b.toml:2"]);
    }

    #[test]
    fn same_words_elsewhere_are_fine() {
        let text = "/// Returns what is there, of which e.g. as many are\n/// Offers Whatever. Asks `What`.\n\
                    let a = \"// What\";\n/// ```\n/// What();\n/// ```\n";
        assert_eq!(faults(&Tree::of(&[("a.rs", text), ("b.md", "# What holds\n")])), Vec::<String>::new());
    }
}
