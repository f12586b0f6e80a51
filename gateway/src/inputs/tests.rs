//! Reloads and starts of a folder with policies and credentials, in which something has faults or cannot come into force.
use std::{fs, path::PathBuf, sync::Arc};

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

#[test]
fn reload_refuses_only_the_customer_over_the_sum_of_quotas() {
    let folder = Folder::new();
    let before = folder.first();
    change_others(&folder);
    // acme sorts before all the others, which would not fit behind it.
    folder.write("acme", &format!("max_flows = 4096\n{}", customer("acme", 21)));
    let reading = folder.reload_and_start(&before);
    assert_eq!(servers(&reading), ["acme 11", "globex 22", "hooli 14"]);
    assert!(said(&reading, "quotas sum to 4352 IPv4 flows"), "{:?}", reading.lines());
    assert!(said(&reading, "last good version is in force (1): acme"), "{:?}", reading.lines());
}

#[test]
fn reload_with_other_interfaces_applies_the_rest() {
    let folder = Folder::new();
    let before = folder.first();
    change_others(&folder);
    folder.write_gateway(|text| text.replace("\"lan\"", "\"lan2\"") + "[timeouts]\nclose = 7\n");
    let reading = folder.reload(&before);
    assert_eq!(servers(&reading), ["acme 11", "globex 22", "hooli 14"]);
    let gateway = &reading.inputs.as_ref().unwrap().policy.gateway;
    assert_eq!((gateway.lan.as_str(), gateway.timeouts.close.as_secs()), ("lan", 7));
    assert!(said(&reading, "[interfaces] changed to `internet` and `lan2`"), "{:?}", reading.lines());
    // A start attaches to the new one.
    let gateway = folder.start_after(&before, None).inputs.unwrap().policy.gateway;
    assert_eq!((gateway.lan.as_str(), gateway.timeouts.close.as_secs()), ("lan2", 7));
}

#[test]
fn changed_limits_keep_the_tables_sizes_and_refuse_only_who_does_not_fit() {
    let folder = Folder::new();
    let before = folder.first();
    change_others(&folder);
    folder.write_gateway(|text| text.replace("flows = 4096", "flows = 16384"));
    // Fits the new table only.
    folder.write("acme", &format!("max_flows = 8000\n{}", customer("acme", 21)));
    let reading = folder.reload_and_start(&before);
    assert_eq!(servers(&reading), ["acme 11", "globex 22", "hooli 14"]);
    assert_eq!(reading.inputs.as_ref().unwrap().policy.gateway.limits, TABLES);
    let changed = "[limits] changed to 32 tunnels, 32 customers, 16384 flows, but the tables exist";
    assert!(said(&reading, changed), "{:?}", reading.lines());
    assert!(said(&reading, "but the existing table of flows holds 4096"), "{:?}", reading.lines());
    // Without tables, the new sizes hold.
    let start = folder.start_after(&before, None);
    assert_eq!(servers(&start), ["acme 21", "globex 22", "hooli 14"]);
    assert_eq!((start.inputs.as_ref().unwrap().policy.gateway.limits.flows, start.lines().len()), (16384, 0));
}

#[test]
fn first_ipv6_server_without_an_ipv6_table_is_refused_alone() {
    let folder = Folder::new();
    let before = folder.first();
    change_others(&folder);
    folder.write_gateway(|text| text.replace("\"10.200.0.0/24\"", "[\"10.200.0.0/24\", \"fd00:200::/64\"]"));
    folder.write(
        "acme",
        &customer("acme", 11).replace("\"10.200.0.11\"", "[\"10.200.0.21\", \"fd00:200::11\"]"),
    );
    let reading = folder.reload_and_start(&before);
    assert_eq!(servers(&reading), ["acme 11", "globex 22", "hooli 14"]);
    assert!(said(&reading, "the existing table of flows6 holds 1"), "{:?}", reading.lines());
}

