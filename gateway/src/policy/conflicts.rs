//! Checks of rules that span several policy files.
use std::collections::BTreeMap;
use std::path::Path;

use super::document::{CustomerDocument, GatewayDocument};
use super::draft::{Draft, Drafts};
use super::fault::{Fault, Invalid, Source, work};
use super::limits::Limits;
use super::names::CustomerName;
use super::prefix::{family, is_v4, overlap};

/// A fault in the combination of several documents.
pub(super) struct Conflict<'d> {
    /// The customers involved; at least one of them has to be left out.
    pub parties: Vec<CustomerName>,
    /// The file that has the fault.
    pub source: &'d Source,
    fault: Draft,
}

impl Conflict<'_> {
    /// Returns the fault with its position.
    pub fn fault(self) -> Fault {
        self.fault.locate(self.source)
    }
}

/// Returns the faults of the conflicts, at most 64 for each file and one that counts the others.
pub(super) fn faults_of(conflicts: Vec<Conflict>) -> Vec<Fault> {
    let mut files: BTreeMap<&Path, (&Source, Drafts)> = BTreeMap::new();
    for Conflict { source, fault, .. } in conflicts {
        files.entry(&source.path).or_insert_with(|| (source, Drafts::default())).1.push(fault);
    }
    files.into_values().flat_map(|(source, drafts)| drafts.finish(source)).collect()
}

/// Returns all conflicts. If two documents conflict, the later one gets the fault. If a limit is exceeded, the
/// last customers are the ones beyond it.
pub(super) fn conflicts<'d>(
    gateway: &'d GatewayDocument,
    customers: &[&'d CustomerDocument],
) -> Vec<Conflict<'d>> {
    let mut conflicts = own_conflicts(gateway, customers);
    conflicts.extend(limit_conflicts(gateway, customers));
    conflicts
}

/// Returns the conflicts of each customer with the gateway part and with the others, limits aside.
pub(super) fn own_conflicts<'d>(
    gateway: &'d GatewayDocument,
    customers: &[&'d CustomerDocument],
) -> Vec<Conflict<'d>> {
    work::add(customers.len());
    let mut conflicts = Vec::new();
    for customer in customers {
        check_server(gateway, customer, &mut conflicts);
        check_lans(gateway, customer, &mut conflicts);
    }
    check_servers_differ(customers, &mut conflicts);
    check_identities_differ(gateway, customers, &mut conflicts);
    conflicts
}

/// Returns the conflicts of all customers together with the limits, at most one for each limit.
pub(super) fn limit_conflicts<'d>(
    gateway: &'d GatewayDocument,
    customers: &[&'d CustomerDocument],
) -> Vec<Conflict<'d>> {
    work::add(customers.len());
    let mut conflicts = Vec::new();
    // Without readable limits there is nothing to check.
    if let Some(limits) = gateway.value.as_ref().map(|value| value.limits) {
        check_limits(gateway, limits, customers, &mut conflicts);
    }
    conflicts
}

fn check_server<'d>(
    gateway: &GatewayDocument,
    customer: &'d CustomerDocument,
    conflicts: &mut Vec<Conflict<'d>>,
) {
    // An unreadable prefix might contain any server.
    if !gateway.cloud_lan.complete {
        return;
    }
    let all = || {
        let all: Vec<String> = gateway.cloud_lan.iter().map(|prefix| format!("`{prefix}`")).collect();
        all.join(" and ")
    };
    for server in &customer.server.values {
        let address = server.get_ref();
        let cloud_lan = gateway.cloud_lan.iter().find(|prefix| prefix.contains(address));
        let message = match cloud_lan {
            None => format!("the server `{address}` is outside the cloud LAN {}", all()),
            // In IPv6 this is the subnet-router anycast address (RFC 4291, 2.6.1).
            Some(prefix) if *address == prefix.network() => {
                format!("the server `{address}` is the network address of the cloud LAN `{prefix}`")
            }
            Some(prefix) if is_v4(prefix) && *address == prefix.broadcast() => {
                format!("the server `{address}` is the broadcast address of the cloud LAN `{prefix}`")
            }
            Some(_) => continue,
        };
        let expected = match cloud_lan {
            None => format!("a host's address in {}", all()),
            Some(prefix) => format!("a host's address in `{prefix}`"),
        };
        let fault = Draft::at(server.span(), Invalid::new(message, expected));
        conflicts.push(Conflict { parties: vec![customer.name.clone()], source: &customer.source, fault });
    }
}

