//! Policy files, from text to policy.
use std::{cell::RefCell, collections::BTreeSet, fs, path::Path};

use gateway::policy::{Faults, MAX_LAN_PREFIXES, MAX_MANAGEMENT, Policy, load};
use ipnet::IpNet;
use tempfile::TempDir;

/// Separates the files of an input.
const SEPARATOR: &[u8] = b"\n----\n";
/// Names of the customers' files; an input may have fewer files.
const CUSTOMERS: [&str; 2] = ["acme", "globex"];

thread_local! {
    static DIRECTORY: RefCell<TempDir> = RefCell::new(directory());
}

/// Loads the policy and checks it. The input is `gateway.toml`, `customers/acme.toml` and
/// `customers/globex.toml`, separated by a line `----`. Loading returns either a consistent policy or at
/// least one fault, each at a position within its file.
pub fn run(input: &[u8]) {
    let files = split(input);
    DIRECTORY.with_borrow(|directory| {
        let directory = directory.path();
        write(&directory.join("gateway.toml"), files.first().copied());
        for (customer, name) in CUSTOMERS.iter().enumerate() {
            let path = directory.join("customers").join(format!("{name}.toml"));
            write(&path, files.get(customer + 1).copied());
        }
        match load(directory) {
            Ok(policy) => check_policy(&policy, files.len()),
            Err(faults) => check_faults(&faults),
        }
    });
}

/// Creates the directory of policies, in memory if possible.
fn directory() -> TempDir {
    let memory = Path::new("/dev/shm");
    let directory = if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() };
    let directory = directory.expect("a temporary directory");
    fs::create_dir(directory.path().join("customers")).expect("a directory in it");
    directory
}

fn split(input: &[u8]) -> Vec<&[u8]> {
    let mut files = Vec::new();
    let mut rest = input;
    while files.len() < CUSTOMERS.len()
        && let Some(at) = rest.windows(SEPARATOR.len()).position(|bytes| bytes == SEPARATOR)
    {
        // The newline belongs to the file.
        files.push(&rest[..=at]);
        rest = &rest[at + SEPARATOR.len()..];
    }
    files.push(rest);
    files
}

fn write(path: &Path, content: Option<&[u8]>) {
    match content {
        Some(content) => fs::write(path, content).expect("writing a temporary file"),
        None => {
            let _ = fs::remove_file(path);
        }
    }
}

fn check_policy(policy: &Policy, files: usize) {
    assert_eq!(policy.customers.len(), files - 1);
    assert!(policy.gateway.management.len() <= MAX_MANAGEMENT);
    assert!(policy.gateway.management.iter().all(|rule| rule.port != 0));
    assert_ne!(policy.gateway.internet, policy.gateway.lan);
    let cloud_lan = &policy.gateway.cloud_lan;
    let v6 = cloud_lan.iter().filter(|lan| matches!(lan, IpNet::V6(_))).count();
    assert!(v6 <= 1 && cloud_lan.len() - v6 <= 1 && !cloud_lan.is_empty());
    let mut identities = BTreeSet::new();
    let mut servers = BTreeSet::new();
    for (name, customer) in &policy.customers {
        assert_eq!(*name, customer.name);
        assert!(customer.port != 0 && !customer.sites.is_empty());
        assert!(customer.server.addresses().count() > 0);
        for server in customer.server.addresses() {
            assert!(
                policy.gateway.cloud_lan.iter().any(|lan| lan.contains(&server)) && servers.insert(server)
            );
        }
        let lans: Vec<_> = customer.sites.iter().flat_map(|site| &site.lan).collect();
        for (i, lan) in lans.iter().enumerate() {
            assert_eq!(lan.trunc(), **lan);
            let apart = |other: &&IpNet| !lan.contains(&other.network()) && !other.contains(&lan.network());
            assert!(lans[..i].iter().all(apart), "{lans:?}");
        }
        for (i, site) in customer.sites.iter().enumerate() {
            let v6 = site.lan.iter().filter(|lan| matches!(lan, IpNet::V6(_))).count();
            let v4 = site.lan.len() - v6;
            assert!(v4 <= MAX_LAN_PREFIXES && v6 <= MAX_LAN_PREFIXES && v4 + v6 > 0);
            assert!(v4 == 0 || customer.server.v4.is_some(), "a LAN without a server");
            assert!(v6 == 0 || customer.server.v6.is_some(), "a LAN without a server");
            assert!(customer.sites[..i].iter().all(|other| other.name != site.name));
            assert!(identities.insert(site.identity.to_string().to_lowercase()), "{}", site.identity);
        }
    }
}

fn check_faults(faults: &Faults) {
    assert!(!faults.is_empty(), "neither a policy nor a fault");
    assert!(!faults.to_string().contains(|c: char| c.is_control() && c != '\n'));
    for fault in faults.iter() {
        assert!(!fault.message.is_empty() && !fault.expected.is_empty());
        let Some(position) = fault.position else { continue };
        let bytes = fs::read(&fault.file).expect("a fault with a position is in a file");
        let text = String::from_utf8_lossy(&bytes);
        let line = text.split('\n').nth(position.line.wrapping_sub(1)).expect("a line of the file");
        assert!((1..=line.chars().count() + 1).contains(&position.column), "{fault}");
    }
}
