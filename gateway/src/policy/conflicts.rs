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
    /// The customers whose new versions must not come into force together. Empty if only the gateway part can yield.
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

/// Returns all conflicts. If two documents conflict, the later one gets the fault.
pub(super) fn conflicts<'d>(
    gateway: &'d GatewayDocument,
    customers: &[&'d CustomerDocument],
) -> Vec<Conflict<'d>> {
    let mut conflicts = own_conflicts(gateway, customers);
    conflicts.extend(limit_conflicts(gateway, customers, &|_| None));
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

/// Returns the version of a customer that is in force, if there is one.
type InForce<'k, 'd> = &'k dyn Fn(&CustomerName) -> Option<&'d CustomerDocument>;

/// Returns the conflicts of all customers together with the limits, at most one for each limit. Customers keep
/// their shares in force; those that ask for more than fits beside these are parties, the largest demands first.
pub(super) fn limit_conflicts<'d>(
    gateway: &'d GatewayDocument,
    customers: &[&'d CustomerDocument],
    in_force: InForce<'_, 'd>,
) -> Vec<Conflict<'d>> {
    work::add(customers.len());
    let mut conflicts = Vec::new();
    // Without readable limits there is nothing to check.
    if let Some(limits) = gateway.value.as_ref().map(|value| value.limits) {
        check_limits(gateway, limits, customers, in_force, &mut conflicts);
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
    in_force: InForce<'_, 'd>,
    conflicts: &mut Vec<Conflict<'d>>,
) {
    type Count = fn(&CustomerDocument) -> u64;
    let (stated, written) = (gateway.limits.value(), &gateway.limits);
    let counts: [(_, _, _, _, Count); 2] = [
        ("customers", &written.customers, stated.customers, limits.customers, |_| 1),
        ("tunnels", &written.tunnels, stated.tunnels, limits.tunnels, |customer| customer.sites.len() as u64),
    ];
    for (key, written, stated, limit, count) in counts {
        let bound = Bound { key, written: written.as_ref(), stated, limit };
        let sum: u64 = customers.iter().map(|customer| count(customer)).sum();
        let what = format!("{sum} {key} in the customers' files");
        let invalid = bound.exceeded(&what, sum, &format!("fewer {key}"));
        conflicts.extend(over_limit(gateway, &bound, demands(customers, in_force, count), invalid));
    }
    // With too many customers, the default quotas exceed the table anyway.
    if customers.len() as u64 <= u64::from(limits.customers) {
        check_quotas(gateway, limits, customers, in_force, conflicts);
    }
}

/// Checks that each flow table holds the quotas of all customers with a server of its family. A quota
/// covers both families together, so either family alone may use all of it.
fn check_quotas<'d>(
    gateway: &'d GatewayDocument,
    limits: Limits,
    customers: &[&'d CustomerDocument],
    in_force: InForce<'_, 'd>,
    conflicts: &mut Vec<Conflict<'d>>,
) {
    let has_server = |customer: &CustomerDocument, v4| customer.server.iter().any(|a| a.is_ipv4() == v4);
    let any_v6 = customers.iter().any(|customer| has_server(customer, false));
    let (stated, written) = (gateway.limits.value(), &gateway.limits);
    let tables = [
        ("flows", true, &written.flows, stated.flows, limits.flows),
        ("flows6", false, &written.flows6, stated.flows6(any_v6), limits.flows6(any_v6)),
    ];
    for (key, v4, written, stated, limit) in tables {
        let bound = Bound { key, written: written.as_ref(), stated, limit };
        let count = |customer: &CustomerDocument| match has_server(customer, v4) {
            true => u64::from(customer.quota.flows(&limits)),
            false => 0,
        };
        let sharing: Vec<&CustomerDocument> =
            customers.iter().copied().filter(|c| has_server(c, v4)).collect();
        let each: Vec<u64> = sharing.iter().map(|c| count(c)).collect();
        let sum = each.iter().sum();
        let quotas = describe_quotas(&sharing, &each);
        let what = format!("quotas sum to {sum} {} flows ({quotas})", family(v4));
        let invalid = bound.exceeded(&what, sum, "lower `max_flows`");
        conflicts.extend(over_limit(gateway, &bound, demands(customers, in_force, count), invalid));
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

/// A limit of all customers together.
struct Bound<'d> {
    key: &'static str,
    written: Option<&'d toml::Spanned<u32>>,
    /// The number that `gateway.toml` states, or its default.
    stated: u32,
    /// The number in force.
    limit: u32,
}

impl Bound<'_> {
    /// Returns the fault of customers that need `count`.
    fn exceeded(&self, what: &str, count: u64, other: &str) -> Invalid {
        let Self { key, stated, limit, .. } = self;
        let (holder, new_tables) = if stated == limit {
            (format!("[limits] {key} is"), "")
        } else {
            (format!("the existing table of {key} holds"), " in new tables (`gatewayctl detach`, restart)")
        };
        let expected = format!("`{key} = {count}` or more{new_tables}, or {other}");
        Invalid::new(format!("{what}, but {holder} {limit}"), expected)
    }
}

/// A customer's share of what a limit bounds.
struct Demand<'d> {
    customer: &'d CustomerName,
    /// The share that it asks for.
    count: u64,
    /// The share that its version in force has.
    in_force: u64,
}

fn demands<'d>(
    customers: &[&'d CustomerDocument],
    in_force: InForce<'_, 'd>,
    count: impl Fn(&CustomerDocument) -> u64,
) -> Vec<Demand<'d>> {
    let demand = |customer: &&'d CustomerDocument| Demand {
        customer: &customer.name,
        count: count(customer),
        in_force: in_force(&customer.name).map_or(0, &count),
    };
    customers.iter().map(demand).collect()
}

/// Returns a conflict if the demands sum to more than the limit.
fn over_limit<'d>(
    gateway: &'d GatewayDocument,
    bound: &Bound,
    mut demands: Vec<Demand>,
    invalid: Invalid,
) -> Option<Conflict<'d>> {
    let limit = u64::from(bound.limit);
    if demands.iter().map(|demand| demand.count).sum::<u64>() <= limit {
        return None;
    }
    // The smallest demands first: one that is too large is no reason to refuse another.
    demands.sort_by_key(|demand| demand.count.saturating_sub(demand.in_force));
    let mut taken: u64 = demands.iter().map(|demand| demand.count.min(demand.in_force)).sum();
    let mut parties = Vec::new();
    for Demand { customer, count, in_force } in demands {
        let more = count.saturating_sub(in_force);
        if more > 0 && taken + more > limit {
            parties.push(customer.clone());
        } else {
            taken += more;
        }
    }
    let fault = match bound.written {
        Some(limit) => Draft::at(limit.span(), invalid),
        None => Draft::of_file(invalid),
    };
    Some(Conflict { parties, source: &gateway.source, fault })
}
