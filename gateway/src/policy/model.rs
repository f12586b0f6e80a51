//! The policy as a whole.
use std::collections::BTreeMap;

use super::customer::{Customer, Server};
use super::gateway::Gateway;
use super::names::CustomerName;

/// A validated policy: every value is parsed, no string is left to check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// `gateway.toml`.
    pub gateway: Gateway,
    /// `customers/*.toml`.
    pub customers: BTreeMap<CustomerName, Customer>,
}

impl Policy {
    /// Returns the number of sites of all customers, which is the number of tunnels.
    pub fn site_count(&self) -> usize {
        self.customers.values().map(|c| c.sites.len()).sum()
    }

    /// Returns the numbers of customers and sites as text.
    pub fn describe(&self) -> String {
        format!("{} customers with {} sites", self.customers.len(), self.site_count())
    }

    /// Returns the customers that were added or changed since `older`, or `None` if a customer or a site of
    /// `older` was removed.
    pub fn changes(&self, older: &Self) -> Option<Vec<&Customer>> {
        for old in older.customers.values() {
            let new = self.customers.get(&old.name)?;
            if old != new && !old.sites.iter().all(|site| new.site(&site.name).is_some()) {
                return None;
            }
        }
        let changed = |customer: &&Customer| older.customers.get(&customer.name) != Some(customer);
        Some(self.customers.values().filter(changed).collect())
    }

    /// Returns true if any customer has an IPv6 server.
    pub fn has_v6_server(&self) -> bool {
        self.customers.values().any(|customer| customer.server.v6.is_some())
    }

    /// Returns the sums of the flow quotas of customers with an IPv4 server and of customers with an IPv6
    /// server. A quota covers both families together, so each table must hold all of it.
    pub fn quotas(&self) -> (u64, u64) {
        let sum = |has: fn(&Server) -> bool| {
            let customers = self.customers.values().filter(|customer| has(&customer.server));
            customers.map(|customer| u64::from(customer.quota.flows(&self.gateway.limits))).sum()
        };
        (sum(|server| server.v4.is_some()), sum(|server| server.v6.is_some()))
    }

    /// Returns the size of the IPv6 flow table.
    pub fn flows6(&self) -> u32 {
        self.gateway.limits.flows6(self.has_v6_server())
    }
}
