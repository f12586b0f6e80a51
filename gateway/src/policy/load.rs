//! From a directory to a policy, all of it or what can be kept.
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::conflicts::conflicts;
use super::document::{CustomerDocument, GatewayDocument};
use super::fault::Faults;
use super::files::Files;
use super::{Customer, CustomerName, Policy};

/// What a reload gives.
#[derive(Clone, Debug)]
pub struct Reload {
    /// What is good: new where possible, else the last good. `None` if there is no good gateway part.
    pub policy: Option<Policy>,
    /// Everything that is wrong with the files.
    pub faults: Faults,
    /// Whether `policy.gateway` is the last good one because the file's is not.
    pub gateway_kept: bool,
    /// Customers whose last good version is in `policy` because their file's is not.
    pub kept: BTreeSet<CustomerName>,
    /// Customers that have a file but are not in `policy`.
    pub refused: BTreeSet<CustomerName>,
}

/// Reads `dir/gateway.toml` and `dir/customers/*.toml`; a policy has no fault at all.
///
/// # Errors
/// Every fault of every file.
pub fn load(dir: &Path) -> Result<Policy, Faults> {
    let reload = load_keeping(dir, None);
    match reload.policy {
        Some(policy) if reload.faults.is_empty() => Ok(policy),
        _ => Err(reload.faults),
    }
}

/// Like [`load`], but keeps what is good. For a bad file the last good version of that customer or
/// of the gateway part stays; of customers in conflict with one another all go back to their last
/// good version, and new ones are refused; a changed gateway part that customers which did not
/// change are in conflict with is not taken. A customer whose file is gone is gone.
pub fn load_keeping(dir: &Path, last_good: Option<&Policy>) -> Reload {
    let files = Files::read(dir);
    let last = LastGood(last_good);
    let names = expected_customers(&files, last_good);
    let mut faults = all_faults(&files, &last);
    let new = files.gateway.as_ref().filter(|new| new.value.is_some());
    let kept = last_good.map(|last| GatewayDocument::keep(&last.gateway, &files.gateway_path));

    for (document, gateway_kept) in [(new, false), (kept.as_ref(), true)] {
        let Some(document) = document else { continue };
        let Some(gateway) = document.value.clone() else {
            continue;
        };
        let settled = settle(&files, document, &names, &last, &mut faults);
        let Some(customers) = settled else { continue };
        let other = |name: &&CustomerName| !files.agree(name, customers.get(*name));
        let (kept, refused) =
            names.iter().filter(other).cloned().partition(|name| customers.contains_key(name));
        let policy = Some(Policy { gateway, customers });
        return Reload { policy, faults, gateway_kept, kept, refused };
    }
    Reload { policy: None, faults, gateway_kept: false, kept: BTreeSet::new(), refused: names }
}

/// The policy in force, as the measure of what has changed.
struct LastGood<'p>(Option<&'p Policy>);

impl LastGood<'_> {
    fn customer(&self, name: &CustomerName) -> Option<&Customer> {
        self.0.and_then(|policy| policy.customers.get(name))
    }

    fn keep(&self, files: &Files, name: &CustomerName) -> Option<CustomerDocument> {
        self.customer(name).map(|customer| CustomerDocument::keep(customer, &files.customer_path(name)))
    }

    fn has_changed(&self, customer: &CustomerDocument) -> bool {
        customer.value.is_none() || customer.value.as_ref() != self.customer(&customer.name)
    }

    /// Unchanged customers first, new ones last: a conflict is the fault of the later.
    fn sort(&self, customers: &mut [&CustomerDocument]) {
        let is_new = |name| self.customer(name).is_none();
        customers
            .sort_by_key(|customer| (self.has_changed(customer), is_new(&customer.name), &customer.name));
    }
}

/// The faults of every file, and those between files as they are on disk.
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

/// Those that have a file; if it cannot be said who has, nobody has gone.
fn expected_customers(files: &Files, last_good: Option<&Policy>) -> BTreeSet<CustomerName> {
    let mut names = files.present.clone();
    if let Some(last_good) = last_good.filter(|_| files.unlisted) {
        names.extend(last_good.customers.keys().cloned());
    }
    names
}

/// Takes back changed customers until no conflict is left. `None` if one is left that no customer
/// caused: then the gateway part did.
fn settle(
    files: &Files,
    gateway: &GatewayDocument,
    names: &BTreeSet<CustomerName>,
    last: &LastGood,
    faults: &mut Faults,
) -> Option<BTreeMap<CustomerName, Customer>> {
    let read = |name| files.customers.get(name).filter(|read| read.value.is_some()).cloned();
    let mut customers: Vec<CustomerDocument> =
        names.iter().filter_map(|name| read(name).or_else(|| last.keep(files, name))).collect();
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
            // A file with faults of its own needs no more of them to be refused.
            if !faults.concern(&conflict.fault.file) {
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
        let kept = yielding.iter().filter_map(|customer| last.keep(files, &customer.name));
        customers = staying.into_iter().chain(kept).collect();
    }
}
