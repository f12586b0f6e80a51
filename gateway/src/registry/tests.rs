//! Ids over the life of a registry. Every step goes through the file.
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::policy::{Customer, Limits, Site, load};

struct StateDir(PathBuf);

impl StateDir {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("gateway-registry-{}-{count}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    fn path(&self) -> PathBuf {
        self.0.join("ids.toml")
    }

    /// Opens the registry, assigns ids and returns `customer.site=id` for all tunnels.
    fn assign(&self, policy: &Policy) -> Result<Vec<String>, RegistryError> {
        let assignment = Registry::open(self.path())?.assign(policy)?;
        let tunnels = |(name, ids): (&CustomerName, &CustomerIds)| {
            let name = name.clone();
            ids.tunnels.iter().map(move |(site, id)| format!("{name}.{site}={id}")).collect::<Vec<_>>()
        };
        Ok(assignment.iter().flat_map(tunnels).collect())
    }
}

impl Drop for StateDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Returns a policy with these `customer.site` names and this limit of tunnels.
fn policy(tunnels: u32, sites: &[&str]) -> Policy {
    let example = load("../policies".as_ref()).unwrap();
    let mut gateway = example.gateway;
    gateway.limits = Limits { tunnels, ..gateway.limits };
    let template = &example.customers.values().next().unwrap();
    let mut customers: BTreeMap<CustomerName, Customer> = BTreeMap::new();
    for site in sites {
        let (customer, site) = crate::policy::parse_connection_name(site).unwrap();
        let new = || Customer { name: customer.clone(), sites: Vec::new(), ..(*template).clone() };
        let sites = &mut customers.entry(customer.clone()).or_insert_with(new).sites;
        let identity = format!("{site}.{customer}.example").parse().unwrap();
        sites.push(Site { name: site, identity, ..template.sites[0].clone() });
    }
    Policy { gateway, customers }
}

#[test]
fn ids_start_at_1_and_stay() {
    let dir = StateDir::new();
    assert_eq!(dir.assign(&policy(16, &["b.x", "b.y"])).unwrap(), ["b.x=1", "b.y=2"]);
    assert_eq!(dir.assign(&policy(16, &["a.x", "b.x", "b.y"])).unwrap(), ["a.x=3", "b.x=1", "b.y=2"]);
    let registry = Registry::open(dir.path()).unwrap();
    let name = |name: &str| name.parse::<CustomerName>().unwrap();
    let assignment = registry.assignment();
    assert_eq!(assignment.customer(&name("a")).map(CustomerId::get), Some(2));
    assert_eq!(assignment.tunnel(&name("b"), &"y".parse().unwrap()).map(TunnelId::get), Some(2));
    assert_eq!(assignment.customer(&name("c")), None);
}

#[test]
fn retired_id_is_not_reused_and_returns_to_its_owner() {
    let dir = StateDir::new();
    dir.assign(&policy(16, &["a.x", "a.y"])).unwrap();
    assert_eq!(dir.assign(&policy(16, &["a.y", "a.z"])).unwrap(), ["a.y=2", "a.z=3"]);
    assert_eq!(dir.assign(&policy(16, &["a.x", "a.z"])).unwrap(), ["a.x=1", "a.z=3"]);
}

#[test]
fn longest_retired_id_is_reused_once_all_are_assigned() {
    let dir = StateDir::new();
    dir.assign(&policy(3, &["a.x", "a.y", "a.z"])).unwrap();
    dir.assign(&policy(3, &["a.x", "a.z"])).unwrap();
    dir.assign(&policy(3, &["a.z"])).unwrap();
    assert_eq!(dir.assign(&policy(3, &["a.new", "a.z"])).unwrap(), ["a.new=2", "a.z=3"]);
    // y is back, but its id was reused in the meantime.
    assert_eq!(dir.assign(&policy(3, &["a.new", "a.y", "a.z"])).unwrap(), ["a.new=2", "a.y=1", "a.z=3"]);
}

