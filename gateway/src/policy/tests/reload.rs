//! Reloads of partly invalid policies.
use super::{Dir, GATEWAY, customer};
use crate::policy::{Customer, Policy, Reload};

const BAD: &str = "server = 7\n";

/// Returns a directory with customers acme and globex, both valid, and its policy.
fn two() -> (Dir, Policy) {
    let dir = Dir::new();
    dir.write("customers/acme.toml", customer("10.200.0.11", "a.example", "10.1.0.0/16"));
    dir.write("customers/globex.toml", customer("10.200.0.12", "g.example", "10.1.0.0/16"));
    let policy = dir.load().unwrap();
    (dir, policy)
}

fn servers(reload: &Reload) -> Vec<String> {
    let customers = &reload.policy.as_ref().unwrap().customers;
    let server = |customer: &Customer| customer.server.addresses().next().unwrap();
    customers.values().map(|customer| format!("{} {}", customer.name, server(customer))).collect()
}

fn names(names: &std::collections::BTreeSet<crate::policy::CustomerName>) -> Vec<&str> {
    names.iter().map(|name| name.as_str()).collect()
}

#[test]
fn valid_files_are_adopted() {
    let (dir, last) = two();
    dir.write("customers/acme.toml", customer("10.200.0.21", "a.example", "10.1.0.0/16"));
    let reload = dir.reload(Some(&last));
    assert_eq!(servers(&reload), ["acme 10.200.0.21", "globex 10.200.0.12"]);
    assert_eq!(reload.policy, Some(dir.load().unwrap()));
    assert!(
        reload.faults.is_empty()
            && reload.kept.is_empty()
            && reload.refused.is_empty()
            && !reload.gateway_kept
    );
}

#[test]
fn bad_customer_keeps_its_last_good_version() {
    let (dir, last) = two();
    dir.write("customers/acme.toml", BAD);
    dir.write("customers/globex.toml", customer("10.200.0.22", "g.example", "10.1.0.0/16"));
    let reload = dir.reload(Some(&last));
    assert_eq!(servers(&reload), ["acme 10.200.0.11", "globex 10.200.0.22"]);
    assert_eq!((names(&reload.kept), names(&reload.refused)), (vec!["acme"], vec![]));
    assert_eq!(reload.faults.len(), 2);
}

#[test]
fn bad_customer_without_last_good_version_is_refused() {
    let (dir, _) = two();
    dir.write("customers/acme.toml", BAD);
    let reload = dir.reload(None);
    assert_eq!(servers(&reload), ["globex 10.200.0.12"]);
    assert_eq!((names(&reload.kept), names(&reload.refused)), (vec![], vec!["acme"]));
}

#[test]
fn removed_customer_is_gone() {
    let (dir, last) = two();
    dir.remove("customers/acme.toml");
    let reload = dir.reload(Some(&last));
    assert_eq!(servers(&reload), ["globex 10.200.0.12"]);
    assert!(reload.faults.is_empty() && reload.refused.is_empty());
}

#[test]
fn directory_that_cannot_be_listed_removes_nobody() {
    let (dir, last) = two();
    std::fs::remove_dir_all(dir.path("customers")).unwrap();
    let reload = dir.reload(Some(&last));
    assert_eq!(reload.policy, Some(last));
    assert_eq!(names(&reload.kept), ["acme", "globex"]);
    assert_eq!(reload.faults.len(), 1);
}

#[test]
fn bad_gateway_part_keeps_the_last_good_one() {
    let (dir, last) = two();
    dir.write("gateway.toml", "nonsense");
    dir.write("customers/acme.toml", customer("10.200.0.21", "a.example", "10.1.0.0/16"));
    let reload = dir.reload(Some(&last));
    assert!(reload.gateway_kept);
    assert_eq!(reload.policy.as_ref().unwrap().gateway, last.gateway);
    assert_eq!(servers(&reload), ["acme 10.200.0.21", "globex 10.200.0.12"]);
}

#[test]
fn bad_gateway_part_at_the_start_leaves_no_policy() {
    let (dir, _) = two();
    dir.write("gateway.toml", "nonsense");
    let reload = dir.reload(None);
    assert_eq!(reload.policy, None);
    assert_eq!(names(&reload.refused), ["acme", "globex"]);
    assert!(!reload.faults.is_empty());
}

