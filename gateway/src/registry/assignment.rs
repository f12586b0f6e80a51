//! The ids of one policy.
use std::collections::BTreeMap;

use gateway_common::ids::{CustomerId, TunnelId};

use crate::policy::{CustomerName, SiteName};

/// The ids of one policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assignment {
    pub(super) customers: BTreeMap<CustomerName, CustomerIds>,
}

/// The ids of one customer and its tunnels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CustomerIds {
    /// Customer id, 1 to `limits.customers`.
    pub id: CustomerId,
    /// Tunnel ids by site, 1 to `limits.tunnels`. A map indexed by tunnel id has one more entry.
    pub tunnels: BTreeMap<SiteName, TunnelId>,
}

impl Assignment {
    /// Returns the ids of the customer and of its tunnels.
    pub fn get(&self, customer: &CustomerName) -> Option<&CustomerIds> {
        self.customers.get(customer)
    }

    /// Returns the customer's id.
    pub fn customer(&self, customer: &CustomerName) -> Option<CustomerId> {
        self.customers.get(customer).map(|customer| customer.id)
    }

    /// Returns the id of the tunnel to this site.
    pub fn tunnel(&self, customer: &CustomerName, site: &SiteName) -> Option<TunnelId> {
        self.customers.get(customer)?.tunnels.get(site).copied()
    }

    /// Iterates over all customers in order of name.
    pub fn iter(&self) -> impl Iterator<Item = (&CustomerName, &CustomerIds)> {
        self.customers.iter()
    }
}
