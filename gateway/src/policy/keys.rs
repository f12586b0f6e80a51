//! Reads TOML tables key by key. Unlike a derived deserializer, it does not stop at the first fault.
//!
//! A table knows the keys that were asked for, and reports all others once it has been read. No list of known
//! keys exists beside the code that reads them, so no key can be accepted and not read.
use std::cell::RefCell;
use std::ops::{Range, RangeInclusive};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::draft::{Draft, Drafts};
use super::fault::{Fault, Invalid, Source, quote};

/// Largest edit distance between an unknown key and the suggested one.
const MAX_TYPO: usize = 2;
/// The TOML parser's message for the only error after which the rest of the file is still read.
const DUPLICATE_KEY: &str = "duplicate key";

/// Reads the values of one file and collects its faults.
pub(super) struct Reader<'s> {
    source: &'s Source,
    faults: Drafts,
    /// True if the file is TOML, duplicate keys aside.
    readable: bool,
}

/// A table with its name in messages.
pub(super) struct Table<'t> {
    keys: &'t DeTable<'t>,
    /// The table's bytes in the file; `None` for the top level.
    span: Option<Range<usize>>,
    name: &'static str,
    /// The keys that were asked for, in that order.
    asked: RefCell<Vec<&'static str>>,
}

/// A value with its position in the file.
pub(super) type Value<'t> = &'t Spanned<DeValue<'t>>;

impl<'s> Reader<'s> {
    /// Creates a reader for the file's text.
    pub fn new(source: &'s Source) -> Self {
        Self { source, faults: Drafts::default(), readable: true }
    }

    /// Reports a fault at these bytes of the file.
    pub fn fault(&mut self, span: Range<usize>, invalid: Invalid) {
        if self.readable {
            self.faults.push(Draft::at(span, invalid));
        }
    }

    /// Reports a fault whose message ends with a reference to other bytes of the file.
    pub fn fault_see(&mut self, span: Range<usize>, invalid: Invalid, other: Range<usize>) {
        if self.readable {
            self.faults.push(Draft::at(span, invalid).see(self.source, other));
        }
    }

    /// Returns the faults, at most 64, and one that counts the others.
    pub fn finish(self) -> Vec<Fault> {
        self.faults.finish(self.source)
    }

    /// Parses the whole file. A file that is not TOML reads as empty, and no further fault of it is
    /// reported: it would be a guess.
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

    /// Reads the file's top level with `read`, then reports the keys that `read` did not ask for.
    pub fn root<'t, T>(
        &mut self,
        root: &'t Spanned<DeTable<'t>>,
        read: impl FnOnce(&mut Self, &Table<'t>) -> T,
    ) -> T {
        self.read(
            Table { keys: root.get_ref(), span: None, name: "this file", asked: RefCell::default() },
            read,
        )
    }

    /// Reads a table with `read`, then reports the keys that `read` did not ask for. Returns `None` if the
    /// value is no table.
    pub fn table<'t, T>(
        &mut self,
        value: Value<'t>,
        name: &'static str,
        read: impl FnOnce(&mut Self, &Table<'t>) -> T,
    ) -> Option<T> {
        let DeValue::Table(keys) = value.get_ref() else {
            self.wrong_type(value, "a table");
            return None;
        };
        Some(self.read(Table { keys, span: Some(value.span()), name, asked: RefCell::default() }, read))
    }

    fn read<'t, T>(&mut self, table: Table<'t>, read: impl FnOnce(&mut Self, &Table<'t>) -> T) -> T {
        let value = read(self, &table);
        self.check_keys(&table);
        value
    }

    /// Returns the value of a key and reports a fault if it is missing.
    pub fn required<'t>(&mut self, table: &Table<'t>, key: &'static str, example: &str) -> Option<Value<'t>> {
        let value = self.optional(table, key);
        if value.is_none() {
            let (message, expected) = (format!("{} has no `{key}`", table.name), format!("`{example}`"));
            match table.span.clone() {
                Some(span) => self.fault(span, Invalid::new(message, expected)),
                None if self.readable => self.faults.push(Draft::of_file(Invalid::new(message, expected))),
                None => {}
            }
        }
        value
    }

    /// Returns the value of a key, if present.
    pub fn optional<'t>(&mut self, table: &Table<'t>, key: &'static str) -> Option<Value<'t>> {
        table.asked.borrow_mut().push(key);
        table.keys.get(key)
    }

    /// Reads a string and parses it.
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

    /// Reads an integer in `range`. `unit` follows the range in messages.
    pub fn number(&mut self, value: Value, range: RangeInclusive<u32>, unit: &str) -> Option<Spanned<u32>> {
        let DeValue::Integer(integer) = value.get_ref() else {
            self.wrong_type(value, "an integer");
            return None;
        };
        // More digits than i128 holds are out of range too.
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

    /// Reads a TCP or UDP port, 1 to 65535.
    pub fn port(&mut self, value: Value) -> Option<u16> {
        let port = self.number(value, 1..=u32::from(u16::MAX), "")?;
        u16::try_from(port.into_inner()).ok()
    }

    /// Returns an array's elements, or none and a fault if the value is not an array.
    pub fn array<'t>(&mut self, value: Value<'t>, expected: &str) -> Vec<Value<'t>> {
        match value.get_ref() {
            DeValue::Array(array) => array.iter().collect(),
            _ => {
                self.wrong_type(value, expected);
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

    /// Reports the keys of the table that were not asked for.
    fn check_keys(&mut self, table: &Table) {
        let known = table.asked.borrow();
        for key in table.keys.keys() {
            let name: &str = key.get_ref();
            if self.readable && !known.contains(&name) {
                self.faults.push_with(key.span(), || unknown_key(table.name, name, &known));
            }
        }
    }
}

fn unknown_key(table: &str, name: &str, known: &[&str]) -> Invalid {
    let mut message = format!("{table} has no key {}", quote(name));
    if let Some(meant) = nearest(name, known) {
        message += &format!(", did you mean `{meant}`?");
    }
    let keys: Vec<String> = known.iter().map(|key| format!("`{key}`")).collect();
    Invalid::new(message, keys.join(", "))
}

/// Returns the known key closest to `name`, if it is close enough to be meant.
fn nearest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    let near = known.iter().map(|key| (distance(name, key), *key)).min()?;
    // Without this bound every short key would be a typo of every other one.
    (near.0 <= MAX_TYPO && near.0 < name.len()).then_some(near.1)
}

/// Returns the Levenshtein distance in bytes, or `usize::MAX` if the lengths alone exceed the bound.
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
