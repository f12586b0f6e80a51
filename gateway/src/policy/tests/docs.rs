//! The tables of keys in docs/policies.md against the parser.
//!
//! The parser is the reference: an unknown key makes it list the known ones, an empty table makes it name the
//! required ones, and writing a default must change nothing.
use std::collections::{BTreeMap, BTreeSet};

use super::{GATEWAY, customer};
use crate::policy::document::{CustomerDocument, GatewayDocument};
use crate::policy::fault::{Fault, Source};

const DOCS: &str = include_str!("../../../../docs/policies.md");
/// A key that no table has, and to which no key is similar.
const UNKNOWN: &str = "zzzzzz";

/// One row of a table: a key below a table of the file.
#[derive(Debug)]
struct Row {
    /// The table in which the key is: `limits`, `management.allow`, or empty for the top level.
    table: String,
    key: String,
    default: String,
}

/// Keys by table.
type Keys = BTreeMap<String, BTreeSet<String>>;
/// Reads a file's text and returns its faults.
type Read = fn(&str) -> Vec<Fault>;

fn source(text: &str) -> Source {
    Source { path: "x.toml".into(), text: Some(text.into()) }
}

fn read_gateway(text: &str) -> Vec<Fault> {
    GatewayDocument::read(source(text)).1
}

fn read_customer(text: &str) -> Vec<Fault> {
    CustomerDocument::read(source(text), "acme".parse().unwrap()).1
}

/// Returns the rows of the tables below the heading that contains `file`.
fn rows(file: &str) -> Vec<Row> {
    let sections = DOCS.split("\n## ").filter(|section| section.lines().next().unwrap_or("").contains(file));
    let mut rows = Vec::new();
    let mut table = String::new();
    for line in sections.flat_map(str::lines).filter_map(|line| line.strip_prefix('|')) {
        let mut cells = line.split('|').map(str::trim);
        let (Some(name), Some(default)) = (cells.next().and_then(quoted), cells.next()) else { continue };
        let header = name.trim_matches(['[', ']']);
        let (parent, key) = match name.split_once("[].") {
            _ if name.starts_with('[') => {
                header.clone_into(&mut table);
                (String::new(), header)
            }
            Some((array, key)) => (format!("{table}.{array}"), key),
            None => (table.clone(), name),
        };
        rows.push(Row { table: parent, key: key.to_owned(), default: default.to_owned() });
    }
    assert!(!rows.is_empty(), "docs/policies.md has no table below a heading with `{file}`");
    rows
}

/// Returns the text between the first pair of backticks.
fn quoted(text: &str) -> Option<&str> {
    text.split('`').nth(1)
}

fn add(keys: &mut Keys, table: &str, found: impl IntoIterator<Item = String>) {
    keys.entry(table.to_owned()).or_default().extend(found);
}

fn documented<'r>(rows: impl IntoIterator<Item = &'r Row>) -> Keys {
    let mut keys = Keys::new();
    rows.into_iter().for_each(|row| add(&mut keys, &row.table, [row.key.clone()]));
    keys
}

/// Returns the keys that the parser lists as known when a text contains [`UNKNOWN`].
fn known(read: Read, text: &str) -> Option<BTreeSet<String>> {
    let unknown = format!("has no key `{UNKNOWN}`");
    let fault = read(text).into_iter().find(|fault| fault.message.contains(&unknown))?;
    Some(fault.expected.split(", ").filter_map(quoted).map(str::to_owned).collect())
}

/// Returns a text for every table of the file, with `line` in it.
fn texts(read: Read, line: &str) -> BTreeMap<String, String> {
    let mut texts = BTreeMap::from([(String::new(), format!("{line}\n"))]);
    for key in known(read, &format!("{UNKNOWN} = 1")).expect("the top level has keys") {
        for header in [format!("[{key}]"), format!("[[{key}]]")] {
            let Some(inner) = known(read, &format!("{header}\n{UNKNOWN} = 1")) else { continue };
            texts.insert(key.clone(), format!("{header}\n{line}\n"));
            for array in inner {
                if known(read, &format!("{header}\n{array} = [{{ {UNKNOWN} = 1 }}]")).is_some() {
                    texts.insert(format!("{key}.{array}"), format!("{header}\n{array} = [{{ {line} }}]\n"));
                }
            }
        }
    }
    texts
}

