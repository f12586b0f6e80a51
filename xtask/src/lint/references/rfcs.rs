//! The form of references to RFCs: "RFC 9293", "RFC 9293 section 3.10.7.4".
use crate::lint::{comments, markdown, tree::Tree};

/// Returns a message for each malformed reference in comments and in Markdown's prose.
pub fn faults(tree: &Tree) -> Vec<String> {
    let mut faults = Vec::new();
    for (path, text) in tree.texts() {
        let lines: Vec<(usize, String)> = if path.ends_with(".md") {
            markdown::prose(text).into_iter().map(|piece| (piece.line, piece.text)).collect()
        } else {
            let comments = comments::of(path, text).into_iter();
            comments.map(|comment| (comment.line, markdown::without_code(&comment.text))).collect()
        };
        for (number, line) in lines {
            faults.extend(line_faults(&line).map(|fault| {
                format!("{path}:{number}: {fault:?} should read \"RFC 9293\" or \"RFC 9293 section 3.10\"")
            }));
        }
    }
    faults
}

/// Returns the malformed references of a line.
fn line_faults(line: &str) -> impl Iterator<Item = &str> {
    let lower = line.to_ascii_lowercase();
    let starts: Vec<_> = lower.match_indices("rfc").map(|(index, _)| index).collect();
    starts.into_iter().filter_map(move |start| {
        let continues = |c: char| c.is_alphanumeric() || matches!(c, '/' | '.' | '-' | '_');
        if line[..start].ends_with(continues) {
            // Part of another word or of an address.
            return None;
        }
        let rest = &line[start + 3..];
        let number = rest.trim_start_matches([' ', '-', '\u{a0}']);
        let digits = number.bytes().take_while(u8::is_ascii_digit).count();
        let after = &number[digits..];
        let is_reference =
            digits > 0 && !after.starts_with(['(', '_']) && !after.starts_with(char::is_alphabetic);
        if !is_reference {
            return None;
        }
        let gap = &rest[..rest.len() - number.len()];
        let well_formed = line[start..].starts_with("RFC") && gap == " " && section_is_well_formed(after);
        let end = line.len() - after.len();
        // Shows the section too.
        let shown = after.char_indices().nth(16).map_or(line.len(), |(index, _)| end + index);
        (!well_formed).then(|| line[start..shown].trim_end())
    })
}

/// Returns true if no section follows, or `section N.N` does.
fn section_is_well_formed(after: &str) -> bool {
    let text = after.trim_start_matches([',', ' ', '(']);
    let word: String = text.chars().take_while(|c| c.is_alphabetic() || matches!(c, '§' | '.')).collect();
    match word.trim_end_matches('.').to_lowercase().as_str() {
        "section" | "sections" => {
            let number = text[word.len()..].strip_prefix(' ').unwrap_or_default();
            let is_number = number.starts_with(|c: char| c.is_ascii_digit());
            // At the end of a line the number is on the next one.
            word.starts_with('s') && (is_number || text.len() == word.len())
        }
        "sec" | "sect" | "chapter" | "paragraph" => false,
        other => !other.starts_with('§'),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn malformed_references_are_found() {
        let bad = [
            "RFC9293",
            "rfc 793",
            "RFC-793",
            "Rfc 1",
            "RFC 9293 §3",
            "RFC 9293, Section 3",
            "RFC 9293 sec. 3",
            "RFC 9293 section three",
        ];
        for text in bad {
            let tree = Tree::of(&[("a.rs", &format!("// ({text})\n"))]);
            assert_eq!(faults(&tree).len(), 1, "{text}: {:?}", faults(&tree));
        }
    }

    #[test]
    fn well_formed_references_and_other_words_are_fine() {
        let good = "// RFC 9293, RFC 793 section 3.10.7.4; RFC 3810 sections 9.1 and 9.11; RFC 5382 REQ-5\n\
                    // the RFC's MUST; https://www.rfc-editor.org/rfc/rfc9293; `RFC9293`; aead rfc4106(gcm(aes))\n\
                    let a = \"RFC9293\"; // RFC 9293 section\n";
        assert_eq!(faults(&Tree::of(&[("a.rs", good)])), Vec::<String>::new());
        assert_eq!(faults(&Tree::of(&[("a.md", "See RFC9293\n")])).len(), 1);
    }
}
