//! The versions that are in force after conflicts, against a model that checks everything again and again.
use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::GATEWAY;
use crate::policy::conflicts::{limit_conflicts, own_conflicts};
use crate::policy::document::{CustomerDocument, GatewayDocument};
use crate::policy::fault::{Faults, Source};
use crate::policy::resolve::{Candidate, resolve};
use crate::policy::{Customer, CustomerName};

const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

/// A version of a customer: server, identity and quota.
type Version = (u8, u8, u8);

/// Reads a version. Servers 0 to 3 are in the smaller cloud LAN, 4 to 7 in the larger one alone.
fn document(name: &str, (server, identity, flows): Version) -> CustomerDocument {
    let text = format!(
        "server = \"10.200.{}.{}\"\nmax_flows = {}\n[[site]]\nname = \"s\"\nidentity = \"i{identity}.example\"\n\
         lan = [\"192.168.0.0/16\"]\n",
        server / 4,
        server % 4 + 1,
        u32::from(flows) * 10 + 10
    );
    let source = Source { path: format!("{name}.toml").into(), text: Some(text.into()) };
    let (document, faults) = CustomerDocument::read(source, name.parse().unwrap());
    assert!(faults.is_empty());
    document
}

fn gateway(cloud_lan: &str, flows: u32) -> GatewayDocument {
    let text = GATEWAY.replace("10.200.0.0/24", cloud_lan);
    let text = format!("{text}[limits]\ntunnels = 5\ncustomers = 5\nflows = {flows}\n");
    let (document, faults) =
        GatewayDocument::read(Source { path: "gateway.toml".into(), text: Some(text.into()) });
    assert!(faults.is_empty());
    document
}

/// Reverts new versions that take part in a conflict, and then checks everything again: limits once nothing else
/// is in conflict.
fn model(
    gateway: &GatewayDocument,
    new: &BTreeMap<CustomerName, CustomerDocument>,
    kept: &BTreeMap<CustomerName, CustomerDocument>,
) -> Option<BTreeMap<CustomerName, Customer>> {
    let mut reverted = BTreeSet::new();
    loop {
        let names: BTreeSet<&CustomerName> = new.keys().chain(kept.keys()).collect();
        let changed = |name: &CustomerName| new.contains_key(name) && !reverted.contains(name);
        let mut names: Vec<&CustomerName> = names.into_iter().collect();
        names.sort_by_key(|name| (changed(name), !kept.contains_key(*name)));
        let chosen = |name: &CustomerName| if changed(name) { new.get(name) } else { kept.get(name) };
        let chosen: Vec<&CustomerDocument> = names.iter().filter_map(|name| chosen(name)).collect();
        let conflicts = match own_conflicts(gateway, &chosen) {
            own if own.is_empty() => limit_conflicts(gateway, &chosen, &|name| kept.get(name)),
            own => own,
        };
        if conflicts.is_empty() {
            let values = chosen.into_iter().filter_map(|document| document.value.clone());
            return Some(values.map(|customer| (customer.name.clone(), customer)).collect());
        }
        let parties: BTreeSet<CustomerName> =
            conflicts.into_iter().flat_map(|conflict| conflict.parties).collect();
        let yielding: Vec<CustomerName> = parties.into_iter().filter(|name| changed(name)).collect();
        if yielding.is_empty() {
            return None;
        }
        reverted.extend(yielding);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2048, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn conflicts_end_as_if_everything_were_checked_again(
        versions in prop::collection::vec(
            (prop::option::of((0u8..8, 0u8..8, 0u8..4)), prop::option::of((0u8..8, 0u8..8, 0u8..4))), 6),
        small in prop::bool::ANY,
        flows in 60u32..200,
    ) {
        let mut kept = BTreeMap::new();
        let mut new = BTreeMap::new();
        for (name, (old, changed)) in NAMES.iter().zip(&versions) {
            if let Some(version) = old {
                kept.insert(name.parse::<CustomerName>().unwrap(), document(name, *version));
            }
            if let Some(version) = changed {
                new.insert(name.parse::<CustomerName>().unwrap(), document(name, *version));
            }
        }
        // The versions in force have no conflict with one another.
        let force = model(&gateway("10.200.0.0/16", flows), &kept, &BTreeMap::new()).unwrap();
        kept.retain(|name, _| force.contains_key(name));
        let gateway = gateway(if small { "10.200.0.0/24" } else { "10.200.0.0/16" }, flows);
        let names: BTreeSet<&CustomerName> = kept.keys().chain(new.keys()).collect();
        let candidates = names.into_iter().map(|name| (name, Candidate { new: new.get(name), kept: kept.get(name) }));
        let resolved = resolve(&gateway, candidates.collect(), &mut Faults::default());
        prop_assert_eq!(resolved, model(&gateway, &new, &kept));
    }
}