#[test]
fn broken_credentials_keep_the_former_ones_and_apply_the_rest() {
    let folder = Folder::new();
    let before = folder.first();
    change_others(&folder);
    fs::write(folder.path("gateway.crt"), "broken").unwrap();
    let reading = folder.reload(&before);
    assert_eq!(servers(&reading), ["acme 11", "globex 22", "hooli 14"]);
    assert!(reading.inputs.as_ref().unwrap().credentials == before.credentials);
    assert!(said(&reading, "gateway.crt: error: the gateway's certificate"), "{:?}", reading.lines());
    assert!(!said(&reading, "[ipsec] changed"), "{:?}", reading.lines());
}

#[test]
fn new_identity_without_credentials_keeps_the_former_one_and_applies_the_rest() {
    let folder = Folder::new();
    let before = folder.first();
    change_others(&folder);
    folder.write_gateway(|text| text.replace("gateway.example", "new.example") + "[timeouts]\nclose = 7\n");
    // The former identity is not free as long as it is in force.
    folder.write("umbrella", &customer("umbrella", 15).replace("berlin.umbrella.example", "gateway.example"));
    let reading = folder.reload_and_start(&before);
    assert_eq!(servers(&reading), ["acme 11", "globex 22", "hooli 14"]);
    let inputs = reading.inputs.as_ref().unwrap();
    assert_eq!(inputs.policy.gateway.ipsec, before.policy.gateway.ipsec);
    assert_eq!(inputs.policy.gateway.timeouts.close.as_secs(), 7);
    assert!(inputs.credentials == before.credentials);
    assert!(said(&reading, "[ipsec] changed, but its files have faults"), "{:?}", reading.lines());
    assert!(said(&reading, "`gateway.example` belongs to the gateway"), "{:?}", reading.lines());
}

#[test]
fn removal_applies_whatever_else_is_refused() {
    let folder = Folder::new();
    let before = folder.first();
    folder.remove("initech");
    folder.write("acme", &format!("max_flows = 9999\n{}", customer("acme", 11)));
    folder.write("globex", "server = ");
    fs::remove_file(folder.path("gateway.key")).unwrap();
    let change = |text: String| text.replace("\"lan\"", "\"lan2\"").replace("tunnels = 32", "tunnels = 2");
    folder.write_gateway(change);
    let reading = folder.reload(&before);
    assert_eq!(servers(&reading), ["acme 11", "globex 12"]);
    folder.write_gateway(|_| "nonsense".into());
    assert_eq!(servers(&folder.reload(&before)), ["acme 11", "globex 12"]);
}

#[test]
fn start_keeps_the_last_good_version_of_a_faulty_customer_and_starts_the_others() {
    let folder = Folder::new();
    let before = folder.first();
    change_others(&folder);
    folder.write("acme", "server = ");
    folder.write("umbrella", "server = ");
    let reading = folder.reload_and_start(&before);
    assert_eq!(servers(&reading), ["acme 11", "globex 22", "hooli 14"]);
    assert!(said(&reading, "customers whose last good version is in force (1): acme"));
    assert!(said(&reading, "customers without a good version, not served (1): umbrella"));
    // The next start still has it, and once more without a change.
    let (again, inputs) =
        (folder.start_after(reading.inputs.as_ref().unwrap(), None), reading.inputs.unwrap());
    assert_eq!(servers(&again), ["acme 11", "globex 22", "hooli 14"]);
    assert_eq!(again.inputs.unwrap().last_good(), inputs.last_good());
}

#[test]
fn first_start_serves_those_without_faults() {
    let folder = Folder::new();
    folder.write("acme", "server = ");
    let reading = folder.start(&LastGood::default(), None);
    assert_eq!(servers(&reading), ["globex 12", "initech 13"]);
    assert!(said(&reading, "not served (1): acme"), "{:?}", reading.lines());
}

#[test]
fn start_keeps_the_last_good_gateway_part() {
    let folder = Folder::new();
    let before = folder.first();
    change_others(&folder);
    folder.write_gateway(|_| "nonsense".into());
    let reading = folder.reload_and_start(&before);
    assert_eq!(servers(&reading), ["acme 11", "globex 22", "hooli 14"]);
    assert!(said(&reading, "gateway.toml: the last good version is in force"), "{:?}", reading.lines());
    assert_eq!(reading.inputs.unwrap().texts.gateway, before.texts.gateway);
}

