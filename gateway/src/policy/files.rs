//! Policy files on disk.
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::customer::Customer;
use super::document::{CustomerDocument, GatewayDocument};
use super::fault::{Fault, Invalid, Source, quote};
use super::folder::{self, IGNORED_RULE};
use super::names::CustomerName;
use super::regular::{Unread, read_regular};
use super::texts::Texts;

/// Largest policy file, in bytes.
pub(crate) const MAX_FILE_BYTES: u64 = 1 << 20;

/// The documents of a policy directory.
pub(super) struct Files {
    dir: PathBuf,
    pub gateway_path: PathBuf,
    pub gateway: Option<GatewayDocument>,
    /// The customers' files that could be read.
    pub customers: BTreeMap<CustomerName, CustomerDocument>,
    /// The customers that have a file, readable or not.
    pub present: BTreeSet<CustomerName>,
    /// True if `customers/` could not be listed, so that removed customers are unknown.
    pub unlisted: bool,
    pub faults: Vec<Fault>,
}

impl Files {
    /// Reads every file, whatever faults the others have.
    pub fn read(dir: &Path) -> Self {
        let mut files = Self::none(dir);
        files.read_gateway();
        files.read_customers();
        files
    }

    /// Takes texts for files in `dir`.
    pub fn of_texts(texts: &Texts, dir: &Path) -> Self {
        let mut files = Self::none(dir);
        let source = |path: PathBuf, text: &Arc<str>| Source { path, text: Some(text.clone()) };
        if let Some(text) = &texts.gateway {
            files.add_gateway(source(files.gateway_path.clone(), text));
        }
        for (name, text) in &texts.customers {
            files.present.insert(name.clone());
            files.add_customer(source(files.customer_path(name), text), name.clone());
        }
        files
    }

    fn none(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            gateway_path: dir.join("gateway.toml"),
            gateway: None,
            customers: BTreeMap::new(),
            present: BTreeSet::new(),
            unlisted: false,
            faults: Vec::new(),
        }
    }

    fn read_gateway(&mut self) {
        let others = folder::names(&self.dir).unwrap_or_default();
        for name in others.into_iter().filter(|name| name != "gateway.toml" && name != "customers") {
            let expected = format!("gateway.toml and customers/ here, {IGNORED_RULE}");
            let source = Source { path: self.dir.join(name), text: None };
            self.faults.push(source.fault("gatewayd does not read this file", expected));
        }
        match read_text(&self.gateway_path) {
            Ok(source) => self.add_gateway(source),
            Err(fault) => self.faults.push(*fault),
        }
    }

    fn read_customers(&mut self) {
        let dir = self.dir.join("customers");
        let names = match folder::names(&dir) {
            Ok(names) => names,
            Err(error) => {
                let fault = format!("cannot read the directory: {error}");
                self.faults.push(
                    Source { path: dir, text: None }
                        .fault(fault, "a directory with a file for each customer"),
                );
                self.unlisted = true;
                return;
            }
        };
        for name in names {
            let path = dir.join(&name);
            match name.to_string_lossy().strip_suffix(".toml") {
                Some(stem) => self.read_customer(path, stem),
                None => {
                    let fault = format!("{} is not a policy", quote(&name.to_string_lossy()));
                    let expected = format!("a customer's file `NAME.toml`, {IGNORED_RULE}");
                    self.faults.push(Source { path, text: None }.fault(fault, expected));
                }
            }
        }
    }

    fn read_customer(&mut self, path: PathBuf, stem: &str) {
        let name = match stem.parse::<CustomerName>() {
            Ok(name) => name,
            Err(invalid) => {
                let expected = format!("a file name of {}, followed by `.toml`", invalid.expected);
                self.faults.push(Source { path, text: None }.fault(invalid.message, expected));
                return;
            }
        };
        self.present.insert(name.clone());
        match read_text(&path) {
            Ok(source) => self.add_customer(source, name),
            Err(fault) => self.faults.push(*fault),
        }
    }

    fn add_gateway(&mut self, source: Source) {
        let (gateway, faults) = GatewayDocument::read(source);
        self.gateway = Some(gateway);
        self.faults.extend(faults);
    }

    fn add_customer(&mut self, source: Source, name: CustomerName) {
        let (customer, faults) = CustomerDocument::read(source, name.clone());
        self.customers.insert(name, customer);
        self.faults.extend(faults);
    }

    /// Returns the text of the gateway part if `gateway` is true, and those of customers for which `is_chosen` is.
    pub fn texts(&self, gateway: bool, is_chosen: impl Fn(&CustomerName) -> bool) -> Texts {
        let gateway = self.gateway.as_ref().filter(|_| gateway);
        let customers = self.customers.iter().filter(|(name, _)| is_chosen(name));
        Texts {
            gateway: gateway.and_then(|document| document.source.text.clone()),
            customers: customers
                .filter_map(|(name, document)| Some((name.clone(), document.source.text.clone()?)))
                .collect(),
        }
    }

    /// Returns true if `customer` equals the file's content.
    pub fn matches(&self, name: &CustomerName, customer: Option<&Customer>) -> bool {
        let document = self.customers.get(name);
        customer.is_some_and(|customer| document.and_then(|read| read.value.as_ref()) == Some(customer))
    }

    /// Returns the path of the customer's file, whether or not it exists.
    pub fn customer_path(&self, name: &CustomerName) -> PathBuf {
        self.dir.join("customers").join(format!("{name}.toml"))
    }
}

fn read_text(path: &Path) -> Result<Source, Box<Fault>> {
    let source = Source { path: path.to_owned(), text: None };
    let bytes = match read_regular(path, MAX_FILE_BYTES) {
        Ok((bytes, _)) => bytes,
        Err(unread) => {
            let (message, expected) = match unread {
                Unread::NotRegular => {
                    ("this is not a regular file".to_owned(), "a regular file, or a link to one")
                }
                Unread::TooLarge => {
                    ("the file is larger than 1 MiB".to_owned(), "a policy file of at most 1 MiB")
                }
                Unread::Io(error) => {
                    (format!("cannot read the file: {error}"), "a policy file that gatewayd may read")
                }
            };
            return Err(source.fault(message, expected).into());
        }
    };
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Source { text: Some(text.into()), ..source }),
        Err(error) => {
            let valid = error.utf8_error().valid_up_to();
            let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
            let source = Source { text: Some(text.into()), ..source };
            let invalid = Invalid::new("the file is not UTF-8 beyond this point", "a text file in UTF-8");
            Err(source.fault_at(valid..valid, invalid).into())
        }
    }
}
