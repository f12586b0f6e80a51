//! Loads a policy from a directory: all of it, or as much as is valid.
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::conflicts::{conflicts, faults_of};
use super::customer::Customer;
use super::document::{Adopt, CustomerDocument, GatewayDocument};
use super::fault::Faults;
use super::files::Files;
use super::model::Policy;
use super::names::{CustomerName, listed};
use super::resolve::{Candidate, resolve};
use super::texts::Texts;

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
    /// True if the directory of customers could not be listed: nobody knows who is gone.
    pub unlisted: bool,
    /// The texts of those parts of `policy` that are not the last good version.
    texts: Texts,
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
    reload_with(dir, last_good, &mut |_| Vec::new())
}

/// Reads the directory like [`reload`], where not everything of a gateway part can be adopted now.
pub fn reload_with(dir: &Path, last_good: Option<&Policy>, adopt: Adopt) -> Reload {
    choose(Files::read(dir), last_good, adopt)
}

/// Checks texts as if they were files in `dir`: they are trusted no more than files are.
pub fn restore(texts: &Texts, dir: &Path, adopt: Adopt) -> Reload {
    choose(Files::of_texts(texts, dir), None, adopt)
}

impl Reload {
    /// Returns the texts of the policy, which was read after one with the `former` texts.
    pub fn texts_after(&self, former: &Texts) -> Texts {
        let mut texts = self.texts.clone();
        let kept = |name: &CustomerName| Some((name.clone(), former.customers.get(name)?.clone()));
        texts.customers.extend(self.kept.iter().filter_map(kept));
        texts.gateway = texts.gateway.or_else(|| former.gateway.clone());
        texts
    }

    /// Returns what the faults lead to: whose last good version is in force, and who is not served at all.
    pub fn consequences(&self) -> Vec<String> {
        let gateway = self.gateway_kept.then(|| "gateway.toml: the last good version is in force".to_owned());
        let line = |names: &BTreeSet<CustomerName>, what: &str| {
            (!names.is_empty()).then(|| format!("{what} ({}): {}", names.len(), listed(names.iter())))
        };
        let kept = line(&self.kept, "customers whose last good version is in force");
        let refused = line(&self.refused, "customers without a good version, not served");
        gateway.into_iter().chain(kept).chain(refused).collect()
    }
}

/// Chooses the versions that are in force.
fn choose(mut files: Files, last_good: Option<&Policy>, adopt: Adopt) -> Reload {
    let last = LastGood(last_good);
    let mut reasons = files.gateway.as_mut().map(|new| new.adopt(adopt)).unwrap_or_default();
    let mut faults = all_faults(&files, &last);
    if faults.is_empty() && files.gateway.is_some() {
        faults.extend(reasons);
        return everything(files, faults);
    }
    let names = expected_customers(&files, last_good);
    let kept: BTreeMap<&CustomerName, CustomerDocument> =
        names.iter().filter_map(|name| Some((name, last.document(&files, name)?))).collect();
    let candidates = || names.iter().map(|name| (name, candidate(&files, &last, &kept, name))).collect();
    let new = files.gateway.as_ref().filter(|new| new.value.is_some());
    let mut chosen = new.and_then(|new| Some((new.value.clone()?, resolve(new, candidates(), &mut faults)?)));
    let gateway_kept = chosen.is_none();
    let old = last_good.filter(|_| gateway_kept);
    let mut old = old.map(|last| GatewayDocument::from_last_good(&last.gateway, &files.gateway_path));
    if let Some(old) = &mut old {
        reasons.extend(old.adopt(adopt));
        chosen = resolve(old, candidates(), &mut faults).and_then(|all| Some((old.value.clone()?, all)));
    }
    faults.extend(reasons);
    let unlisted = files.unlisted;
    let Some((gateway, customers)) = chosen else {
        let (kept, texts) = (BTreeSet::new(), Texts::default());
        return Reload { policy: None, faults, gateway_kept: false, kept, refused: names, unlisted, texts };
    };
    let (new, other): (BTreeSet<_>, BTreeSet<_>) =
        names.iter().cloned().partition(|name| files.matches(name, customers.get(name)));
    let texts = files.texts(!gateway_kept, |name| new.contains(name));
    let (kept, refused) = other.into_iter().partition(|name| customers.contains_key(name));
    Reload {
        policy: Some(Policy { gateway, customers }),
        faults,
        gateway_kept,
        kept,
        refused,
        unlisted,
        texts,
    }
}

/// Returns the policy of files without a fault.
fn everything(mut files: Files, faults: Faults) -> Reload {
    let texts = files.texts(true, |_| true);
    let gateway = files.gateway.take().and_then(|document| document.value);
    let customers = files.customers.into_iter().filter_map(|(name, read)| Some((name, read.value?)));
    let customers = customers.collect();
    Reload {
        policy: gateway.map(|gateway| Policy { gateway, customers }),
        faults,
        gateway_kept: false,
        kept: BTreeSet::new(),
        refused: BTreeSet::new(),
        unlisted: files.unlisted,
        texts,
    }
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
