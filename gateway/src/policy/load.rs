//! From a directory to a policy.
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::conflicts::conflicts;
use super::document::{CustomerDocument, GatewayDocument};
use super::fault::{Fault, Faults, Source};
use super::{Customer, CustomerName, Policy};

/// The largest policy file, in bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;

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
    let files = Files::read(dir);
    let faults = files.all_faults();
    // Nothing but a fault makes a document without its value.
    let gateway = files.gateway.and_then(|gateway| gateway.value);
    match gateway {
        Some(gateway) if faults.is_empty() => {
            let customers = files.customers.into_values().filter_map(|customer| customer.value);
            Ok(Policy { gateway, customers: customers.map(|c| (c.name.clone(), c)).collect() })
        }
        _ => Err(faults),
    }
}

/// Like [`load`], but keeps what is good. For a bad file the last good version of that customer or
/// of the gateway part stays; of customers in conflict with one another all go back to their last
/// good version, and new ones are refused; a changed gateway part that customers which did not
/// change are in conflict with is not taken. A customer whose file is gone is gone.
pub fn load_keeping(dir: &Path, last_good: Option<&Policy>) -> Reload {
    let files = Files::read(dir);
    let mut faults = files.all_faults();
    let names = files.names(last_good);
    let last_gateway = last_good.map(|policy| &policy.gateway);
    let fresh = files.gateway.clone().filter(|gateway| gateway.value.is_some());
    let kept = last_gateway.map(|gateway| GatewayDocument::keep(gateway, &files.gateway_path));

    for (gateway, gateway_kept) in [(fresh, false), (kept, true)] {
        let Some(gateway) = gateway else { continue };
        let Some(value) = gateway.value.clone() else {
            continue;
        };
        let Some(customers) = settle(&files, &gateway, &names, last_good, &mut faults) else {
            continue;
        };
        let kept = names.iter().filter(|name| files.differs(name, customers.get(*name))).cloned();
        return Reload {
            gateway_kept,
            kept: kept.clone().filter(|name| customers.contains_key(name)).collect(),
            refused: kept.filter(|name| !customers.contains_key(name)).collect(),
            policy: Some(Policy { gateway: value, customers }),
            faults,
        };
    }
    Reload { policy: None, faults, gateway_kept: false, kept: BTreeSet::new(), refused: names }
}

/// Takes back changed customers until no conflict is left. `None` if one is left that no customer
/// caused: then the gateway part did.
fn settle(
    files: &Files,
    gateway: &GatewayDocument,
    names: &BTreeSet<CustomerName>,
    last_good: Option<&Policy>,
    faults: &mut Faults,
) -> Option<BTreeMap<CustomerName, Customer>> {
    let last = |name: &CustomerName| last_good.and_then(|policy| policy.customers.get(name));
    let keep = |name: &CustomerName| {
        last(name).map(|customer| CustomerDocument::keep(customer, &files.customer_path(name)))
    };
    let changed = |customer: &CustomerDocument| customer.value.as_ref() != last(&customer.name);
    let read = |name| files.customers.get(name).filter(|customer| customer.value.is_some()).cloned();

    let mut customers: Vec<CustomerDocument> =
        names.iter().filter_map(|name| read(name).or_else(|| keep(name))).collect();
    loop {
        // The conflicts are to be found with those that were here last.
        customers.sort_by_key(|customer| {
            (changed(customer), last(&customer.name).is_none(), customer.name.clone())
        });
        let found = conflicts(gateway, &customers.iter().collect::<Vec<_>>());
        if found.is_empty() {
            let values = customers.into_iter().filter_map(|customer| customer.value);
            return Some(values.map(|customer| (customer.name.clone(), customer)).collect());
        }
        let parties: BTreeSet<&CustomerName> = found.iter().flat_map(|conflict| &conflict.parties).collect();
        let (yielding, mut staying): (Vec<_>, Vec<_>) =
            customers.into_iter().partition(|customer| changed(customer) && parties.contains(&customer.name));
        faults.extend(
            found
                .iter()
                .filter(|c| !faults.concern(&c.fault.file))
                .map(|c| c.fault.clone())
                .collect::<Vec<_>>(),
        );
        if yielding.is_empty() {
            return None;
        }
        staying.extend(yielding.iter().filter_map(|customer| keep(&customer.name)));
        customers = staying;
    }
}

/// The directory's files, read.
struct Files {
    dir: PathBuf,
    gateway_path: PathBuf,
    gateway: Option<GatewayDocument>,
    /// Those that could be read.
    customers: BTreeMap<CustomerName, CustomerDocument>,
    /// Those that have a file, even one that could not be read.
    present: BTreeSet<CustomerName>,
    /// Whether `customers/` could not be listed, so that nothing says which customers are gone.
    unlisted: bool,
    faults: Vec<Fault>,
}

