//! Policy files as documents. A document has what could be read even if there are faults, so that
//! the rules between files find theirs as well.
mod customer;
mod gateway;

use toml::Spanned;

use super::keys::{Reader, Value};

pub(super) use customer::CustomerDocument;
pub(super) use gateway::GatewayDocument;

/// A value without a place in a file.
fn kept<T>(value: T) -> Spanned<T> {
    Spanned::new(0..0, value)
}

fn read_port(reader: &mut Reader, value: Value) -> Option<u16> {
    let port = reader.number(value, 1..=u32::from(u16::MAX), "")?;
    u16::try_from(port.into_inner()).ok()
}
