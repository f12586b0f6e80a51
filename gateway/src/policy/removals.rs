//! Holds back a reload that would remove too many customers at once.
//!
//! A folder that is not mounted, or a deployment that stopped half-way, looks like the removal of customers.
//! Their tunnels end at once, and it takes their routers minutes to come back.
use std::fmt;

use super::model::Policy;
use super::names::CustomerName;

/// Removals that one reload may always do, unless it removes everybody.
const ALWAYS_ALLOWED: usize = 9;
/// Names that the message lists.
const MAX_NAMES: usize = 8;

/// The reason why a policy is held back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removals {
    /// The first customers that would be removed.
    names: Vec<CustomerName>,
    removed: usize,
    customers: usize,
    max_percent: u8,
}

/// Compares a policy with the one in force.
///
/// # Errors
/// Fails if it lacks 10 or more of the customers that make up more than `max_percent` of all, or if it lacks all
/// of two or more customers. With `max_percent` 100 it never fails.
pub fn check_removals(old: &Policy, new: &Policy, max_percent: u8) -> Result<(), Removals> {
    let gone = || old.customers.keys().filter(|name| !new.customers.contains_key(*name));
    let (removed, customers) = (gone().count(), old.customers.len());
    let too_many = removed > ALWAYS_ALLOWED && removed * 100 > customers * usize::from(max_percent);
    let everybody = removed == customers && customers > 1;
    if max_percent >= 100 || !(too_many || everybody) {
        return Ok(());
    }
    Err(Removals { names: gone().take(MAX_NAMES).cloned().collect(), removed, customers, max_percent })
}

impl fmt::Display for Removals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { names, removed, customers, max_percent } = self;
        let names: Vec<&str> = names.iter().map(CustomerName::as_str).collect();
        let dots = if names.len() < *removed { ", …" } else { "" };
        write!(
            f,
            "the reload is held back: it would remove {removed} of {customers} customers ({}{dots}), and [reload] \
             max_removed_percent is {max_percent}. If that is meant, remove fewer at a time, or set it to 100 for \
             this reload",
            names.join(", ")
        )
    }
}

impl std::error::Error for Removals {}
