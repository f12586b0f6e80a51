//! Reloads and starts of a folder with policies and credentials, in which something has faults or cannot come into force.
mod reload;
mod start;

use std::{fs, path::PathBuf};

use gateway_tests_kit::pki::{Authority, Validity, write_private, write_public};
use tempfile::TempDir;
use time::{Duration, OffsetDateTime};

use super::*;

/// Sizes of the tables that the folder's `[limits]` ask for.
const TABLES: Limits = Limits { tunnels: 32, customers: 32, flows: 4096, flows6: Some(1) };
/// The customers of a new folder, with servers 10.200.0.11 and on.
const NAMES: [&str; 3] = ["acme", "globex", "initech"];

/// A folder with policies, credentials and a state directory.
struct Folder {
    directory: TempDir,
    authority: Authority,
}

fn validity(until_days: i64) -> Validity {
    let now = OffsetDateTime::now_utc();
    Validity { from: now - Duration::days(9), until: now + Duration::days(until_days) }
}

fn customer(name: &str, server: u32) -> String {
    format!(
        "server = \"10.200.0.{server}\"\n[[site]]\nname = \"berlin\"\nidentity = \"berlin.{name}.example\"\n\
         lan = [\"192.168.0.0/16\"]\n"
    )
}

impl Folder {
    fn new() -> Self {
        let folder = Self {
            directory: TempDir::new().unwrap(),
            authority: Authority::new("ca", validity(9)).unwrap(),
        };
        fs::create_dir_all(folder.path("policies/customers")).unwrap();
        fs::create_dir(folder.path("state")).unwrap();
        write_public(&folder.path("ca.crt"), folder.authority.certificate_pem()).unwrap();
        folder.issue("gateway.example", 9);
        folder.write_gateway(|text| text);
        for (name, server) in NAMES.iter().zip(11..) {
            folder.write(name, &customer(name, server));
        }
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes the gateway's certificate and key.
    fn issue(&self, identity: &str, until_days: i64) {
        let issued = self.authority.issue(identity, validity(until_days)).unwrap();
        for file in ["gateway.crt", "gateway.key"] {
            let _ = fs::remove_file(self.path(file));
        }
        write_public(&self.path("gateway.crt"), &issued.certificate_pem).unwrap();
        write_private(&self.path("gateway.key"), &issued.key_pem).unwrap();
    }

    fn write_gateway(&self, change: impl Fn(String) -> String) {
        let pki = self.directory.path().display();
        let text = format!(
            "[interfaces]\ninternet = \"internet\"\nlan = \"lan\"\ncloud_lan = \"10.200.0.0/24\"\n[ipsec]\n\
             identity = \"gateway.example\"\ncertificate = \"{pki}/gateway.crt\"\n\
             private_key = \"{pki}/gateway.key\"\nauthority = \"{pki}/ca.crt\"\n\
             [limits]\ntunnels = 32\ncustomers = 32\nflows = 4096\n"
        );
        fs::write(self.path("policies/gateway.toml"), change(text)).unwrap();
    }

    fn customer_path(&self, name: &str) -> PathBuf {
        self.path(&format!("policies/customers/{name}.toml"))
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.customer_path(name), text).unwrap();
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.customer_path(name)).unwrap();
    }

    /// Starts without a last good policy.
    fn first(&self) -> Inputs {
        let reading = self.start(&LastGood::default(), None);
        assert!(reading.faults.is_empty() && reading.consequences.is_empty(), "{}", reading.faults);
        reading.inputs.unwrap()
    }

    fn start(&self, last_good: &LastGood, tables: Option<Limits>) -> Reading {
        Inputs::start(&self.path("policies"), last_good, &self.path("state"), tables)
    }

    /// Starts after these inputs, whose last good policy goes through its file.
    fn start_after(&self, former: &Inputs, tables: Option<Limits>) -> Reading {
        former.last_good().write(&self.path("state")).unwrap();
        self.start(&LastGood::read(&self.path("state")).unwrap(), tables)
    }

    fn reload(&self, former: &Inputs) -> Reading {
        former.reload(&self.path("policies"), TABLES, None)
    }

    /// Reloads, and checks that a start with the same tables ends in the same policy.
    fn reload_and_start(&self, former: &Inputs) -> Reading {
        let (reload, start) = (self.reload(former), self.start_after(former, Some(TABLES)));
        let policy = |reading: &Reading| reading.inputs.as_ref().map(|inputs| inputs.policy.clone());
        let texts = |reading: &Reading| reading.inputs.as_ref().map(|inputs| inputs.texts.clone());
        assert_eq!((policy(&reload), texts(&reload)), (policy(&start), texts(&start)));
        assert_eq!(reload.lines(), start.lines());
        reload
    }
}

/// Returns the servers in force, such as `acme 11`.
fn servers(reading: &Reading) -> Vec<String> {
    let customers = reading.inputs.as_ref().unwrap().policy.customers.values();
    customers
        .map(|customer| format!("{} {}", customer.name, customer.server.v4.unwrap().octets()[3]))
        .collect()
}

fn said(reading: &Reading, text: &str) -> bool {
    reading.lines().iter().any(|line| line.contains(text))
}

/// Changes the folder in ways that are all right: initech is removed, globex moves, hooli is new.
fn change_others(folder: &Folder) {
    folder.remove("initech");
    folder.write("globex", &customer("globex", 22));
    folder.write("hooli", &customer("hooli", 14));
}
