//! Loads a policy from a directory: all of it, or as much as is valid.
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::conflicts::conflicts;
use super::customer::Customer;
use super::document::{CustomerDocument, GatewayDocument};
use super::fault::Faults;
use super::files::Files;
use super::model::Policy;
use super::names::CustomerName;

/// The result of [`reload`].
#[derive(Clone, Debug)]
pub struct Reload {
    /// The new policy, with the last good version in place of invalid files. `None` without a valid
    /// gateway part.
    pub policy: Option<Policy>,
    /// Every fault of the files.
    pub faults: Faults,
    /// True if `policy.gateway` is the last good version because the file is invalid.
    pub gateway_kept: bool,
    /// Customers whose last good version is in `policy` because their file is invalid.
    pub kept: BTreeSet<CustomerName>,
    /// Customers that have a file but are not in `policy`.
    pub refused: BTreeSet<CustomerName>,
}

/// Reads `dir/gateway.toml` and `dir/customers/*.toml`.
///
/// # Errors
/// Returns every fault of every file, if there is any.
pub fn load(dir: &Path) -> Result<Policy, Faults> {
    let reload = reload(dir, None);
    match reload.policy {
        Some(policy) if reload.faults.is_empty() => Ok(policy),
        _ => Err(reload.faults),
    }
}

/// Reads the directory like [`load`], but keeps everything valid.
///
/// An invalid file leaves the last good version of that customer or of the gateway part in force.
/// Changed customers in conflict with one another all revert to their last good version, and new ones
/// are refused. A changed gateway part in conflict with unchanged customers is not adopted. A customer
/// whose file is gone is removed.
pub fn reload(dir: &Path, last_good: Option<&Policy>) -> Reload {
    let files = Files::read(dir);
    let last = LastGood(last_good);
    let names = expected_customers(&files, last_good);
    let mut faults = all_faults(&files, &last);
    let new = files.gateway.as_ref().filter(|new| new.value.is_some());
    let kept = last_good.map(|last| GatewayDocument::from_last_good(&last.gateway, &files.gateway_path));

    for (document, gateway_kept) in [(new, false), (kept.as_ref(), true)] {
        let Some(document) = document else { continue };
        let Some(gateway) = document.value.clone() else {
            continue;
        };
        let resolved = resolve_conflicts(&files, document, &names, &last, &mut faults);
        let Some(customers) = resolved else { continue };
        let other = |name: &&CustomerName| !files.matches(name, customers.get(*name));
        let (kept, refused) =
            names.iter().filter(other).cloned().partition(|name| customers.contains_key(name));
        let policy = Some(Policy { gateway, customers });
        return Reload { policy, faults, gateway_kept, kept, refused };
    }
    Reload { policy: None, faults, gateway_kept: false, kept: BTreeSet::new(), refused: names }
}

/// The policy in force, against which changes are measured.
struct LastGood<'p>(Option<&'p Policy>);

impl LastGood<'_> {
    fn customer(&self, name: &CustomerName) -> Option<&Customer> {
        self.0.and_then(|policy| policy.customers.get(name))
    }

    fn document(&self, files: &Files, name: &CustomerName) -> Option<CustomerDocument> {
        let path = files.customer_path(name);
        self.customer(name).map(|customer| CustomerDocument::from_last_good(customer, &path))
    }

    fn has_changed(&self, customer: &CustomerDocument) -> bool {
        customer.value.is_none() || customer.value.as_ref() != self.customer(&customer.name)
    }

    /// Sorts unchanged customers first and new ones last: the later party of a conflict gets the fault.
    fn sort(&self, customers: &mut [&CustomerDocument]) {
        let is_new = |name| self.customer(name).is_none();
        customers
            .sort_by_key(|customer| (self.has_changed(customer), is_new(&customer.name), &customer.name));
    }
}

/// Returns the faults of every file, and the conflicts between the files as they are on disk.
fn all_faults(files: &Files, last: &LastGood) -> Faults {
    let mut faults = Faults::default();
    faults.extend(files.faults.iter().cloned());
    if let Some(gateway) = &files.gateway {
        let mut customers: Vec<&CustomerDocument> = files.customers.values().collect();
        last.sort(&mut customers);
        faults.extend(conflicts(gateway, &customers).into_iter().map(|conflict| conflict.fault));
    }
    faults
}

/// Returns the customers that have a file. If the directory cannot be listed, no customer is gone.
fn expected_customers(files: &Files, last_good: Option<&Policy>) -> BTreeSet<CustomerName> {
    let mut names = files.present.clone();
    if let Some(last_good) = last_good.filter(|_| files.unlisted) {
        names.extend(last_good.customers.keys().cloned());
    }
    names
}

/// Reverts changed customers until no conflict is left. Returns `None` if a conflict remains that no
/// changed customer takes part in: the gateway part caused it.
fn resolve_conflicts(
    files: &Files,
    gateway: &GatewayDocument,
    names: &BTreeSet<CustomerName>,
    last: &LastGood,
    faults: &mut Faults,
) -> Option<BTreeMap<CustomerName, Customer>> {
    let read = |name| files.customers.get(name).filter(|read| read.value.is_some()).cloned();
    let mut customers: Vec<CustomerDocument> =
        names.iter().filter_map(|name| read(name).or_else(|| last.document(files, name))).collect();
    loop {
        let mut ordered: Vec<&CustomerDocument> = customers.iter().collect();
        last.sort(&mut ordered);
        let conflicts = conflicts(gateway, &ordered);
        if conflicts.is_empty() {
            let values = customers.into_iter().filter_map(|customer| customer.value);
            return Some(values.map(|customer| (customer.name.clone(), customer)).collect());
        }
        let mut parties = BTreeSet::new();
        for conflict in conflicts {
            // A file with faults of its own is refused anyway.
            if !faults.has_fault_in(&conflict.fault.file) {
                faults.insert(conflict.fault);
            }
            parties.extend(conflict.parties);
        }
        let yields =
            |customer: &CustomerDocument| last.has_changed(customer) && parties.contains(&customer.name);
        let (yielding, staying): (Vec<_>, Vec<_>) = customers.into_iter().partition(yields);
        if yielding.is_empty() {
            return None;
        }
        let kept = yielding.iter().filter_map(|customer| last.document(files, &customer.name));
        customers = staying.into_iter().chain(kept).collect();
    }
}
