//! Ids of customers and tunnels, stable across restarts.
//!
//! An id names a tunnel in strongSwan, in the kernel and in pinned maps, all of which outlive the daemon.
//! The registry therefore reuses an id only when it has assigned every other id, and then the one whose
//! owner has been gone the longest.
mod assignment;
mod error;
mod file;
mod ids;
mod pool;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::PathBuf;

use gateway_common::ids::{CustomerId, TunnelId};

use crate::policy::{CustomerName, Policy};
use ids::{Ids, TunnelName};

pub use assignment::{Assignment, CustomerIds};
pub use error::RegistryError;

/// The ids of every customer and tunnel, kept in a file.
#[derive(Debug)]
pub struct Registry {
    path: PathBuf,
    ids: Ids,
}

impl Registry {
    /// Reads the registry. A missing file means that no id has been assigned yet.
    ///
    /// # Errors
    /// [`RegistryError::Damaged`] and [`RegistryError::Io`].
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

    /// Assigns ids to every customer and tunnel of the policy and retires the ids of the others. A customer
    /// or tunnel that returns before its id was reused gets it back. Writes the file, if anything changed,
    /// before returning.
    ///
    /// A retired id may be reused at once if no other is left, so the caller must remove retired customers
    /// and tunnels from the maps before it adds new ones.
    ///
    /// # Errors
    /// Any error but [`RegistryError::Damaged`]. The registry is then unchanged.
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
            let io = |source| RegistryError::Io { path: self.path.clone(), action: "write", source };
            file::write_atomically(&self.path, &ids.to_text()).map_err(io)?;
            self.ids = ids;
        }
        Ok(self.assignment())
    }

    /// Returns the ids in use.
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
