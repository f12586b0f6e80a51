//! Loads a policy from a directory: all of it, or as much as is valid.
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::conflicts::{conflicts, faults_of};
use super::customer::Customer;
use super::document::{CustomerDocument, GatewayDocument};
use super::fault::Faults;
use super::files::Files;
use super::model::Policy;
use super::names::CustomerName;
use super::resolve::{Candidate, resolve};

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
    let mut files = Files::read(dir);
    let last = LastGood(last_good);
    let mut faults = all_faults(&files, &last);
    if faults.is_empty()
        && let Some(gateway) = files.gateway.take().and_then(|document| document.value)
    {
        let customers = files.customers.into_iter().filter_map(|(name, read)| Some((name, read.value?)));
        let policy = Some(Policy { gateway, customers: customers.collect() });
        return Reload {
            policy,
            faults,
            gateway_kept: false,
            kept: BTreeSet::new(),
            refused: BTreeSet::new(),
        };
    }
    let names = expected_customers(&files, last_good);
    let kept: BTreeMap<&CustomerName, CustomerDocument> =
        names.iter().filter_map(|name| Some((name, last.document(&files, name)?))).collect();
    let candidates = || names.iter().map(|name| (name, candidate(&files, &last, &kept, name))).collect();
    let new = files.gateway.as_ref().filter(|new| new.value.is_some());
    let old = last_good.map(|last| GatewayDocument::from_last_good(&last.gateway, &files.gateway_path));
    for (document, gateway_kept) in [(new, false), (old.as_ref(), true)] {
        let Some(document) = document else { continue };
        let Some(gateway) = document.value.clone() else {
            continue;
        };
        let Some(customers) = resolve(document, candidates(), &mut faults) else { continue };
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

    /// Sorts unchanged customers first and added ones last: the later party of a conflict gets the fault.
    fn sort(&self, customers: &mut [&CustomerDocument]) {
        let is_added = |name| self.customer(name).is_none();
        customers.sort_by_cached_key(|customer| (self.has_changed(customer), is_added(&customer.name)));
    }
}

/// Returns the versions of a customer. One that has not changed keeps its positions in the file.
fn candidate<'d>(
    files: &'d Files,
    last: &LastGood,
    kept: &'d BTreeMap<&CustomerName, CustomerDocument>,
    name: &CustomerName,
) -> Candidate<'d> {
    let read = files.customers.get(name).filter(|read| read.value.is_some());
    match read.filter(|read| !last.has_changed(read)) {
        Some(unchanged) => Candidate { new: None, kept: Some(unchanged) },
        None => Candidate { new: read, kept: kept.get(name) },
    }
}

/// Returns the faults of every file, and the conflicts between the files as they are on disk.
fn all_faults(files: &Files, last: &LastGood) -> Faults {
    let mut faults = Faults::default();
    faults.extend(files.faults.iter().cloned());
    if let Some(gateway) = &files.gateway {
        let mut customers: Vec<&CustomerDocument> = files.customers.values().collect();
        last.sort(&mut customers);
        faults.extend(faults_of(conflicts(gateway, &customers)));
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
