//! Names of customers.
use std::{collections::BTreeMap, path::Path};

use anyhow::Result;
use gateway::registry::Registry;

/// Names of customers by number.
pub struct Names(BTreeMap<u32, String>);

/// The name shown for packets that belong to no customer.
pub const NOBODY: &str = "-";

impl Names {
    /// Reads the registry in the state directory.
    pub fn read(state: &Path) -> Result<Self> {
        let ids = Registry::open(state.join("ids.toml"))?.assignment();
        Ok(Self(ids.iter().map(|(name, ids)| (ids.id.get(), name.to_string())).collect()))
    }

    /// Returns the customer's name, `#number` if it has none, or `None` for number 0, which is no customer.
    pub fn customer(&self, number: u32) -> Option<String> {
        match number {
            0 => None,
            _ => Some(self.0.get(&number).cloned().unwrap_or_else(|| format!("#{number}"))),
        }
    }
}

#[cfg(test)]
impl Names {
    /// Returns names of these customers, numbered from 1.
    pub fn of(customers: &[&str]) -> Self {
        Self((1..).zip(customers.iter().map(|name| (*name).to_owned())).collect())
    }
}
