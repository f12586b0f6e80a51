//! Ids of customers and tunnels that stay the same from one start to the next.
//!
//! An id names a tunnel in strongSwan, in the kernel and in pinned maps, which all outlive the
//! daemon. So an id that was somebody's is given to somebody else only when every other has been
//! given out, and then the one whose owner has been gone the longest.
mod file;
mod pool;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::PathBuf;

use crate::policy::{CustomerName, Policy, SiteName};
use file::replace;
use gateway_common::ids::{CustomerId, TunnelId};
use pool::Pool;

/// What every customer and tunnel is called, kept in a file.
#[derive(Debug)]
pub struct Registry {
    path: PathBuf,
    ids: Ids,
}

/// The ids of one policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assignment {
    customers: BTreeMap<CustomerName, CustomerIds>,
}

/// The ids of one customer and its tunnels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CustomerIds {
    /// 1 to `limits.customers`.
    pub id: CustomerId,
    /// 1 to `limits.tunnels`: a map indexed by tunnel id has one entry more than that.
    pub tunnels: BTreeMap<SiteName, TunnelId>,
}

/// Why there are no ids.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The file is there but is not what was written.
    #[error(
        "{}: the registry of ids is damaged: {reason}. Restore it from a backup; or, only after `gatewayctl detach`, \
         remove it, and every customer and tunnel gets a new id", path.display()
    )]
    Damaged {
        /// The registry's file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The file cannot be read or written.
    #[error("{}: the registry of ids cannot be {action}: {source}", path.display())]
    Io {
        /// The registry's file.
        path: PathBuf,
        /// `read` or `written`.
        action: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// A limit was lowered below an id that is in use.
    #[error("{owner} has {what} id {id}: [limits] {what}s must be at least {id}, not {limit}")]
    BeyondLimit {
        /// `tunnel` or `customer`.
        what: &'static str,
        /// Whose id it is.
        owner: String,
        /// The id.
        id: u32,
        /// The limit.
        limit: u32,
    },
    /// More owners than ids.
    #[error("no {what} id is left for {owner}: all {limit} of [limits] {what}s are in use")]
    Exhausted {
        /// `tunnel` or `customer`.
        what: &'static str,
        /// Who gets none.
        owner: String,
        /// The limit.
        limit: u32,
    },
}

impl Registry {
    /// Reads the registry; a file that is not there yet is one without ids.
    ///
    /// # Errors
    /// [`RegistryError::Damaged`], [`RegistryError::Io`].
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, RegistryError> {
        let path = path.into();
        let ids = match fs::read_to_string(&path) {
            Ok(text) => match Ids::parse(&text) {
                Ok(ids) => ids,
                Err(reason) => return Err(RegistryError::Damaged { path, reason }),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ids::default(),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return Err(RegistryError::Damaged { path, reason: error.to_string() });
            }
            Err(source) => {
                return Err(RegistryError::Io { path, action: "read", source });
            }
        };
        Ok(Self { path, ids })
    }

    /// Ids for all that is in the policy; what is not is retired, and gets its old id should it come
    /// back in time. The file is written before this returns, if anything changed.
    ///
    /// A retired id may be given out at once when no other is left, so the caller has to remove
    /// what is gone before it adds what is new.
    ///
    /// # Errors
    /// All but [`RegistryError::Damaged`]; then nothing has changed.
    pub fn assign(&mut self, policy: &Policy) -> Result<Assignment, RegistryError> {
        let mut ids = self.ids.clone();
        let limits = policy.gateway.limits;
        let customers: BTreeSet<CustomerName> = policy.customers.keys().cloned().collect();
        let tunnels: BTreeSet<TunnelName> = policy
            .customers
            .values()
            .flat_map(|customer| {
                customer.sites.iter().map(|site| TunnelName(customer.name.clone(), site.name.clone()))
            })
            .collect();
        ids.customers.assign(&customers, limits.customers)?;
        ids.tunnels.assign(&tunnels, limits.tunnels)?;
        if ids != self.ids {
            let io = |source| RegistryError::Io { path: self.path.clone(), action: "written", source };
            replace(&self.path, &ids.to_text()).map_err(io)?;
            self.ids = ids;
        }
        Ok(self.assignment())
    }

    /// The ids that are in use.
    pub fn assignment(&self) -> Assignment {
        let mut assignment = Assignment::default();
        for (name, id) in self.ids.customers.in_use() {
            let Some(id) = CustomerId::new(id) else {
                continue;
            };
            assignment.customers.insert(name.clone(), CustomerIds { id, tunnels: BTreeMap::new() });
        }
        for (TunnelName(customer, site), id) in self.ids.tunnels.in_use() {
            let Some(id) = TunnelId::new(id) else {
                continue;
            };
            if let Some(customer) = assignment.customers.get_mut(customer) {
                customer.tunnels.insert(site.clone(), id);
            }
        }
        assignment
    }
}

impl Assignment {
    /// The ids of the customer and of its tunnels.
    pub fn of(&self, customer: &CustomerName) -> Option<&CustomerIds> {
        self.customers.get(customer)
    }

    /// The customer's id.
    pub fn customer(&self, customer: &CustomerName) -> Option<CustomerId> {
        self.customers.get(customer).map(|customer| customer.id)
    }

    /// The id of the tunnel to this site.
    pub fn tunnel(&self, customer: &CustomerName, site: &SiteName) -> Option<TunnelId> {
        self.customers.get(customer)?.tunnels.get(site).copied()
    }

    /// All, in order of the customers' names.
    pub fn iter(&self) -> impl Iterator<Item = (&CustomerName, &CustomerIds)> {
        self.customers.iter()
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Ids {
    customers: Pool<CustomerName>,
    tunnels: Pool<TunnelName>,
}

/// A tunnel's customer and site.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct TunnelName(CustomerName, SiteName);

impl Default for Ids {
    fn default() -> Self {
        Self {
            customers: Pool { what: "customer", entries: BTreeMap::new() },
            tunnels: Pool { what: "tunnel", entries: BTreeMap::new() },
        }
    }
}

impl std::fmt::Display for TunnelName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}
