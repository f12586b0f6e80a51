//! Properties that hold for any text.
use std::path::PathBuf;

use proptest::prelude::*;

use super::{GATEWAY, customer};
use crate::policy::conflicts::conflicts;
use crate::policy::document::{CustomerDocument, GatewayDocument};
use crate::policy::fault::Source;
use crate::policy::prefix::{is_v4, overlap};
use crate::policy::{Customer, Fault, Identity, InterfaceName, MAX_LAN_PREFIXES};

fn source(text: &str) -> Source {
    Source { path: PathBuf::from("policies/x.toml"), text: Some(text.into()) }
}

fn read_customer(name: &str, text: &str) -> (CustomerDocument, Vec<Fault>) {
    CustomerDocument::read(source(text), name.parse().unwrap())
}

/// Reads the text as either kind of file and checks that every fault is printable and lies within it.
fn check(text: &str) {
    let (gateway, mut faults) = GatewayDocument::read(source(text));
    let (customer, more) = read_customer("acme", text);
    assert_eq!(customer.value.is_none(), !more.is_empty());
    faults.extend(more);
    faults.extend(conflicts(&gateway, &[&customer, &customer]).into_iter().map(|conflict| conflict.fault()));
    for fault in &faults {
        assert!(!fault.to_string().contains(|c: char| c.is_control() && c != '\n'));
        if let Some(position) = fault.position {
            let line = text.split('\n').nth(position.line - 1).expect("a line of the text");
            assert!((1..=line.chars().count() + 1).contains(&position.column));
        }
    }
    if let Some(customer) = &customer.value {
        check_customer(customer);
    }
}

fn check_customer(customer: &Customer) {
    assert!(customer.port != 0 && !customer.sites.is_empty());
    let lans: Vec<_> = customer.sites.iter().flat_map(|site| &site.lan).collect();
    for (i, lan) in lans.iter().enumerate() {
        let least = if is_v4(lan) { 8 } else { 16 };
        assert!(lan.prefix_len() >= least && lan.trunc() == **lan);
        assert!(customer.server.addresses().any(|server| server.is_ipv4() == is_v4(lan)));
        assert!(lans[..i].iter().all(|other| !overlap(lan, other)));
    }
    for (i, site) in customer.sites.iter().enumerate() {
        let v4 = site.lan.iter().filter(|lan| is_v4(lan)).count();
        assert!(!site.lan.is_empty());
        assert!(v4 <= MAX_LAN_PREFIXES && site.lan.len() - v4 <= MAX_LAN_PREFIXES);
        assert!(customer.sites[..i].iter().all(|other| other.name != site.name));
    }
}

/// Generates prefixes that often overlap, are equal or have host bits set.
fn any_prefix() -> impl Strategy<Value = String> {
    prop_oneof![
        (0u8..4, 0u8..3, prop_oneof![Just(0u8), Just(128)], 7u8..=32)
            .prop_map(|(b, c, d, length)| format!("10.{b}.{c}.{d}/{length}")),
        (0u8..4, 0u8..3, prop_oneof![Just(0u8), Just(1)], 15u8..=128)
            .prop_map(|(b, c, d, length)| format!("fd00:{b}:{c}::{d}/{length}")),
    ]
}

/// Generates customers as an operator would write them, often valid and often not.
fn any_customer() -> impl Strategy<Value = String> {
    let site = ("[ab]", "[ab]\\.example", prop::collection::vec(any_prefix(), 0..6));
    let server = prop_oneof![
        (0u8..3).prop_map(|server| format!("\"10.200.0.{server}\"")),
        (0u8..3).prop_map(|server| format!("\"fd00:200::{server}\"")),
        (0u8..3, 0u8..3).prop_map(|(v4, v6)| format!("[\"10.200.0.{v4}\", \"fd00:200::{v6}\"]")),
    ];
    (server, prop::collection::vec(site, 0..4)).prop_map(|(server, sites)| {
        let mut text = format!("server = {server}\n");
        for (name, identity, lan) in sites {
            text += &format!("[[site]]\nname = \"{name}\"\nidentity = \"{identity}\"\nlan = {lan:?}\n");
        }
        text
    })
}

