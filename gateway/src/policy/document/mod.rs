//! Policy files as documents.
//!
//! A document holds every value that could be read, even if the file has faults, so that the rules
//! between files report their faults as well.
mod customer;
mod families;
mod gateway;

pub(super) use customer::CustomerDocument;
pub(super) use gateway::GatewayDocument;
pub use gateway::{Adopt, parse_path};
