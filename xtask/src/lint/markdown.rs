//! Reads Markdown as far as links need it: links, headings, code spans and prose.

/// A piece of a Markdown file.
#[derive(Debug, PartialEq, Eq)]
pub struct Piece {
    /// Line number, from 1.
    pub line: usize,
    /// The link's target, the code span, or the line of prose.
    pub text: String,
}

/// Returns the targets of inline links, images, reference definitions and HTML's `href` and `src`.
pub fn links(text: &str) -> Vec<Piece> {
    let mut links = Vec::new();
    for Piece { line, text } in prose(text) {
        let mut push = |target: &str| links.push(Piece { line, text: target.to_owned() });
        for (index, _) in text.match_indices("](") {
            push(target(&text[index + 2..]));
        }
        if let Some((_, definition)) = text.strip_prefix('[').and_then(|rest| rest.split_once("]: ")) {
            push(target(definition.trim_start()));
        }
        for attribute in ["href=\"", "src=\""] {
            for (index, _) in text.match_indices(attribute) {
                push(text[index + attribute.len()..].split('"').next().unwrap_or_default());
            }
        }
    }
    links
}

/// Cuts a link's target off before its title and its closing parenthesis.
fn target(rest: &str) -> &str {
    if let Some((target, _)) = rest.strip_prefix('<').and_then(|rest| rest.split_once('>')) {
        return target;
    }
    let mut depth = 0;
    let is_end = |c: char| {
        depth += i32::from(c == '(') - i32::from(c == ')');
        depth < 0 || c.is_whitespace()
    };
    rest.split(is_end).next().unwrap_or_default()
}

/// Returns the anchors of a file's headings, as GitHub makes them, and those set by HTML's `id` and `name`.
pub fn anchors(text: &str) -> Vec<String> {
    let mut anchors: Vec<String> = Vec::new();
    for line in outside_fences(text).map(|(_, line)| line) {
        let level = line.chars().take_while(|c| *c == '#').count();
        if (1..=6).contains(&level) && line[level..].starts_with(' ') {
            let slug = slug(line[level..].trim().trim_end_matches('#').trim_end());
            let earlier = anchors.iter().filter(|anchor| same_heading(anchor, &slug)).count();
            anchors.push(if earlier == 0 { slug } else { format!("{slug}-{earlier}") });
        }
        for attribute in ["id=\"", "name=\""] {
            for (index, _) in line.match_indices(attribute) {
                anchors.extend(line[index + attribute.len()..].split('"').next().map(str::to_owned));
            }
        }
    }
    anchors
}

/// Returns true if the anchor is the slug, perhaps with the number of a repeated heading.
fn same_heading(anchor: &str, slug: &str) -> bool {
    anchor.strip_prefix(slug).is_some_and(|rest| {
        rest.is_empty() || rest.strip_prefix('-').is_some_and(|number| number.parse::<u32>().is_ok())
    })
}

/// Returns GitHub's anchor for a heading: lower case, blanks as hyphens, no punctuation, links as their text.
fn slug(heading: &str) -> String {
    let mut text = heading.to_owned();
    while let Some(start) = text.find("](") {
        let end = text[start..].find(')').map_or(text.len(), |end| start + end + 1);
        text.replace_range(start..end, "");
    }
    let kept = text
        .to_lowercase()
        .chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
        .collect::<String>();
    kept.replace(' ', "-")
}

/// Returns the code spans of prose.
pub fn code_spans(text: &str) -> Vec<Piece> {
    let spans = |(line, text): (usize, &str)| {
        let parts: Vec<_> = text.split('`').collect();
        // Every second part is code; the last one of an even number is not closed on this line.
        let closed = (parts.len() - 1) / 2;
        let code = parts.into_iter().skip(1).step_by(2).take(closed);
        code.map(|part| Piece { line, text: part.to_owned() }).collect::<Vec<_>>()
    };
    outside_fences(text).flat_map(spans).collect()
}

/// Returns the lines outside code blocks, with code spans blanked out.
pub fn prose(text: &str) -> Vec<Piece> {
    outside_fences(text).map(|(line, text)| Piece { line, text: without_code(text) }).collect()
}

/// Replaces closed code spans by blanks.
pub fn without_code(line: &str) -> String {
    let parts: Vec<_> = line.split('`').collect();
    let last = parts.len() - 1;
    let mut text = String::new();
    for (index, part) in parts.into_iter().enumerate() {
        if index % 2 == 1 && index < last {
            text.push(' ');
        } else {
            text += part;
        }
    }
    text
}

fn outside_fences(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    text.lines().enumerate().filter_map(move |(index, line)| {
        let fence = line.trim_start().starts_with("```") || line.trim_start().starts_with("~~~");
        fenced ^= fence;
        (!fence && !fenced).then_some((index + 1, line))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(pieces: Vec<Piece>) -> Vec<String> {
        pieces.into_iter().map(|piece| piece.text).collect()
    }

    #[test]
    fn links_of_all_kinds_are_found_and_code_is_not() {
        let text = "See [a](b.md#c \"title\"), ![d](<e f.svg>) and [g](h_(i).md).\n[j]: k.md\n\
                    <img src=\"l.svg\">\n`[m](n.md)`\n```\n[o](p.md)\n```\n";
        assert_eq!(texts(links(text)), ["b.md#c", "e f.svg", "h_(i).md", "k.md", "l.svg"]);
    }

    #[test]
    fn anchors_are_those_of_github() {
        let text = "# The `lab`, and [more](x.md)!\n## Twice\n## Twice\n<a id=\"own\"></a>\n```\n# no\n```\n";
        assert_eq!(anchors(text), ["the-lab-and-more", "twice", "twice-1", "own"]);
    }

    #[test]
    fn code_spans_and_prose_complement_each_other() {
        let text = "a `b/c.rs` d `e` f\n";
        assert_eq!(texts(code_spans(text)), ["b/c.rs", "e"]);
        assert_eq!(texts(prose(text)), ["a   d   f"]);
        assert_eq!(texts(code_spans("not ` closed")), Vec::<String>::new());
    }
}
