//! Ids of one kind, and who has them.
use std::collections::{BTreeMap, BTreeSet};

use super::RegistryError;
use crate::policy::CustomerName;

/// Ids of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pool<K> {
    pub what: &'static str,
    pub entries: BTreeMap<K, Entry>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub id: u32,
    /// When the owner went, in retirements; `None`: in use. Not a time of day, which can go back.
    pub retired: Option<u32>,
}

impl<K: Ord + Clone + ToString> Pool<K> {
    pub fn in_use(&self) -> impl Iterator<Item = (&K, u32)> {
        self.entries
            .iter()
            .filter(|(_, entry)| entry.retired.is_none())
            .map(|(owner, entry)| (owner, entry.id))
    }

    pub fn assign(&mut self, owners: &BTreeSet<K>, limit: u32) -> Result<(), RegistryError> {
        self.retire_others(owners);
        let mut free = self.free(owners, limit);
        for owner in owners {
            if let Some(entry) = self.entries.get_mut(owner) {
                if entry.id > limit {
                    let owner = owner.to_string();
                    return Err(RegistryError::BeyondLimit { what: self.what, owner, id: entry.id, limit });
                }
                entry.retired = None;
                continue;
            }
            let Some((id, former)) = free.next() else {
                return Err(RegistryError::Exhausted { what: self.what, owner: owner.to_string(), limit });
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

    /// Ids to give out, in this order: those that nobody has had, then those of former owners who
    /// do not come back now, the one longest gone first.
    fn free(&self, owners: &BTreeSet<K>, limit: u32) -> impl Iterator<Item = (u32, Option<K>)> + use<K> {
        let given: BTreeSet<u32> = self.entries.values().map(|entry| entry.id).collect();
        let mut former: Vec<(u32, u32, K)> = self
            .entries
            .iter()
            .filter(|(owner, entry)| entry.id <= limit && !owners.contains(owner))
            .filter_map(|(owner, entry)| Some((entry.retired?, entry.id, owner.clone())))
            .collect();
        former.sort();
        let never = (1..=limit).filter(move |id| !given.contains(id)).map(|id| (id, None));
        never.chain(former.into_iter().map(|(_, id, owner)| (id, Some(owner))))
    }

    /// Adds what was read; an id or an owner twice is an error.
    pub fn restore(&mut self, entries: impl Iterator<Item = (K, Entry)>) -> Result<(), String> {
        let mut given = BTreeSet::new();
        for (owner, entry) in entries {
            let what = self.what;
            if entry.id == 0 {
                return Err(format!("{what} {} has id 0", owner.to_string()));
            }
            if !given.insert(entry.id) {
                return Err(format!("two {what}s have id {}", entry.id));
            }
            if self.entries.contains_key(&owner) {
                return Err(format!("{what} {} has two ids", owner.to_string()));
            }
            self.entries.insert(owner, entry);
        }
        Ok(())
    }
}

impl Pool<CustomerName> {
    pub fn has(&self, customer: &CustomerName) -> bool {
        self.entries.get(customer).is_some_and(|entry| entry.retired.is_none())
    }
}