fn check_lans<'d>(
    gateway: &GatewayDocument,
    customer: &'d CustomerDocument,
    conflicts: &mut Vec<Conflict<'d>>,
) {
    for lan in customer.sites.iter().flat_map(|site| &site.lan) {
        let overlapped = gateway.cloud_lan.iter().find(|cloud_lan| overlap(cloud_lan, lan.get_ref()));
        if let Some(cloud_lan) = overlapped {
            let message = format!("`{}` overlaps the cloud LAN `{cloud_lan}`", lan.get_ref());
            let invalid = Invalid::new(message, "a prefix of the customer's own LAN");
            let fault = Draft::at(lan.span(), invalid);
            conflicts.push(Conflict {
                parties: vec![customer.name.clone()],
                source: &customer.source,
                fault,
            });
        }
    }
}

fn check_servers_differ<'d>(customers: &[&'d CustomerDocument], conflicts: &mut Vec<Conflict<'d>>) {
    let mut owners = BTreeMap::new();
    let servers = customers
        .iter()
        .flat_map(|customer| customer.server.values.iter().map(move |server| (*customer, server)));
    for (customer, server) in servers {
        let Some((owner, place)) = owners.get(server.get_ref()) else {
            owners.insert(server.get_ref(), (customer, server.span()));
            continue;
        };
        // The check of the file itself reports a repetition within one file.
        if owner.name == customer.name {
            continue;
        }
        let message = format!("`{}` is the server of customer `{}`", server.get_ref(), owner.name);
        let invalid = Invalid::new(message, "a server that no other customer has");
        let fault = Draft::at(server.span(), invalid).see(&owner.source, place.clone());
        let parties = vec![owner.name.clone(), customer.name.clone()];
        conflicts.push(Conflict { parties, source: &customer.source, fault });
    }
}

fn check_identities_differ<'d>(
    gateway: &'d GatewayDocument,
    customers: &[&'d CustomerDocument],
    conflicts: &mut Vec<Conflict<'d>>,
) {
    let mut owners = BTreeMap::new();
    if let Some(identity) = &gateway.identity {
        owners.insert(identity.get_ref(), (None, &gateway.source, identity.span()));
    }
    for customer in customers {
        for identity in customer.sites.iter().filter_map(|site| site.identity.as_ref()) {
            let Some((owner, source, place)) = owners.get(identity.get_ref()) else {
                owners.insert(identity.get_ref(), (Some(&customer.name), &customer.source, identity.span()));
                continue;
            };
            let holder = match owner {
                None => "the gateway".to_owned(),
                Some(owner) => format!("another site, of customer `{owner}`"),
            };
            let message = format!("the identity `{}` belongs to {holder}", identity.get_ref());
            let invalid = Invalid::new(message, "an identity that neither another site nor the gateway has");
            let fault = Draft::at(identity.span(), invalid).see(source, place.clone());
            let parties = owner.iter().map(|owner| (*owner).clone()).chain([customer.name.clone()]).collect();
            conflicts.push(Conflict { parties, source: &customer.source, fault });
        }
    }
}