#[test]
fn returning_owner_keeps_its_id_ahead_of_a_new_one() {
    let dir = StateDir::new();
    dir.assign(&policy(2, &["a.x", "a.y"])).unwrap();
    dir.assign(&policy(2, &["a.y"])).unwrap();
    assert_eq!(dir.assign(&policy(2, &["a.new", "a.x"])).unwrap(), ["a.new=2", "a.x=1"]);
}

#[test]
fn site_with_another_identity_gets_another_id() {
    let dir = StateDir::new();
    let mut changed = policy(16, &["a.x"]);
    assert_eq!(dir.assign(&changed).unwrap(), ["a.x=1"]);
    let site = &mut changed.customers.values_mut().next().unwrap().sites[0];
    let before = std::mem::replace(&mut site.identity, "other.a.example".parse().unwrap());
    assert_eq!(dir.assign(&changed).unwrap(), ["a.x=2"]);
    changed.customers.values_mut().next().unwrap().sites[0].identity = before;
    assert_eq!(dir.assign(&changed).unwrap(), ["a.x=1"], "the former owner is back");
}

#[test]
fn plan_names_the_ids_that_another_owner_had() {
    let dir = StateDir::new();
    dir.assign(&policy(2, &["a.x", "a.y"])).unwrap();
    let registry = Registry::open(dir.path()).unwrap();
    let taken = |sites: &[&str]| {
        registry.plan(&policy(2, sites)).unwrap().taken_over.iter().map(|id| id.get()).collect::<Vec<_>>()
    };
    assert_eq!(taken(&["a.x"]), [0; 0]);
    assert_eq!(taken(&["b.x", "a.y"]), [1]);
    assert_eq!(taken(&["b.x", "b.y"]), [1, 2]);
    assert_eq!(
        Registry::open(dir.path()).unwrap().assignment(),
        registry.assignment(),
        "nothing was written"
    );
}

#[test]
fn file_without_identities_keeps_its_ids() {
    let dir = StateDir::new();
    let text = "version = 1\n[[customer]]\nid = 1\ncustomer = \"a\"\n[[tunnel]]\nid = 7\ncustomer = \"a\"\nsite = \"x\"\n";
    fs::write(dir.path(), text).unwrap();
    assert_eq!(dir.assign(&policy(16, &["a.x"])).unwrap(), ["a.x=7"]);
    assert!(fs::read_to_string(dir.path()).unwrap().contains("x.a.example"));
}

#[test]
fn exhausted_ids_are_an_error_that_changes_nothing() {
    let dir = StateDir::new();
    dir.assign(&policy(1, &["a.x"])).unwrap();
    let before = fs::read_to_string(dir.path()).unwrap();
    let mut registry = Registry::open(dir.path()).unwrap();
    let assignment = registry.assignment();
    let error = registry.assign(&policy(1, &["a.x", "a.y"])).unwrap_err();
    assert_eq!(error.to_string(), "no tunnel id is left for a.y: all 1 are in use, raise [limits] tunnels");
    assert_eq!((registry.assignment(), fs::read_to_string(dir.path()).unwrap()), (assignment, before));
}

#[test]
fn limit_below_an_id_in_use_is_an_error() {
    let dir = StateDir::new();
    dir.assign(&policy(16, &["a.x", "a.y"])).unwrap();
    let error = dir.assign(&policy(1, &["a.y"])).unwrap_err();
    assert_eq!(error.to_string(), "a.y has tunnel id 2, but [limits] tunnels is 1: raise it to at least 2");
}

#[test]
fn unchanged_policy_does_not_write_the_file() {
    let dir = StateDir::new();
    let mut registry = Registry::open(dir.path()).unwrap();
    registry.assign(&policy(16, &["a.x"])).unwrap();
    fs::remove_file(dir.path()).unwrap();
    registry.assign(&policy(16, &["a.x"])).unwrap();
    assert!(!dir.path().exists());
}

