//! Every id ever assigned and its owner.
use std::collections::BTreeMap;

use super::pool::Pool;
use crate::policy::{CustomerName, Identity, SiteName};

/// All ids, those of removed customers and tunnels included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ids {
    pub customers: Pool<CustomerName>,
    pub tunnels: Pool<TunnelName>,
}

/// The owner of a tunnel's id: a customer's site as long as it has one identity. A site with another identity is another
/// owner, so that nothing in the maps that the former one had counts for it. None in files of earlier versions.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TunnelName(pub CustomerName, pub SiteName, pub Option<Identity>);

impl Default for Ids {
    fn default() -> Self {
        Self {
            customers: Pool { kind: "customer", entries: BTreeMap::new() },
            tunnels: Pool { kind: "tunnel", entries: BTreeMap::new() },
        }
    }
}

impl std::fmt::Display for TunnelName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}
