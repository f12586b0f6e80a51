//! The texts of a policy, from which it can be read again while a file is faulty.
use std::collections::BTreeMap;
use std::sync::Arc;

use super::names::CustomerName;

/// The texts of `gateway.toml` and of the customers' files, as they were when they came into force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Texts {
    /// `gateway.toml`.
    pub gateway: Option<Arc<str>>,
    /// The customers' files.
    pub customers: BTreeMap<CustomerName, Arc<str>>,
}
