//! Policy files as documents. A document has what could be read even if there are faults, so that
//! the rules between files find theirs as well.
mod customer;
mod gateway;

use toml::Spanned;
use toml::de::DeValue;

use super::fault::Invalid;
use super::keys::{Reader, Value};
use super::prefix::family;

pub(super) use customer::CustomerDocument;
pub(super) use gateway::GatewayDocument;

/// Values of which there is at most one of each family.
#[derive(Clone, Debug)]
pub(super) struct Families<T> {
    /// Those that could be read.
    pub values: Vec<Spanned<T>>,
    /// Whether those are all.
    pub whole: bool,
}

impl<T> Families<T> {
    /// There is nothing, though there should be.
    fn missing() -> Self {
        Self { values: Vec::new(), whole: false }
    }

    /// Values without a place in a file.
    fn keep(values: impl IntoIterator<Item = T>) -> Self {
        Self { values: values.into_iter().map(kept).collect(), whole: true }
    }

    /// The values alone.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.values.iter().map(Spanned::get_ref)
    }

    /// One string, or a list of at most one of each family; `what` is what they are.
    fn read(
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
            reader.fault(value.span(), Invalid::new(format!("a list of {}", elements.len()), expected));
            return Self::missing();
        }
        let values: Vec<_> = elements.iter().filter_map(|element| reader.text(element, &parse)).collect();
        if let [first, second] = &values[..]
            && is_v4(first.get_ref()) == is_v4(second.get_ref())
        {
            let message = format!("a second {what} of {}", family(is_v4(first.get_ref())));
            reader.fault(second.span(), Invalid::new(message, expected));
            return Self { values, whole: false };
        }
        let whole = !values.is_empty() && values.len() == elements.len();
        Self { values, whole }
    }
}

/// A value without a place in a file.
fn kept<T>(value: T) -> Spanned<T> {
    Spanned::new(0..0, value)
}

fn read_port(reader: &mut Reader, value: Value) -> Option<u16> {
    let port = reader.number(value, 1..=u32::from(u16::MAX), "")?;
    u16::try_from(port.into_inner()).ok()
}
