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

use crate::atomic;
use crate::policy::{CustomerName, Policy};
use ids::{Ids, TunnelName};

pub use assignment::{Assignment, CustomerIds};
pub use error::RegistryError;

/// Ids for a policy that are not in force yet.
#[derive(Clone, Debug)]
pub struct Planned {
    ids: Ids,
    /// Ids of tunnels that another owner had before.
    pub taken_over: Vec<TunnelId>,
}

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

    /// Returns true if no id was ever assigned.
    pub fn is_empty(&self) -> bool {
        self.ids == Ids::default()
    }

    /// Plans ids for every customer and tunnel of the policy, and the retirement of the ids of the others. A customer
    /// or tunnel that returns before its id was reused gets it back. Changes nothing yet.
    ///
    /// # Errors
    /// [`RegistryError::BeyondLimit`] and [`RegistryError::Exhausted`].
    pub fn plan(&self, policy: &Policy) -> Result<Planned, RegistryError> {
        let mut ids = self.ids.clone();
        let limits = policy.gateway.limits;
        let customers: BTreeSet<CustomerName> = policy.customers.keys().cloned().collect();
        let mut tunnels = BTreeSet::new();
        for customer in policy.customers.values() {
            for site in &customer.sites {
                let (customer, name) = (customer.name.clone(), site.name.clone());
                // A file of an earlier version does not tell the identity.
                if let Some(entry) =
                    ids.tunnels.entries.remove(&TunnelName(customer.clone(), name.clone(), None))
                {
                    let owner = TunnelName(customer.clone(), name.clone(), Some(site.identity.clone()));
                    ids.tunnels.entries.insert(owner, entry);
                }
                tunnels.insert(TunnelName(customer, name, Some(site.identity.clone())));
            }
        }
        ids.customers.assign(&customers, limits.customers)?;
        ids.tunnels.assign(&tunnels, limits.tunnels)?;
        let taken_over = ids.tunnels.taken_over(&self.ids.tunnels).into_iter();
        Ok(Planned { taken_over: taken_over.filter_map(TunnelId::new).collect(), ids })
    }

    /// Puts planned ids into force: writes the file, if anything changed, before returning.
    ///
    /// The caller first removes from the maps whatever is under an id that another owner takes over. The order matters
    /// if the daemon dies in between: the file may say less than the maps have lost, but never that an id is a new
    /// owner's while the maps hold the former one's SAs.
    ///
    /// # Errors
    /// [`RegistryError::Io`]. The registry is then unchanged.
    pub fn commit(&mut self, planned: Planned) -> Result<Assignment, RegistryError> {
        if planned.ids != self.ids {
            let io = |source| RegistryError::Io { path: self.path.clone(), action: "write", source };
            atomic::write(&self.path, planned.ids.to_text().as_bytes()).map_err(io)?;
            self.ids = planned.ids;
        }
        Ok(self.assignment())
    }

    /// Plans ids and puts them into force, where no map holds anything yet.
    ///
    /// # Errors
    /// Those of [`Self::plan`] and [`Self::commit`].
    pub fn assign(&mut self, policy: &Policy) -> Result<Assignment, RegistryError> {
        self.commit(self.plan(policy)?)
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
        for (TunnelName(customer, site, _), id) in self.ids.tunnels.in_use() {
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
