//! The work that faults and conflicts cost, counted in lookups of positions and checks of documents.
use super::{Dir, GATEWAY, customer};
use crate::policy::Policy;
use crate::policy::document::{CustomerDocument, GatewayDocument};
use crate::policy::fault::{Source, work};

fn source(text: String) -> Source {
    Source { path: "x.toml".into(), text: Some(text.into()) }
}

/// Reads a customer's file and returns the number of its faults and of positions looked up.
fn read(text: String) -> (usize, usize) {
    work::take();
    let (_, faults) = CustomerDocument::read(source(text), "acme".parse().unwrap());
    (faults.len(), work::take())
}

#[test]
fn thousands_of_unknown_keys_are_located_64_times() {
    // Most names come after all others in order, so that each fault is the first so far.
    let keys: String = (0..20_000).map(|n| format!("k{:06} = 1\n", 999_999 - n)).collect();
    assert_eq!(read(keys), (65, 62));
}

#[test]
fn thousands_of_equal_site_names_are_located_twice_64_times() {
    let lan = |n: usize| format!("10.{}.{}.0/24", n / 256, n % 256);
    let site = |n| format!("[[site]]\nname = \"a\"\nidentity = \"a.example\"\nlan = [\"{}\"]\n", lan(n));
    let sites: String = (0..4000).map(site).collect();
    assert_eq!(read(format!("server = \"10.200.0.11\"\n{sites}")), (65, 128));
}

#[test]
fn thousands_of_overlapping_prefixes_in_one_line_are_located_twice_64_times() {
    // Prefixes in falling order: each overlap is found before those further up in the file.
    let lan = |n: usize| format!("10.{}.{}.0/24", n / 256, n % 256);
    let site = |n| format!("{{ name = \"n{n}\", identity = \"a.example\", lan = [\"{}\"] }},", lan(n));
    let sites: String = (0..4000).rev().map(site).collect();
    let wide = "{ name = \"wide\", identity = \"a.example\", lan = [\"10.0.0.0/8\"] },";
    assert_eq!(read(format!("server = \"10.200.0.11\"\nsite = [{wide}{sites}]\n")), (65, 128));
}

#[test]
fn thousands_of_management_entries_are_one_fault() {
    let entries = "{ from = 1 },".repeat(10_000);
    work::take();
    let (_, faults) = GatewayDocument::read(source(format!("{GATEWAY}[management]\nallow = [{entries}]\n")));
    assert_eq!((faults.len(), work::take()), (1, 1));
}

/// Writes `count` customers, each with the server after its own if `moved`.
fn write(dir: &Dir, count: usize, moved: bool) {
    for n in 0..count {
        let server = n + 1 + usize::from(moved);
        let server = format!("10.200.{}.{}", server / 256, server % 256);
        let text = customer(&server, &format!("c{n}.example"), "192.168.0.0/16");
        dir.write(&format!("customers/c{n:05}.toml"), text);
    }
}

/// Returns a directory with `count` customers and its policy.
fn many(count: usize) -> (Dir, Policy) {
    let dir = Dir::new();
    let limits = "[limits]\ncustomers = 10000\ntunnels = 10000\n";
    dir.write("gateway.toml", format!("{}{limits}", GATEWAY.replace("10.200.0.0/24", "10.200.0.0/16")));
    write(&dir, count, false);
    let policy = dir.load().unwrap_or_else(|faults| panic!("{faults}"));
    (dir, policy)
}

/// Moves each customer to the next one's server, but leaves the last one where it is: nobody can move.
fn chain(count: usize) -> usize {
    let (dir, policy) = many(count);
    write(&dir, count, true);
    dir.write(&format!("customers/c{:05}.toml", count - 1), "server = 7\n");
    work::take();
    let reload = dir.reload(Some(&policy));
    assert_eq!(reload.policy.as_ref(), Some(&policy));
    assert_eq!(reload.kept.len(), count);
    work::take()
}

#[test]
fn chain_of_customers_that_yield_to_one_another_costs_a_constant_time_each() {
    let (small, large) = (chain(100), chain(400));
    assert!(large <= 5 * small, "{small} for 100 customers, {large} for 400");
}

#[test]
fn wrong_cloud_lan_with_many_customers_is_linear_and_prints_a_bounded_report() {
    let wrong = |count| {
        let (dir, _) = many(count);
        let gateway = std::fs::read_to_string(dir.path("gateway.toml")).unwrap();
        dir.write("gateway.toml", gateway.replace("10.200.0.0/16", "10.201.0.0/16"));
        work::take();
        let faults = dir.load().unwrap_err();
        (faults, work::take())
    };
    let ((_, small), (faults, large)) = (wrong(100), wrong(400));
    assert!(large <= 5 * small, "{small} for 100 customers, {large} for 400");
    assert_eq!((faults.len(), faults.iter().count(), faults.lines().len()), (400, 256, 257));
    let text = faults.to_string();
    assert!(text.ends_with("144 more faults are not shown\n\n400 faults in 400 files"), "{text}");
}
