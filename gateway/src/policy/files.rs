//! Policy files on disk.
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::customer::Customer;
use super::document::{CustomerDocument, GatewayDocument};
use super::fault::{Fault, Invalid, Source};
use super::names::CustomerName;

/// Largest policy file, in bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;

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
                self.faults
                    .push(Source { path, text: None }.fault("gatewayd does not read this file", expected));
            }
        }
        match read_text(&self.gateway_path) {
            Ok(source) => {
                let (gateway, faults) = GatewayDocument::read(source);
                self.gateway = Some(gateway);
                self.faults.extend(faults);
            }
            Err(fault) => self.faults.push(*fault),
        }
    }

    fn read_customers(&mut self) {
        let dir = self.dir.join("customers");
        let paths = match toml_files(&dir) {
            Ok(paths) => paths,
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
        for path in paths {
            self.read_customer(path);
        }
    }

    fn read_customer(&mut self, path: PathBuf) {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
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
            Ok(source) => {
                let (customer, faults) = CustomerDocument::read(source, name.clone());
                self.customers.insert(name, customer);
                self.faults.extend(faults);
            }
            Err(fault) => self.faults.push(*fault),
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

/// Returns the paths of a directory's `*.toml` files in order of name. Hidden files, such as editors'
/// locks and swap files, are ignored; backups do not end in `.toml`.
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

fn read_text(path: &Path) -> Result<Source, Box<Fault>> {
    let source = Source { path: path.to_owned(), text: None };
    let expected = "a policy file that gatewayd may read";
    let cannot =
        |error: std::io::Error| Box::new(source.fault(format!("cannot read the file: {error}"), expected));
    // Opening a FIFO or a terminal must not block.
    let file: File =
        OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(cannot)?;
    if !file.metadata().map_err(cannot)?.is_file() {
        let fault = source.fault("this is not a regular file", "a regular file, or a link to one");
        return Err(fault.into());
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        let fault = source.fault("the file is larger than 1 MiB", "a policy file of at most 1 MiB");
        return Err(fault.into());
    }
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