#[test]
fn start_without_anything_of_a_gateway_part_has_no_inputs() {
    let folder = Folder::new();
    let before = folder.first();
    folder.write_gateway(|_| "nonsense".into());
    let reading = folder.start(&LastGood::default(), None);
    assert!(reading.inputs.is_none() && !reading.is_unlisted);
    // A last good version that is not good does not count.
    let mut last_good = before.last_good();
    last_good.texts.gateway = Some("[interfaces]".into());
    assert!(folder.start(&last_good, None).inputs.is_none());
}

#[test]
fn start_does_not_bring_back_who_was_removed() {
    let folder = Folder::new();
    let before = folder.first();
    folder.remove("acme");
    folder.write("globex", "server = ");
    let reading = folder.reload_and_start(&before);
    assert_eq!(servers(&reading), ["globex 12", "initech 13"]);
    // The site that is gone from a valid file does not come back with a faulty one.
    let texts = &reading.inputs.as_ref().unwrap().last_good().texts;
    assert!(!texts.customers.contains_key(&"acme".parse().unwrap()));
}

#[test]
fn last_good_version_in_conflict_with_new_files_ends_as_at_a_reload() {
    let folder = Folder::new();
    let before = folder.first();
    folder.write("acme", "server = ");
    // Each claims something of acme's last good version.
    folder.write("globex", &customer("globex", 11));
    folder.write("hooli", &customer("hooli", 14).replace("berlin.hooli", "berlin.acme"));
    let reading = folder.reload_and_start(&before);
    assert_eq!(servers(&reading), ["acme 11", "globex 12", "initech 13"]);
    // A gateway part with another cloud LAN cannot hold the last good version.
    folder.write_gateway(|text| text.replace("10.200.0.0/24", "10.201.0.0/24"));
    assert_eq!(servers(&folder.reload_and_start(&before)), ["acme 11", "globex 12", "initech 13"]);
}

#[test]
fn hostile_last_good_policy_is_checked_like_files() {
    let folder = Folder::new();
    let mut last_good = folder.first().last_good();
    for name in NAMES {
        folder.write(name, "server = ");
    }
    let mut put = |name: &str, text: String| {
        last_good.texts.customers.insert(name.parse().unwrap(), Arc::from(text));
    };
    put("acme", customer("acme", 11).replace("10.200.0.11", "10.99.0.11"));
    put("globex", customer("globex", 13));
    put("initech", customer("initech", 13));
    // The file is faulty, too, and its text lets any peer in.
    put("hooli", customer("hooli", 14).replace("berlin.hooli.example", "%any"));
    folder.write("hooli", "server = ");
    // Nobody's file, so nobody.
    put("umbrella", customer("umbrella", 15));
    folder.write("wonka", &customer("wonka", 16));
    let reading = folder.start(&last_good, None);
    assert_eq!(servers(&reading), ["wonka 16"]);
}

#[test]
fn folder_of_customers_that_is_missing_ends_nobody() {
    let folder = Folder::new();
    let before = folder.first();
    fs::rename(folder.path("policies/customers"), folder.path("away")).unwrap();
    let reading = folder.reload_and_start(&before);
    assert_eq!(servers(&reading), ["acme 11", "globex 12", "initech 13"]);
    // The whole folder, as if nothing were mounted.
    fs::rename(folder.path("policies"), folder.path("away too")).unwrap();
    assert_eq!(servers(&folder.reload_and_start(&before)), ["acme 11", "globex 12", "initech 13"]);
    let hopeless = folder.start(&LastGood::default(), None);
    assert!(hopeless.inputs.is_none() && !hopeless.is_unlisted);
    // Without a last good policy, nobody knows who the customers are.
    fs::rename(folder.path("away too"), folder.path("policies")).unwrap();
    let unknown = folder.start(&LastGood::default(), None);
    assert!(unknown.inputs.is_none() && unknown.is_unlisted);
}