impl Files {
    fn read(dir: &Path) -> Self {
        let mut files = Self {
            dir: dir.to_owned(),
            gateway_path: dir.join("gateway.toml"),
            gateway: None,
            customers: BTreeMap::new(),
            present: BTreeSet::new(),
            unlisted: false,
            faults: Vec::new(),
        };
        files.read_gateway();
        files.read_customers();
        files
    }

    fn read_gateway(&mut self) {
        if let Ok(others) = toml_files(&self.dir) {
            for path in others.into_iter().filter(|path| *path != self.gateway_path) {
                let expected = "gateway.toml here, and customers' files in customers/";
                self.faults.push(Source { path, text: None }.fault("this file is not read", expected));
            }
        }
        match read_text(&self.gateway_path) {
            Ok(source) => {
                let (gateway, faults) = GatewayDocument::read(source);
                self.gateway = Some(gateway);
                self.faults.extend(faults);
            }
            Err(fault) => self.faults.push(fault),
        }
    }

    fn read_customers(&mut self) {
        let dir = self.dir.join("customers");
        let paths = match toml_files(&dir) {
            Ok(paths) => paths,
            Err(error) => {
                let fault = format!("the directory cannot be read: {error}");
                self.faults.push(
                    Source { path: dir, text: None }
                        .fault(fault, "a directory with a file for each customer"),
                );
                self.unlisted = true;
                return;
            }
        };
        for path in paths {
            self.read_customer(path);
        }
    }

    fn read_customer(&mut self, path: PathBuf) {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let name = match stem.parse::<CustomerName>() {
            Ok(name) => name,
            Err(invalid) => {
                let expected = format!("a file name of {}, and `.toml`", invalid.expected);
                self.faults.push(Source { path, text: None }.fault(invalid.message, expected));
                return;
            }
        };
        self.present.insert(name.clone());
        match read_text(&path) {
            Ok(source) => {
                let (customer, faults) = CustomerDocument::read(source, name.clone());
                self.customers.insert(name, customer);
                self.faults.extend(faults);
            }
            Err(fault) => self.faults.push(fault),
        }
    }

    /// The faults of every file, and those between files as they are on disk.
    fn all_faults(&self) -> Faults {
        let mut faults = Faults::default();
        faults.extend(self.faults.iter().cloned());
        if let Some(gateway) = &self.gateway {
            let customers: Vec<&CustomerDocument> = self.customers.values().collect();
            faults.extend(conflicts(gateway, &customers).into_iter().map(|conflict| conflict.fault));
        }
        faults
    }

    /// The customers that there should be.
    fn names(&self, last_good: Option<&Policy>) -> BTreeSet<CustomerName> {
        let mut names = self.present.clone();
        if let Some(last_good) = last_good.filter(|_| self.unlisted) {
            names.extend(last_good.customers.keys().cloned());
        }
        names
    }

    /// Whether `customer` is not what the file says.
    fn differs(&self, name: &CustomerName, customer: Option<&Customer>) -> bool {
        let value = self.customers.get(name).and_then(|document| document.value.as_ref());
        value.is_none() || value != customer
    }

    fn customer_path(&self, name: &CustomerName) -> PathBuf {
        self.dir.join("customers").join(format!("{name}.toml"))
    }
}

/// Paths of a directory's `*.toml` in order of name. Hidden files are left out: editors' locks and
/// swap files among them. Backups do not end in `.toml`.
fn toml_files(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if !hidden && path.extension() == Some(OsStr::new("toml")) {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn read_text(path: &Path) -> Result<Source, Fault> {
    let source = Source { path: path.to_owned(), text: None };
    let expected = "a policy file that gatewayd may read";
    let cannot = |error: std::io::Error| source.fault(format!("the file cannot be read: {error}"), expected);
    // Opening a FIFO or a terminal must not block.
    let file: File =
        OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(cannot)?;
    if !file.metadata().map_err(cannot)?.is_file() {
        return Err(source.fault("this is not a regular file", "a regular file, or a link to one"));
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(source.fault("the file is larger than 1 MiB", "a policy file of at most 1 MiB"));
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Source { text: Some(text.into()), ..source }),
        Err(error) => {
            let valid = error.utf8_error().valid_up_to();
            let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
            let source = Source { text: Some(text.into()), ..source };
            let invalid = super::Invalid::new("the file is not UTF-8 from here on", "a text file in UTF-8");
            Err(source.fault_at(valid..valid, invalid))
        }
    }
}
