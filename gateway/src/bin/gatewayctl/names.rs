//! Names of customers and sites.
use std::{collections::BTreeMap, path::Path};

use anyhow::Result;
use gateway::registry::Registry;

/// Names of customers and sites by number.
#[derive(Default)]
pub struct Names {
    customers: BTreeMap<u32, String>,
    /// Each with its customer's number.
    sites: BTreeMap<u32, (u32, String)>,
}

/// The name shown for packets that belong to no customer.
pub const NOBODY: &str = "-";

impl Names {
    /// Reads the registry in the state directory.
    pub fn read(state: &Path) -> Result<Self> {
        let ids = Registry::open(state.join("ids.toml"))?.assignment();
        let mut names = Self::default();
        for (customer, ids) in ids.iter() {
            names.customers.insert(ids.id.get(), customer.to_string());
            for (site, id) in &ids.tunnels {
                names.sites.insert(id.get(), (ids.id.get(), site.to_string()));
            }
        }
        Ok(names)
    }

    /// Returns the customer's name, `#number` if it has none, or `None` for number 0, which is no customer.
    pub fn customer(&self, number: u32) -> Option<String> {
        match number {
            0 => None,
            _ => Some(self.customers.get(&number).cloned().unwrap_or_else(|| format!("#{number}"))),
        }
    }

    /// Returns the site's name, or `#number` if it has none.
    pub fn site(&self, number: u32) -> String {
        self.sites.get(&number).map_or_else(|| format!("#{number}"), |(_, name)| name.clone())
    }

    /// Returns the number of the customer with this name.
    pub fn customer_number(&self, name: &str) -> Option<u32> {
        self.customers.iter().find(|(_, customer)| *customer == name).map(|(number, _)| *number)
    }

    /// Returns the numbers of the sites with this name, each with its customer's.
    pub fn site_numbers(&self, name: &str) -> impl Iterator<Item = (u32, u32)> {
        let sites = self.sites.iter().filter(move |(_, (_, site))| site == name);
        sites.map(|(number, (customer, _))| (*number, *customer))
    }

    /// Returns the lengths of the longest names of a customer and of a site.
    pub fn longest(&self) -> (usize, usize) {
        let longest = |names: &mut dyn Iterator<Item = &String>| names.map(String::len).max().unwrap_or(0);
        (longest(&mut self.customers.values()), longest(&mut self.sites.values().map(|(_, name)| name)))
    }
}

#[cfg(test)]
impl Names {
    /// Returns names of these customers, numbered from 1. Each has the sites `berlin`, with its number times 10, and
    /// `munich`, with the next one.
    pub fn of(customers: &[&str]) -> Self {
        let mut names = Self::default();
        for (number, customer) in (1..).zip(customers) {
            names.customers.insert(number, (*customer).to_owned());
            names.sites.insert(number * 10, (number, "berlin".to_owned()));
            names.sites.insert(number * 10 + 1, (number, "munich".to_owned()));
        }
        names
    }
}