/// Generates a valid text with one piece of it replaced.
fn any_mutation() -> impl Strategy<Value = String> {
    let texts = [GATEWAY.to_owned(), customer("10.200.0.11", "a.example", "10.1.0.0/16")];
    let piece = prop_oneof![".{0,4}", "[\\[\\]{}=\",.#\n0-9a-z\\\\-]{0,6}"];
    (prop::sample::select(texts.to_vec()), any::<prop::sample::Index>(), 0usize..12, piece).prop_map(
        |(text, at, length, piece)| {
            let start = at.index(text.len());
            let end = (start + length).min(text.len());
            format!("{}{piece}{}", &text[..start], &text[end..])
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1024, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_gives_faults_or_a_policy(text in "(?s).{0,200}") {
        check(&text);
    }

    #[test]
    fn any_mutation_gives_faults_or_a_policy(text in any_mutation()) {
        check(&text);
    }

    #[test]
    fn valid_documents_obey_the_rules(texts in prop::collection::vec(any_customer(), 3)) {
        let both = GATEWAY.replace("\"10.200.0.0/24\"", "[\"10.200.0.0/24\", \"fd00:200::/120\"]");
        let (gateway, faults) = GatewayDocument::read(source(&both));
        prop_assert!(faults.is_empty());
        let documents: Vec<_> =
            texts.iter().zip(["a", "b", "c"]).map(|(text, name)| read_customer(name, text).0).collect();
        let good: Vec<_> = documents.iter().filter(|document| document.value.is_some()).collect();
        let valid = conflicts(&gateway, &good).is_empty();
        let customers: Vec<&Customer> = good.iter().filter_map(|document| document.value.as_ref()).collect();
        // Check the rules independently, by comparing everything with everything.
        let cloud_lan = gateway.value.as_ref().unwrap().cloud_lan.clone();
        let mut servers: Vec<_> = customers.iter().flat_map(|customer| customer.server.addresses()).collect();
        let mut identities: Vec<_> =
            customers.iter().flat_map(|customer| &customer.sites).map(|site| site.identity.clone()).collect();
        // In IPv6 the network address is the subnet-router anycast address.
        let is_host = |server: &std::net::IpAddr| {
            cloud_lan.iter().any(|lan| lan.hosts().any(|host| host == *server && host != lan.network()))
        };
        let hosts = servers.iter().all(is_host);
        let mut lans = customers.iter().flat_map(|c| &c.sites).flat_map(|s| &s.lan);
        let apart = lans.all(|lan| !cloud_lan.iter().any(|cloud_lan| overlap(lan, cloud_lan)));
        let counts = (servers.len(), identities.len());
        servers.sort();
        servers.dedup();
        identities.sort();
        identities.dedup();
        let distinct = counts == (servers.len(), identities.len());
        prop_assert_eq!(valid, hosts && apart && distinct);
        customers.into_iter().for_each(check_customer);
    }

    #[test]
    fn identity_has_nothing_that_strongswan_interprets(text in "[a-z0-9.*%@#=:/{}-]{0,20}") {
        if let Ok(identity) = text.parse::<Identity>() {
            let special = "*%@#=:/{} ,";
            prop_assert!(!identity.as_str().contains(|c| special.contains(c)));
            prop_assert!(identity.as_str().parse::<std::net::IpAddr>().is_err());
            prop_assert!(identity.as_str().ends_with(|c: char| c.is_ascii_alphanumeric()));
        }
    }

    #[test]
    fn interface_name_is_one_that_the_kernel_accepts(text in "(?s).{0,20}") {
        if let Ok(name) = text.parse::<InterfaceName>() {
            let name = name.as_str();
            prop_assert!((1..16).contains(&name.len()) && name != "." && name != "..");
            prop_assert!(!name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace()));
        }
    }
}
