//! Values that a policy gives once per address family.
use toml::Spanned;
use toml::de::DeValue;

use crate::policy::fault::Invalid;
use crate::policy::keys::{Reader, Value};
use crate::policy::prefix::family;

/// Values, at most one per address family.
#[derive(Clone, Debug)]
pub struct Families<T> {
    /// The values that could be read.
    pub values: Vec<Spanned<T>>,
    /// True if no value is missing or invalid.
    pub complete: bool,
}

impl<T> Families<T> {
    /// Stands for a required value that is missing or invalid.
    pub(super) fn missing() -> Self {
        Self { values: Vec::new(), complete: false }
    }

    /// Wraps values that have no position in a file.
    pub(super) fn from_values(values: impl IntoIterator<Item = T>) -> Self {
        Self { values: values.into_iter().map(unplaced).collect(), complete: true }
    }

    /// Returns the values without their positions.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.values.iter().map(Spanned::get_ref)
    }

    /// Reads one string, or a list of at most one string per family. `what` names the kind of value in
    /// messages.
    pub(super) fn read(
        reader: &mut Reader,
        value: Value,
        what: &str,
        parse: impl Fn(&str) -> Result<T, Invalid>,
        is_v4: impl Fn(&T) -> bool,
    ) -> Self {
        let elements = match value.get_ref() {
            DeValue::String(_) => vec![value],
            _ => reader.array(value, "a string, or a list of at most one of each family"),
        };
        let expected = format!("one {what}, or one of each family");
        if matches!(value.get_ref(), DeValue::Array(_)) && !(1..=2).contains(&elements.len()) {
            reader.fault(
                value.span(),
                Invalid::new(format!("this list has {} entries", elements.len()), expected),
            );
            return Self::missing();
        }
        let values: Vec<_> = elements.iter().filter_map(|element| reader.text(element, &parse)).collect();
        if let [first, second] = &values[..]
            && is_v4(first.get_ref()) == is_v4(second.get_ref())
        {
            let message = format!("this is a second {} {what}", family(is_v4(first.get_ref())));
            reader.fault(second.span(), Invalid::new(message, expected));
            return Self { values, complete: false };
        }
        let complete = !values.is_empty() && values.len() == elements.len();
        Self { values, complete }
    }
}

/// Wraps a value that has no position in a file.
pub(super) fn unplaced<T>(value: T) -> Spanned<T> {
    Spanned::new(0..0, value)
}
