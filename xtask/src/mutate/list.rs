//! The list of mutations, `tests/mutations.toml`, and how one is applied to the code.
use std::{fs, path::Path};

use anyhow::{Context as _, Result, bail, ensure};

/// The list of mutations.
pub const LIST: &str = "tests/mutations.toml";
/// The crate that is mutated.
pub const PACKAGE: &str = "gateway-common";

/// A rule and a way to break it.
#[derive(Default)]
pub struct Mutation {
    pub name: String,
    /// The broken rule, in words.
    pub rule: String,
    /// Path below `gateway-common/src`.
    pub file: String,
    /// Text of the first line of the item to search; the whole file if empty.
    pub within: String,
    /// Text that occurs there exactly once.
    pub from: String,
    /// Its replacement.
    pub to: String,
}

impl Mutation {
    /// Returns the mutated text of the file in this copy of the package.
    pub fn applied(&self, package: &Path) -> Result<String> {
        let path = package.join("src").join(&self.file);
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        replaced(&text, &self.within, &self.from, &self.to)
    }
}

/// Replaces `from`, which must occur exactly once in the item that begins with `within`.
fn replaced(text: &str, within: &str, from: &str, to: &str) -> Result<String> {
    let (start, end) = item(text, within).with_context(|| format!("no item {within:?}, or several"))?;
    match text[start..end].matches(from).count() {
        1 => {}
        count => bail!("{from:?} occurs {count} times in {within:?}, not once"),
    }
    ensure!(from != to, "{from:?} is replaced by itself");
    let at = start + text[start..end].find(from).context("counted above")?;
    Ok(format!("{}{to}{}", &text[..at], &text[at + from.len()..]))
}

/// Returns the range from the only occurrence of `within` to the closing brace with the indentation of that line.
fn item(text: &str, within: &str) -> Option<(usize, usize)> {
    if within.is_empty() {
        return Some((0, text.len()));
    }
    let mut places = text.match_indices(within);
    let (start, _) = places.next().filter(|_| places.next().is_none())?;
    let line = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
    let indent: String = text[line..].chars().take_while(|character| *character == ' ').collect();
    let end = text[start..].find(&format!("\n{indent}}}"))?;
    Some((start, start + end))
}

/// Parses `[[mutation]]` tables whose values are literal strings (`'…'`), one a line. This needs no TOML parser, see
/// `project::value`.
pub fn parse(text: &str) -> Result<Vec<Mutation>> {
    let mut mutations: Vec<Mutation> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let here = || format!("line {}: {line}", number + 1);
        let line = line.trim_end();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if line == "[[mutation]]" {
            mutations.push(Mutation::default());
            continue;
        }
        let mutation = mutations.last_mut().with_context(here)?;
        let (key, value) = line.split_once(" = ").with_context(here)?;
        let value = value.strip_prefix('\'').and_then(|value| value.strip_suffix('\'')).with_context(here)?;
        ensure!(!value.contains('\''), "{}", here());
        let field = match key {
            "name" => &mut mutation.name,
            "rule" => &mut mutation.rule,
            "file" => &mut mutation.file,
            "within" => &mut mutation.within,
            "from" => &mut mutation.from,
            "to" => &mut mutation.to,
            _ => bail!("{}", here()),
        };
        ensure!(field.is_empty(), "duplicate key: {}", here());
        value.clone_into(field);
    }
    let mut names: Vec<_> = mutations.iter().map(|mutation| &mutation.name).collect();
    names.sort();
    ensure!(names.windows(2).all(|pair| pair[0] != pair[1]), "two mutations have the same name");
    for Mutation { name, rule, file, from, .. } in &mutations {
        let complete = [name, rule, file, from].iter().all(|field| !field.is_empty());
        ensure!(complete, "{name:?} lacks name, rule, file or from");
    }
    Ok(mutations)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::project;

    const TEXT: &str = "fn a() {\n    x + 1\n}\n\nfn b() {\n    x + 1\n}\n";

    #[test]
    fn text_is_replaced_only_in_the_item_and_only_if_it_occurs_there_once() {
        let broken = replaced(TEXT, "fn b(", "+ 1", "+ 2").unwrap();
        assert_eq!(broken, TEXT.replace("b() {\n    x + 1", "b() {\n    x + 2"));
        assert!(replaced(TEXT, "", "+ 1", "+ 2").is_err());
        assert!(replaced(TEXT, "fn b(", "+ 3", "+ 2").is_err());
        assert!(replaced(TEXT, "fn ", "+ 1", "+ 2").is_err());
    }

    #[test]
    fn list_is_read_and_nonsense_in_it_is_an_error() {
        let good = "# why\n[[mutation]]\nname = 'n'\nrule = 'r'\nfile = 'f'\nfrom = 'a = \"b\"'\nto = ''\n";
        let parsed = parse(good).unwrap();
        assert_eq!((parsed.len(), &*parsed[0].from, &*parsed[0].to), (1, "a = \"b\"", ""));
        assert!(parse(&good.repeat(2)).is_err());
        for bad in [good.replace("rule = 'r'\n", ""), good.replace("'n'", "n"), good.replace("to", "two")] {
            assert!(parse(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn every_mutation_finds_its_place_in_the_code() {
        let text = fs::read_to_string(project::root().join(LIST)).unwrap();
        for mutation in parse(&text).unwrap() {
            let applied = mutation.applied(&project::root().join(PACKAGE));
            assert!(applied.is_ok(), "{}: {:#}", mutation.name, applied.unwrap_err());
        }
    }
}