#[test]
fn start_that_would_remove_everybody_is_held_back() {
    let folder = Folder::new();
    let before = folder.first();
    fs::rename(folder.path("policies/customers"), folder.path("away")).unwrap();
    fs::create_dir(folder.path("policies/customers")).unwrap();
    let held = "they would remove 3 of 3 customers (acme, globex, initech)";
    let reload = folder.reload(&before);
    assert!(reload.inputs.is_none() && reload.held_back.is_some() && said(&reload, held));
    let start = folder.start_after(&before, None);
    assert!(start.held_back.is_some() && said(&start, held), "{:?}", start.lines());
    assert_eq!(servers(&start), ["acme 11", "globex 12", "initech 13"]);
    let inputs = start.inputs.unwrap();
    assert_eq!((&inputs.policy.customers, &inputs.texts), (&before.policy.customers, &before.texts));
    assert!(inputs.credentials == before.credentials);
    // It is the operator's word.
    folder.write_gateway(|text| text + "[reload]\nmax_removed_percent = 100\n");
    let start = folder.start_after(&before, None);
    assert!(start.held_back.is_none() && servers(&start).is_empty());
}

#[test]
fn approval_lets_exactly_the_removals_through_that_were_held_back() {
    let folder = Folder::new();
    for (name, server) in ["c1", "c2", "c3", "c4", "c5", "c6", "c7", "c8", "c9"].iter().zip(21..) {
        folder.write(name, &customer(name, server));
    }
    let before = folder.first();
    (1..=9).for_each(|n| folder.remove(&format!("c{n}")));
    folder.remove("acme");
    let held_back = folder.reload(&before).held_back.unwrap();
    let reload = |approved| before.reload(&folder.path("policies"), TABLES, approved);
    assert_eq!(servers(&reload(Some(&held_back))), ["globex 12", "initech 13"]);
    assert!(reload(None).inputs.is_none());
    // Somebody came back meanwhile: fewer removals are approved, too.
    folder.write("acme", &customer("acme", 11));
    folder.write_gateway(|text| text + "[reload]\nmax_removed_percent = 1\n");
    assert!(reload(Some(&held_back)).inputs.is_some());
    // Somebody else is gone meanwhile.
    folder.remove("acme");
    folder.remove("initech");
    let reading = reload(Some(&held_back));
    assert!(reading.inputs.is_none() && reading.held_back.is_some_and(|removals| removals != held_back));
}

#[test]
fn start_with_broken_credentials_has_none_and_serves_everybody() {
    let folder = Folder::new();
    let before = folder.first();
    change_others(&folder);
    fs::write(folder.path("gateway.key"), "broken").unwrap();
    for last_good in [before.last_good(), LastGood::default()] {
        let reading = folder.start(&last_good, None);
        assert_eq!(servers(&reading), ["acme 11", "globex 22", "hooli 14"]);
        let inputs = reading.inputs.as_ref().unwrap();
        assert!(inputs.credentials.is_none() && inputs.setup().is_none());
        assert!(said(&reading, "charon keeps those that it has"), "{:?}", reading.lines());
        // Mended.
        folder.issue("gateway.example", 9);
        let mended = folder.reload(inputs);
        assert!(mended.inputs.as_ref().unwrap().setup().is_some() && mended.lines().is_empty());
        fs::write(folder.path("gateway.key"), "broken").unwrap();
    }
}

#[test]
fn start_takes_an_expired_certificate_and_a_reload_keeps_a_valid_one() {
    let folder = Folder::new();
    let before = folder.first();
    folder.issue("gateway.example", -1);
    let (reload, start) = (folder.reload(&before), folder.start_after(&before, None));
    assert!(said(&reload, "expired") && said(&start, "expired"));
    assert!(reload.inputs.unwrap().credentials == before.credentials);
    let started = start.inputs.unwrap();
    assert!(started.credentials.is_some() && started.credentials != before.credentials);
    assert!(!said(&folder.start(&LastGood::default(), None), "charon keeps"));
}

#[test]
fn last_good_policy_has_no_secret() {
    let folder = Folder::new();
    folder.first().last_good().write(&folder.path("state")).unwrap();
    let kept = fs::read_to_string(folder.path("state").join(crate::last_good::FILE)).unwrap();
    assert!(kept.contains("gateway.key") && !kept.contains("PRIVATE") && !kept.contains("BEGIN"));
}
