//! Rules that concern several files.
use std::collections::BTreeMap;

use super::document::{CustomerDocument, GatewayDocument};
use super::fault::{Fault, Invalid};
use super::prefix::overlap;
use super::{CustomerName, Limits};

/// Documents that cannot all be in force.
pub(super) struct Conflict {
    /// The customers of which at least one has to yield.
    pub parties: Vec<CustomerName>,
    pub fault: Fault,
}

/// All conflicts. Of two documents in conflict the later in order gets the fault; customers beyond
/// a limit are the last in order.
pub(super) fn conflicts(gateway: &GatewayDocument, customers: &[&CustomerDocument]) -> Vec<Conflict> {
    let mut conflicts = Vec::new();
    for customer in customers {
        check_server(gateway, customer, &mut conflicts);
        check_lans(gateway, customer, &mut conflicts);
    }
    check_servers_differ(customers, &mut conflicts);
    check_identities_differ(gateway, customers, &mut conflicts);
    // Limits that could not be read say nothing.
    if let Some(limits) = gateway.value.as_ref().map(|value| value.limits) {
        check_limits(gateway, limits, customers, &mut conflicts);
    }
    conflicts
}

fn check_server(gateway: &GatewayDocument, customer: &CustomerDocument, conflicts: &mut Vec<Conflict>) {
    let (Some(cloud_lan), Some(server)) = (&gateway.cloud_lan, &customer.server) else {
        return;
    };
    let (cloud_lan, address) = (cloud_lan.get_ref(), server.get_ref());
    let message = if !cloud_lan.contains(address) {
        format!("the server `{address}` is outside the cloud LAN `{cloud_lan}`")
    } else if *address == cloud_lan.network() {
        format!("the server `{address}` is the network address of the cloud LAN `{cloud_lan}`")
    } else if *address == cloud_lan.broadcast() {
        format!("the server `{address}` is the broadcast address of the cloud LAN `{cloud_lan}`")
    } else {
        return;
    };
    let expected = format!("a host's address in `{cloud_lan}`");
    let fault = customer.source.fault_at(server.span(), Invalid::new(message, expected));
    conflicts.push(Conflict { parties: vec![customer.name.clone()], fault });
}

fn check_lans(gateway: &GatewayDocument, customer: &CustomerDocument, conflicts: &mut Vec<Conflict>) {
    let Some(cloud_lan) = gateway.cloud_lan.as_ref().map(|prefix| prefix.get_ref()) else {
        return;
    };
    for lan in customer.sites.iter().flat_map(|site| &site.lan) {
        if overlap(cloud_lan, lan.get_ref()) {
            let message = format!("`{}` overlaps the cloud LAN `{cloud_lan}`", lan.get_ref());
            let invalid = Invalid::new(message, "the prefix of a LAN that is the customer's own");
            let fault = customer.source.fault_at(lan.span(), invalid);
            conflicts.push(Conflict { parties: vec![customer.name.clone()], fault });
        }
    }
}

fn check_servers_differ(customers: &[&CustomerDocument], conflicts: &mut Vec<Conflict>) {
    let mut owners = BTreeMap::new();
    for customer in customers {
        let Some(server) = &customer.server else {
            continue;
        };
        let Some((owner, place)) = owners.get(server.get_ref()) else {
            owners.insert(server.get_ref(), (&customer.name, customer.source.place(server.span())));
            continue;
        };
        let message = format!("`{}` is the server of customer `{owner}`, see {place}", server.get_ref());
        let invalid = Invalid::new(message, "a server that no other customer has");
        let fault = customer.source.fault_at(server.span(), invalid);
        conflicts.push(Conflict { parties: vec![(*owner).clone(), customer.name.clone()], fault });
    }
}

fn check_identities_differ(
    gateway: &GatewayDocument,
    customers: &[&CustomerDocument],
    conflicts: &mut Vec<Conflict>,
) {
    let mut owners = BTreeMap::new();
    if let Some(identity) = &gateway.identity {
        owners.insert(identity.get_ref(), (None, gateway.source.place(identity.span())));
    }
    for customer in customers {
        for identity in customer.sites.iter().filter_map(|site| site.identity.as_ref()) {
            let Some((owner, place)) = owners.get(identity.get_ref()) else {
                let place = customer.source.place(identity.span());
                owners.insert(identity.get_ref(), (Some(&customer.name), place));
                continue;
            };
            let whose = match owner {
                None => "the gateway's".to_owned(),
                Some(owner) => format!("that of another site, of customer `{owner}`"),
            };
            let message = format!("the identity `{}` is {whose}, see {place}", identity.get_ref());
            let invalid = Invalid::new(message, "an identity that no other site has, nor the gateway");
            let fault = customer.source.fault_at(identity.span(), invalid);
            let parties = owner.iter().map(|owner| (*owner).clone()).chain([customer.name.clone()]).collect();
            conflicts.push(Conflict { parties, fault });
        }
    }
}

fn check_limits(
    gateway: &GatewayDocument,
    limits: Limits,
    customers: &[&CustomerDocument],
    conflicts: &mut Vec<Conflict>,
) {
    let fault = |written: &Option<toml::Spanned<u32>>, key: &str, count: usize, limit: u32| {
        let message = format!("{count} {key} in the customers' files, but [limits] {key} is {limit}");
        let invalid = Invalid::new(message, format!("`{key} = {count}` or more, or fewer {key}"));
        match written {
            Some(limit) => gateway.source.fault_at(limit.span(), invalid),
            None => gateway.source.fault(invalid.message, invalid.expected),
        }
    };
    // usize is 64 bits wide wherever eBPF runs.
    let max_customers = limits.customers as usize;
    if customers.len() > max_customers {
        let parties = customers[max_customers..].iter().map(|customer| customer.name.clone()).collect();
        let fault = fault(&gateway.customers, "customers", customers.len(), limits.customers);
        conflicts.push(Conflict { parties, fault });
    }
    let mut tunnels = 0;
    let mut parties = Vec::new();
    for customer in customers {
        tunnels += customer.sites.len();
        if tunnels > limits.tunnels as usize {
            parties.push(customer.name.clone());
        }
    }
    if !parties.is_empty() {
        let fault = fault(&gateway.tunnels, "tunnels", tunnels, limits.tunnels);
        conflicts.push(Conflict { parties, fault });
    }
}
