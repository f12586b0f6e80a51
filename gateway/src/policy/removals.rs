//! Holds back policies that would remove too many customers at once.
//!
//! A folder that is not mounted, or a deployment that stopped half-way, looks like the removal of customers.
//! Their tunnels end at once, and it takes their routers minutes to come back.
use std::collections::BTreeSet;
use std::fmt;

use super::model::Policy;
use super::names::{CustomerName, listed};

/// Removals that may always be done at once, unless it removes everybody.
const ALWAYS_ALLOWED: usize = 9;

/// The reason why a policy is held back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removals {
    gone: BTreeSet<CustomerName>,
    customers: usize,
    max_percent: u8,
}

/// Compares a policy with the customers that are in force.
///
/// # Errors
/// Fails if it lacks 10 or more of the customers that make up more than `max_percent` of all, or if it lacks all
/// of two or more customers. With `max_percent` 100 it never fails.
pub fn check_removals<'n>(
    old: impl ExactSizeIterator<Item = &'n CustomerName>,
    new: &Policy,
    max_percent: u8,
) -> Result<(), Removals> {
    let customers = old.len();
    let gone: Vec<&CustomerName> = old.filter(|name| !new.customers.contains_key(*name)).collect();
    let removed = gone.len();
    let too_many = removed > ALWAYS_ALLOWED && removed * 100 > customers * usize::from(max_percent);
    let everybody = removed == customers && customers > 1;
    if max_percent >= 100 || !(too_many || everybody) {
        return Ok(());
    }
    Err(Removals { gone: gone.into_iter().cloned().collect(), customers, max_percent })
}

impl Removals {
    /// Returns true if these are no removals but those that were approved.
    pub fn are_within(&self, approved: &Self) -> bool {
        self.gone.is_subset(&approved.gone)
    }
}

impl fmt::Display for Removals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { gone, customers, max_percent } = self;
        write!(
            f,
            "the policies are held back: they would remove {} of {customers} customers ({}), and [reload] \
             max_removed_percent is {max_percent}. If that is meant, run `gatewayctl reload --force`",
            gone.len(),
            listed(gone.iter())
        )
    }
}

impl std::error::Error for Removals {}
