//! Reads TOML tables key by key. Unlike a derived deserializer it does not stop at the first fault.
use std::ops::{Range, RangeInclusive};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::fault::{Fault, Invalid, Source, quote};

/// Edits between an unknown key and the one that is offered instead.
const MAX_TYPO: usize = 2;
/// The TOML parser's message for the one error that leaves nothing unread.
const DUPLICATE_KEY: &str = "duplicate key";

/// Collects the faults of one file while its values are taken out.
pub(super) struct Reader<'s> {
    pub source: &'s Source,
    pub faults: Vec<Fault>,
    /// Whether the file is TOML, duplicate keys aside.
    readable: bool,
}

/// A table, and what it is called in messages.
#[derive(Clone)]
pub(super) struct Table<'t> {
    keys: &'t DeTable<'t>,
    /// `None`: the whole file.
    span: Option<Range<usize>>,
    name: &'static str,
}

/// A value with its bytes in the file.
pub(super) type Value<'t> = &'t Spanned<DeValue<'t>>;

impl<'s> Reader<'s> {
    /// A reader for the file's text.
    pub fn new(source: &'s Source) -> Self {
        Self { source, faults: Vec::new(), readable: true }
    }

    /// Reports a fault at these bytes.
    pub fn fault(&mut self, span: Range<usize>, invalid: Invalid) {
        if self.readable {
            self.faults.push(self.source.fault_at(span, invalid));
        }
    }

    /// The whole file. One that is not TOML is empty and has no further faults: what could be made
    /// of it would be guesses.
    pub fn parse<'t>(&mut self, text: &'t str) -> Spanned<DeTable<'t>> {
        let (root, errors) = DeTable::parse_recoverable(text);
        let mut readable = true;
        for error in errors {
            let (message, expected) = match error.message().split_once(", expected ") {
                Some((message, expected)) => (message, expected),
                None if error.message() == DUPLICATE_KEY => (DUPLICATE_KEY, "each key once"),
                None => (error.message(), "TOML (https://toml.io)"),
            };
            readable &= error.message() == DUPLICATE_KEY;
            self.fault(error.span().unwrap_or(0..0), Invalid::new(message, expected));
        }
        self.readable = readable;
        if readable { root } else { Spanned::new(0..0, DeTable::new()) }
    }

    /// The file's top level.
    pub fn root<'t>(&mut self, root: &'t Spanned<DeTable<'t>>, known: &[&str]) -> Table<'t> {
        let table = Table { keys: root.get_ref(), span: None, name: "this file" };
        self.check_keys(&table, known);
        table
    }

    /// A value that must be a table.
    pub fn table<'t>(&mut self, value: Value<'t>, name: &'static str, known: &[&str]) -> Option<Table<'t>> {
        let DeValue::Table(keys) = value.get_ref() else {
            self.wrong_type(value, "a table");
            return None;
        };
        let table = Table { keys, span: Some(value.span()), name };
        self.check_keys(&table, known);
        Some(table)
    }

    /// The value of a key that must be there.
    pub fn required<'t>(&mut self, table: &Table<'t>, key: &str, example: &str) -> Option<Value<'t>> {
        let value = self.optional(table, key);
        if value.is_none() {
            let (message, expected) = (format!("{} has no `{key}`", table.name), format!("`{example}`"));
            match table.span.clone() {
                Some(span) => self.fault(span, Invalid::new(message, expected)),
                None if self.readable => self.faults.push(self.source.fault(message, expected)),
                None => {}
            }
        }
        value
    }

    /// The value of a key that may be there.
    pub fn optional<'t>(&mut self, table: &Table<'t>, key: &str) -> Option<Value<'t>> {
        table.keys.get(key)
    }

    /// A string, parsed.
    pub fn text<T>(
        &mut self,
        value: Value,
        parse: impl Fn(&str) -> Result<T, Invalid>,
    ) -> Option<Spanned<T>> {
        let DeValue::String(text) = value.get_ref() else {
            self.wrong_type(value, "a string");
            return None;
        };
        match parse(text) {
            Ok(parsed) => Some(Spanned::new(value.span(), parsed)),
            Err(invalid) => {
                self.fault(value.span(), invalid);
                None
            }
        }
    }

    /// An integer in `range`, which counts `unit`.
    pub fn number(&mut self, value: Value, range: RangeInclusive<u32>, unit: &str) -> Option<Spanned<u32>> {
        let DeValue::Integer(integer) = value.get_ref() else {
            self.wrong_type(value, "an integer");
            return None;
        };
        // Digits beyond i128 are out of range as well.
        let number = i128::from_str_radix(integer.as_str(), integer.radix()).ok();
        match number.and_then(|n| u32::try_from(n).ok()).filter(|n| range.contains(n)) {
            Some(number) => Some(Spanned::new(value.span(), number)),
            None => {
                let (low, high) = range.into_inner();
                let message = format!("{} is out of range", quote(&integer.to_string()));
                self.fault(value.span(), Invalid::new(message, format!("{low} to {high}{unit}")));
                None
            }
        }
    }

    /// An array's elements, none if it is no array.
    pub fn array<'t>(&mut self, value: Value<'t>, of: &str) -> Vec<Value<'t>> {
        match value.get_ref() {
            DeValue::Array(array) => array.iter().collect(),
            _ => {
                self.wrong_type(value, of);
                Vec::new()
            }
        }
    }

    fn wrong_type(&mut self, value: Value, expected: &str) {
        let found = match value.get_ref() {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "an integer",
            DeValue::Float(_) => "a float",
            DeValue::Boolean(_) => "a boolean",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "an array",
            DeValue::Table(_) => "a table",
        };
        self.fault(value.span(), Invalid::new(format!("this is {found}"), expected));
    }

    fn check_keys(&mut self, table: &Table, known: &[&str]) {
        for key in table.keys.keys() {
            let name: &str = key.get_ref();
            if known.contains(&name) {
                continue;
            }
            let mut message = format!("{} has no key {}", table.name, quote(name));
            if let Some(meant) = nearest(name, known) {
                message += &format!(", did you mean `{meant}`?");
            }
            let keys: Vec<String> = known.iter().map(|key| format!("`{key}`")).collect();
            self.fault(key.span(), Invalid::new(message, keys.join(", ")));
        }
    }
}

fn nearest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    let near = known.iter().map(|key| (distance(name, key), *key)).min()?;
    // A short key is not a typo of every other short key.
    (near.0 <= MAX_TYPO && near.0 < name.len()).then_some(near.1)
}

/// Levenshtein's distance in bytes; not computed for what is far apart by length alone.
fn distance(a: &str, b: &str) -> usize {
    if a.len().abs_diff(b.len()) > MAX_TYPO {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let substitute = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
