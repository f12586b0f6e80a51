//! Every id ever assigned and its owner.
use std::collections::BTreeMap;

use super::pool::Pool;
use crate::policy::{CustomerName, SiteName};

/// All ids, those of removed customers and tunnels included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ids {
    pub customers: Pool<CustomerName>,
    pub tunnels: Pool<TunnelName>,
}

/// A tunnel's name: customer and site.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TunnelName(pub CustomerName, pub SiteName);

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
