//! The ids of one kind with their owners.
use std::collections::{BTreeMap, BTreeSet};

use super::error::RegistryError;
use crate::policy::CustomerName;

/// The ids of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pool<K> {
    pub kind: &'static str,
    pub entries: BTreeMap<K, Entry>,
}

/// An owner's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub id: u32,
    /// Order of retirement, or `None` while in use. A counter, because wall-clock time can go backwards.
    pub retired: Option<u32>,
}

impl<K: Ord + Clone + ToString> Pool<K> {
    /// Iterates over the ids in use, with their owners.
    pub fn in_use(&self) -> impl Iterator<Item = (&K, u32)> {
        self.entries
            .iter()
            .filter(|(_, entry)| entry.retired.is_none())
            .map(|(owner, entry)| (owner, entry.id))
    }

    /// Gives every owner an id of at most `limit`, and retires the ids of all others.
    pub fn assign(&mut self, owners: &BTreeSet<K>, limit: u32) -> Result<(), RegistryError> {
        self.retire_others(owners);
        let mut free = self.free(owners, limit);
        for owner in owners {
            match self.entries.get_mut(owner) {
                Some(entry) if entry.id <= limit => {
                    entry.retired = None;
                    continue;
                }
                // No table has an entry for it: whoever is back gets another one.
                Some(entry) if entry.retired.is_some() => {}
                Some(Entry { id, .. }) => {
                    let (owner, id) = (owner.to_string(), *id);
                    return Err(RegistryError::BeyondLimit { kind: self.kind, owner, id, limit });
                }
                None => {}
            }
            let Some((id, former)) = free.next() else {
                return Err(RegistryError::Exhausted { kind: self.kind, owner: owner.to_string(), limit });
            };
            if let Some(former) = former {
                self.entries.remove(&former);
            }
            self.entries.insert(owner.clone(), Entry { id, retired: None });
        }
        Ok(())
    }

    fn retire_others(&mut self, owners: &BTreeSet<K>) {
        let latest = self.entries.values().filter_map(|entry| entry.retired).max().unwrap_or(0);
        for (owner, entry) in &mut self.entries {
            if entry.retired.is_none() && !owners.contains(owner) {
                entry.retired = Some(latest.saturating_add(1));
            }
        }
    }

    /// Iterates over the ids that can be assigned: first the unused ones, then those of former owners not
    /// in `owners`, the one retired longest ago first.
    fn free(&self, owners: &BTreeSet<K>, limit: u32) -> impl Iterator<Item = (u32, Option<K>)> + use<K> {
        let given: BTreeSet<u32> = self.entries.values().map(|entry| entry.id).collect();
        let mut former: Vec<(u32, u32, K)> = self
            .entries
            .iter()
            .filter(|(owner, entry)| entry.id <= limit && !owners.contains(owner))
            .filter_map(|(owner, entry)| Some((entry.retired?, entry.id, owner.clone())))
            .collect();
        former.sort();
        let unused = (1..=limit).filter(move |id| !given.contains(id)).map(|id| (id, None));
        unused.chain(former.into_iter().map(|(_, id, owner)| (id, Some(owner))))
    }

    /// Returns the ids in use that had another owner in `before`.
    pub fn taken_over(&self, before: &Self) -> Vec<u32> {
        let owners: BTreeMap<u32, &K> =
            before.entries.iter().map(|(owner, entry)| (entry.id, owner)).collect();
        let other = |(owner, id): &(&K, u32)| owners.get(id).is_some_and(|before| before != owner);
        self.in_use().filter(other).map(|(_, id)| id).collect()
    }

    /// Adds the entries of a file. Returns an error if an id or an owner occurs twice.
    pub fn restore(&mut self, entries: impl Iterator<Item = (K, Entry)>) -> Result<(), String> {
        let mut given = BTreeSet::new();
        for (owner, entry) in entries {
            let kind = self.kind;
            if entry.id == 0 {
                return Err(format!("{kind} {} has id 0", owner.to_string()));
            }
            if !given.insert(entry.id) {
                return Err(format!("two {kind}s have id {}", entry.id));
            }
            if self.entries.contains_key(&owner) {
                return Err(format!("{kind} {} has two ids", owner.to_string()));
            }
            self.entries.insert(owner, entry);
        }
        Ok(())
    }
}

impl Pool<CustomerName> {
    /// Returns true if the customer's id is in use.
    pub fn is_in_use(&self, customer: &CustomerName) -> bool {
        self.entries.get(customer).is_some_and(|entry| entry.retired.is_none())
    }
}