/// Returns every key that the parser knows.
fn parsed(read: Read) -> Keys {
    let texts = texts(read, &format!("{UNKNOWN} = 1"));
    texts.iter().map(|(table, text)| (table.clone(), known(read, text).expect("it has keys"))).collect()
}

/// Returns every key that the parser requires.
fn required(read: Read) -> Keys {
    let mut keys = Keys::new();
    for (table, text) in texts(read, "") {
        let missing = read(&text).into_iter().filter_map(|fault| {
            let (owner, key) = fault.message.split_once(" has no `")?;
            ((owner == "this file") == table.is_empty()).then(|| key.trim_end_matches('`').to_owned())
        });
        add(&mut keys, &table, missing);
    }
    keys.retain(|_, keys| !keys.is_empty());
    keys
}

#[test]
fn documented_keys_are_the_parsers() {
    for (file, read) in [("gateway.toml", read_gateway as Read), ("NAME.toml", read_customer)] {
        assert_eq!(documented(&rows(file)), parsed(read), "left: docs/policies.md, right: parser ({file})");
    }
}

#[test]
fn documented_as_required_are_the_keys_that_the_parser_requires() {
    for (file, read) in [("gateway.toml", read_gateway as Read), ("NAME.toml", read_customer)] {
        let is_required =
            |row: &&Row| ["required", "at least one"].iter().any(|s| row.default.starts_with(s));
        let documented = documented(rows(file).iter().filter(is_required));
        assert_eq!(documented, required(read), "left: docs/policies.md, right: parser ({file})");
    }
}

/// Returns the rows whose default is a literal, with that literal and another value.
fn literal_defaults(file: &str) -> Vec<(Row, String, Option<String>)> {
    let literal = |row: Row| {
        let text = quoted(&row.default).unwrap_or(&row.default).replace(',', "");
        match text.parse::<u64>() {
            Ok(number) => Some((row, text, Some((number + 1).to_string()))),
            Err(_) if text.starts_with('"') => Some((row, text, None)),
            Err(_) => None,
        }
    };
    let found: Vec<_> = rows(file).into_iter().filter_map(literal).collect();
    assert!(!found.is_empty(), "docs/policies.md states no default for {file}");
    found
}

#[test]
fn documented_defaults_of_the_gateway_are_the_parsers() {
    let read = |lines: &str| GatewayDocument::read(source(&format!("{GATEWAY}{lines}"))).0.value.unwrap();
    for (Row { table, key, .. }, default, other) in literal_defaults("gateway.toml") {
        assert_eq!(read(&format!("[{table}]\n{key} = {default}\n")), read(""), "[{table}] {key}");
        if let Some(other) = other {
            assert_ne!(read(&format!("[{table}]\n{key} = {other}\n")), read(""), "[{table}] {key}");
        }
    }
}

#[test]
fn documented_defaults_of_a_customer_are_the_parsers() {
    let acme = customer("10.200.0.11", "a.example", "10.1.0.0/16");
    let read = |lines: &str| {
        let name = "acme".parse().unwrap();
        CustomerDocument::read(source(&format!("{lines}{acme}")), name).0.value.unwrap()
    };
    for (Row { table, key, .. }, default, other) in literal_defaults("NAME.toml") {
        assert_eq!(table, "", "a default of a site needs a test of its own");
        assert_eq!(read(&format!("{key} = {default}\n")), read(""), "{key}");
        if let Some(other) = other {
            assert_ne!(read(&format!("{key} = {other}\n")), read(""), "{key}");
        }
    }
}