#[test]
fn file_that_cannot_be_written_is_an_error_that_changes_nothing() {
    let mut registry = Registry::open("/nonexistent/ids.toml").unwrap();
    let error = registry.assign(&policy(16, &["a.x"])).unwrap_err();
    assert!(matches!(error, RegistryError::Io { action: "write", .. }), "{error}");
    assert_eq!(registry.assignment(), Assignment::default());
}

#[test]
fn file_has_one_row_per_id() {
    let dir = StateDir::new();
    dir.assign(&policy(16, &["a.x", "b.y"])).unwrap();
    dir.assign(&policy(16, &["a.x"])).unwrap();
    let text = fs::read_to_string(dir.path()).unwrap();
    let expected = r#"version = 2

[[customer]]
id = 1
customer = "a"

[[customer]]
id = 2
customer = "b"
retired = 1

[[tunnel]]
id = 1
customer = "a"
site = "x"
identity = "x.a.example"

[[tunnel]]
id = 2
customer = "b"
site = "y"
identity = "y.b.example"
retired = 1
"#;
    assert!(text.ends_with(expected) && text.starts_with("# Ids of customers"), "{text}");
    assert_eq!(fs::read_dir(&dir.0).unwrap().count(), 1, "the temporary file is gone");
}

#[test]
fn damaged_file_is_an_error_and_stays_unchanged() {
    let customer = "[[customer]]\nid = 1\ncustomer = \"a\"\n";
    let tunnel = "[[tunnel]]\nid = 1\ncustomer = \"a\"\nsite = \"x\"\n";
    let cases = [
        (String::new(), "missing field `version`"),
        ("version = 3\n".into(), "version is 3, expected 2"),
        (
            format!("version = 2\n{customer}{tunnel}identity = \"a.example\"\n{}", tunnel.replace('1', "2")),
            "tunnel a.x has two ids",
        ),
        (format!("version = 1\n{customer}{customer}"), "two customers have id 1"),
        (format!("version = 1\n{customer}{}", customer.replace('1', "2")), "customer a has two ids"),
        (format!("version = 1\n{}", customer.replace('1', "0")), "customer a has id 0"),
        (format!("version = 1\n{tunnel}"), "tunnel a.x is in use, but its customer is not"),
        (format!("version = 1\n{customer}{tunnel}{tunnel}"), "two tunnels have id 1"),
        ("version = 1\nother = 1\n".into(), "unknown field `other`"),
        ("version = 1\n[[customer]]\nid = 1\ncustomer = \"A\"\n".into(), "contains 'A'"),
        ("version = 1\n[[customer]]\nid = 1\n".into(), "missing field `customer`"),
    ];
    for (text, reason) in cases {
        let dir = StateDir::new();
        fs::write(dir.path(), &text).unwrap();
        let error = Registry::open(dir.path()).unwrap_err();
        assert!(
            matches!(error, RegistryError::Damaged { .. }) && error.to_string().contains(reason),
            "{error}"
        );
        assert_eq!(fs::read_to_string(dir.path()).unwrap(), text);
    }
    let dir = StateDir::new();
    fs::write(dir.path(), b"\xff").unwrap();
    assert!(matches!(Registry::open(dir.path()), Err(RegistryError::Damaged { .. })));
}

#[test]
fn returning_owner_whose_id_no_table_has_gets_another_one() {
    let dir = StateDir::new();
    dir.assign(&policy(3, &["a.x", "a.y", "a.z"])).unwrap();
    dir.assign(&policy(3, &["a.x"])).unwrap();
    // Fewer tunnels now. Whoever is still in use beyond them keeps its id, which does not fit.
    assert_eq!(dir.assign(&policy(2, &["a.x", "a.z"])).unwrap(), ["a.x=1", "a.z=2"]);
    dir.assign(&policy(3, &["a.x", "a.y", "a.z"])).unwrap();
    let error = dir.assign(&policy(2, &["a.x", "a.y"])).unwrap_err();
    assert!(matches!(error, RegistryError::BeyondLimit { id: 3, limit: 2, .. }), "{error}");
}