fn check_limits<'d>(
    gateway: &'d GatewayDocument,
    limits: Limits,
    customers: &[&'d CustomerDocument],
    conflicts: &mut Vec<Conflict<'d>>,
) {
    let written = &gateway.limits;
    let counts = [
        ("customers", &written.customers, limits.customers, vec![1; customers.len()]),
        (
            "tunnels",
            &written.tunnels,
            limits.tunnels,
            customers.iter().map(|c| c.sites.len() as u64).collect(),
        ),
    ];
    for (key, written, limit, each) in counts {
        let count: u64 = each.iter().sum();
        let message = format!("{count} {key} in the customers' files, but [limits] {key} is {limit}");
        let invalid = Invalid::new(message, format!("`{key} = {count}` or more, or fewer {key}"));
        conflicts.extend(over_limit(gateway, written.as_ref(), limit, customers, &each, invalid));
    }
    // With too many customers, the default quotas exceed the table anyway.
    if customers.len() as u64 <= u64::from(limits.customers) {
        check_quotas(gateway, limits, customers, conflicts);
    }
}

/// Checks that each flow table holds the quotas of all customers with a server of its family. A quota
/// covers both families together, so either family alone may use all of it.
fn check_quotas<'d>(
    gateway: &'d GatewayDocument,
    limits: Limits,
    customers: &[&'d CustomerDocument],
    conflicts: &mut Vec<Conflict<'d>>,
) {
    let has_server = |customer: &CustomerDocument, v4| customer.server.iter().any(|a| a.is_ipv4() == v4);
    let flows6 = limits.flows6(customers.iter().any(|customer| has_server(customer, false)));
    let tables = [
        ("flows", true, &gateway.limits.flows, limits.flows),
        ("flows6", false, &gateway.limits.flows6, flows6),
    ];
    for (key, v4, written, limit) in tables {
        let sharing: Vec<&CustomerDocument> =
            customers.iter().copied().filter(|c| has_server(c, v4)).collect();
        let each: Vec<u64> = sharing.iter().map(|c| u64::from(c.quota.flows(&limits))).collect();
        let sum: u64 = each.iter().sum();
        let message = format!(
            "quotas sum to {sum} {} flows ({}), but [limits] {key} is {limit}",
            family(v4),
            describe_quotas(&sharing, &each)
        );
        let invalid = Invalid::new(message, format!("`{key} = {sum}` or more, or lower `max_flows`"));
        conflicts.extend(over_limit(gateway, written.as_ref(), limit, &sharing, &each, invalid));
    }
}

/// Returns text such as `acme 50000, globex 20000, 3 others 4096 each`.
fn describe_quotas(customers: &[&CustomerDocument], quotas: &[u64]) -> String {
    const MAX_NAMES: usize = 8;
    let (explicit, others): (Vec<_>, Vec<_>) =
        customers.iter().zip(quotas).partition(|(customer, _)| customer.quota.max_flows.is_some());
    let mut parts: Vec<String> = explicit
        .iter()
        .take(MAX_NAMES)
        .map(|(customer, quota)| format!("{} {quota}", customer.name))
        .collect();
    if explicit.len() > MAX_NAMES {
        parts.push(format!("{} more with `max_flows`", explicit.len() - MAX_NAMES));
    }
    match others[..] {
        [] => {}
        [(_, quota)] => parts.push(format!("1 other {quota}")),
        [(_, quota), ..] => parts.push(format!("{} others {quota} each", others.len())),
    }
    parts.join(", ")
}

/// Returns a conflict if the customers' counts `each` sum to more than `limit`.
fn over_limit<'d>(
    gateway: &'d GatewayDocument,
    written: Option<&toml::Spanned<u32>>,
    limit: u32,
    customers: &[&CustomerDocument],
    each: &[u64],
    invalid: Invalid,
) -> Option<Conflict<'d>> {
    let mut sum = 0;
    let mut parties = Vec::new();
    for (customer, count) in customers.iter().zip(each) {
        sum += count;
        if sum > u64::from(limit) {
            parties.push(customer.name.clone());
        }
    }
    let fault = match written {
        Some(limit) => Draft::at(limit.span(), invalid),
        None => Draft::of_file(invalid),
    };
    (!parties.is_empty()).then_some(Conflict { parties, source: &gateway.source, fault })
}
