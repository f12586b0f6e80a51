//! Finds comments in Rust, TOML and shell files.

/// One line of a comment.
#[derive(Debug, PartialEq, Eq)]
pub struct Comment {
    /// Line number, from 1.
    pub line: usize,
    /// Text after the marker, trimmed.
    pub text: String,
}

/// Returns the comment lines of a file by its name: Rust's, or `#` comments of TOML and shell.
pub fn of(path: &str, text: &str) -> Vec<Comment> {
    let name = path.rsplit('/').next().unwrap_or(path);
    match name.rsplit_once('.').map(|(_, extension)| extension) {
        Some("rs") => of_rust(text),
        Some("toml" | "sh") => of_hash(text),
        None if text.starts_with("#!/bin/") => of_hash(text),
        _ => Vec::new(),
    }
}

/// Returns `//`, `///`, `//!` and `/* */` comments; skips strings and characters, which may hold those markers.
fn of_rust(text: &str) -> Vec<Comment> {
    let mut comments = Vec::new();
    let bytes = text.as_bytes();
    let (mut at, mut line) = (0, 1);
    while at < bytes.len() {
        let end = match bytes[at] {
            b'/' if bytes[at..].starts_with(b"//") => {
                let end = position(bytes, at, b'\n');
                let marker = ["///", "//!", "//"].into_iter().find(|marker| text[at..].starts_with(marker));
                let start = at + marker.map_or(2, str::len);
                comments.push(Comment { line, text: text[start..end].trim().to_owned() });
                end
            }
            b'/' if bytes[at..].starts_with(b"/*") => {
                let end = block_end(bytes, at);
                for (number, part) in text[at + 2..end].lines().enumerate() {
                    let part = part.trim().trim_end_matches("*/").trim_start_matches(['*', '!']).trim();
                    comments.push(Comment { line: line + number, text: part.to_owned() });
                }
                end
            }
            b'"' => string_end(bytes, at),
            b'r' if !follows_identifier(bytes, at) => raw_string_end(bytes, at).unwrap_or(at + 1),
            b'b' | b'c' if !follows_identifier(bytes, at) && bytes.get(at + 1) == Some(&b'r') => {
                raw_string_end(bytes, at + 1).unwrap_or(at + 1)
            }
            b'\'' => character_end(text, at),
            _ => at + 1,
        };
        line += bytes[at..end].iter().filter(|byte| **byte == b'\n').count();
        at = end;
    }
    comments
}

fn position(bytes: &[u8], from: usize, byte: u8) -> usize {
    bytes[from..].iter().position(|other| *other == byte).map_or(bytes.len(), |offset| from + offset)
}

fn follows_identifier(bytes: &[u8], at: usize) -> bool {
    at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_')
}

/// Block comments nest.
fn block_end(bytes: &[u8], start: usize) -> usize {
    let (mut at, mut depth) = (start, 0);
    while at < bytes.len() {
        match bytes[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn string_end(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while at < bytes.len() && bytes[at] != b'"' {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(bytes.len())
}

/// Returns the end of `r"…"` or `r#"…"#`, or `None` if none begins here (a raw identifier, an ordinary letter).
fn raw_string_end(bytes: &[u8], start: usize) -> Option<usize> {
    let hashes = bytes[start + 1..].iter().take_while(|byte| **byte == b'#').count();
    let open = start + 1 + hashes;
    if bytes.get(open) != Some(&b'"') {
        return None;
    }
    let close = [&b"\""[..], &b"#".repeat(hashes)].concat();
    let body = &bytes[open + 1..];
    let offset = body.windows(close.len()).position(|window| window == close);
    Some(offset.map_or(bytes.len(), |offset| open + 1 + offset + close.len()))
}

/// Returns the end of a character literal, or the position after the quote of a lifetime.
fn character_end(text: &str, start: usize) -> usize {
    let rest = &text[start + 1..];
    if let Some(escaped) = rest.strip_prefix('\\') {
        // The escaped character may be a quote itself.
        return escaped
            .char_indices()
            .skip(1)
            .find(|(_, c)| *c == '\'')
            .map_or(text.len(), |(index, _)| start + 3 + index);
    }
    let mut characters = rest.char_indices();
    match (characters.next(), characters.next()) {
        (Some(_), Some((index, '\''))) => start + 2 + index,
        _ => start + 1,
    }
}

/// Returns `#` comments, except where a quotation is open; the `#!` line counts as one and begins with `!`.
fn of_hash(text: &str) -> Vec<Comment> {
    let comment = |(number, line): (usize, &str)| {
        let mut starts = line.match_indices('#').map(|(index, _)| index);
        let is_start = |index: &usize| {
            let before = &line[..*index];
            let quoted = |quote| before.matches(quote).count() % 2 == 1;
            (before.is_empty() || before.ends_with(char::is_whitespace)) && !quoted('"') && !quoted('\'')
        };
        let start = starts.find(is_start)?;
        Some(Comment { line: number + 1, text: line[start + 1..].trim().to_owned() })
    };
    text.lines().enumerate().filter_map(comment).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> Vec<(usize, String)> {
        of(path, text).into_iter().map(|Comment { line, text }| (line, text)).collect()
    }

    #[test]
    fn rust_comments_are_found_and_strings_are_not() {
        let text = "//! One\nlet a = \"// no\"; // Two\nlet b = r#\"\n// \"no\n\"#; /* Three\n * Four */\n\
                    let c = '\"'; // Five\nfn d<'a>(e: &'a str) {} /// Six\nlet f = '\\''; // Seven\n";
        let expected =
            [(1, "One"), (2, "Two"), (5, "Three"), (6, "Four"), (7, "Five"), (8, "Six"), (9, "Seven")];
        assert_eq!(found("x/a.rs", text), expected.map(|(line, text)| (line, text.to_owned())));
    }

    #[test]
    fn hash_comments_are_found_and_quotations_are_not() {
        let text = "# One\nkey = '# no' # Two\nfor $# in x\n";
        assert_eq!(found("a.toml", text), [(1, "One".to_owned()), (2, "Two".to_owned())]);
        assert_eq!(found("run", "#!/bin/sh\n# One\n").last().unwrap().1, "One");
        assert!(found("a.md", "# Heading\n").is_empty());
    }
}