#[test]
fn two_changed_customers_in_conflict_both_keep_their_last_good_version() {
    let (dir, last) = two();
    dir.write("customers/acme.toml", customer("10.200.0.33", "a.example", "10.1.0.0/16"));
    dir.write("customers/globex.toml", customer("10.200.0.33", "g.example", "10.1.0.0/16"));
    let reload = dir.reload(Some(&last));
    assert_eq!(reload.policy, Some(last));
    assert_eq!(names(&reload.kept), ["acme", "globex"]);
}

#[test]
fn two_new_customers_in_conflict_are_both_refused() {
    let (dir, _) = two();
    dir.write("customers/globex.toml", customer("10.200.0.11", "g.example", "10.1.0.0/16"));
    dir.write("customers/initech.toml", customer("10.200.0.13", "i.example", "10.1.0.0/16"));
    let reload = dir.reload(None);
    assert_eq!(servers(&reload), ["initech 10.200.0.13"]);
    assert_eq!(names(&reload.refused), ["acme", "globex"]);
}

#[test]
fn new_customer_in_conflict_with_an_unchanged_one_is_refused() {
    let (dir, last) = two();
    // The name sorts first, so order alone would favour it.
    dir.write("customers/aaa.toml", customer("10.200.0.11", "x.example", "10.1.0.0/16"));
    let reload = dir.reload(Some(&last));
    assert_eq!(reload.policy, Some(last));
    assert_eq!((names(&reload.kept), names(&reload.refused)), (vec![], vec!["aaa"]));
    assert_eq!(reload.faults.len(), 1);
}

#[test]
fn new_customer_in_conflict_with_a_kept_version_is_refused_with_a_fault() {
    let (dir, last) = two();
    dir.write("customers/acme.toml", BAD);
    dir.write("customers/initech.toml", customer("10.200.0.11", "i.example", "10.1.0.0/16"));
    let reload = dir.reload(Some(&last));
    assert_eq!(reload.policy, Some(last));
    assert_eq!(names(&reload.refused), ["initech"]);
    let expected = "customers/initech.toml:1:10: `10.200.0.11` is the server of customer `acme`, \
                    see the last good version of customers/acme.toml";
    assert!(dir.short(&reload.faults).iter().any(|fault| fault == expected), "{}", reload.faults);
}

#[test]
fn customer_takes_over_a_server_only_once_the_other_has_released_it() {
    let (dir, last) = two();
    // globex moves to acme's old server and acme moves away from it: no conflict.
    dir.write("customers/acme.toml", customer("10.200.0.21", "a.example", "10.1.0.0/16"));
    dir.write("customers/globex.toml", customer("10.200.0.11", "g.example", "10.1.0.0/16"));
    assert_eq!(servers(&dir.reload(Some(&last))), ["acme 10.200.0.21", "globex 10.200.0.11"]);
    // The same, but acme's new file is invalid, so globex must stay.
    dir.write("customers/acme.toml", BAD);
    assert_eq!(dir.reload(Some(&last)).policy, Some(last));
}

#[test]
fn gateway_part_that_breaks_unchanged_customers_is_not_adopted() {
    let (dir, last) = two();
    dir.write("gateway.toml", GATEWAY.replace("10.200.0.0/24", "10.201.0.0/24"));
    let reload = dir.reload(Some(&last));
    assert!(reload.gateway_kept);
    assert_eq!(reload.policy, Some(last));
    assert!(reload.kept.is_empty());
    assert_eq!(reload.faults.len(), 2);
}

#[test]
fn new_customers_beyond_a_limit_are_refused() {
    let (dir, _) = two();
    dir.write("gateway.toml", format!("{GATEWAY}[limits]\ntunnels = 2\n"));
    let last = dir.load().unwrap();
    dir.write("customers/aaa.toml", customer("10.200.0.13", "x.example", "10.1.0.0/16"));
    let reload = dir.reload(Some(&last));
    assert_eq!(reload.policy, Some(last));
    assert_eq!(names(&reload.refused), ["aaa"]);
    assert_eq!(reload.faults.len(), 1);
}
