//! The desired contents of the maps and of charon, derived from the policy.
use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use gateway_common::{
    family::Family,
    ids::{CustomerId, TunnelId},
    layout::{self, Access, Addresses, ManagementRule, Prefix, Settings},
    limits::{MANAGEMENT_RULES, OWN_ADDRESSES},
    tcp::{RETRANSMISSION_SLOT, STATE_SLOTS, State, UNACKNOWLEDGED_SLOT},
    time::Ticks,
    wire::{Ipv4, Ipv6, protocol},
};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::{
    control::{
        bindings::CONNECTION,
        live::LiveSite,
        mss::{Encapsulation, Mtus},
    },
    kernel::interface::Interface,
    policy::{Customer, CustomerName, Gateway, Midstream, Policy, Protocol, Site, Timeouts, connection_name},
    registry::{Assignment, CustomerIds},
    strongswan::{Child, Connection, Local, Marks, PeerIdentity, Remote},
};

/// The desired contents of the maps, except what depends on charon's SAs. Borrows from the policy instead of copying
/// it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Desired<'p> {
    /// The gateway's settings.
    pub settings: Settings,
    /// One tunnel for each site.
    pub tunnels: Tunnels<'p>,
    /// One entry for each address of each customer's server.
    pub customers: BTreeMap<IpAddr, layout::Customer>,
}

/// All sites by tunnel id.
pub type Tunnels<'p> = BTreeMap<TunnelId, DesiredTunnel<'p>>;

/// Returns the one connection of all sites. Adding a customer does not change it: charon takes time in proportion to the
/// square of the number of its connections for every stranger's packet (docs/decisions/0017-one-connection.md). A peer
/// may ask for any selectors, and its identity and its selectors are compared with the policy before a packet passes.
pub fn connection(gateway: &Gateway, credentials: &Credentials) -> Connection {
    let local =
        Local { identity: gateway.ipsec.identity.to_string(), certificate: credentials.certificate.clone() };
    let remote = Remote {
        identity: PeerIdentity::Any,
        authority: credentials.authority.clone(),
        revocation: Default::default(),
    };
    let any: [IpNet; 2] = [Ipv4Net::default().into(), Ipv6Net::default().into()];
    let mut child = Child::new(CONNECTION, any.to_vec(), any.to_vec());
    child.marks = Marks::Unique;
    let mut connection = Connection::new(CONNECTION, local, remote);
    connection.children.push(child);
    connection
}

/// The tunnel of one site.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DesiredTunnel<'p> {
    /// The customer that owns the site.
    pub customer: &'p Customer,
    /// The customer's number.
    pub customer_id: CustomerId,
    /// The site: the identity that charon must authenticate, and the LANs.
    pub site: &'p Site,
    /// The customer's quota.
    pub quota: layout::Quota,
    /// MTUs according to the policy and the interfaces.
    pub mtus: Mtus,
}

impl<'p> DesiredTunnel<'p> {
    /// Returns the site's name, `customer.site`.
    pub fn name(&self) -> String {
        connection_name(&self.customer.name, &self.site.name)
    }

    /// Returns the site's map entry while it has CHILD_SAs: the LAN as far as it was negotiated.
    pub fn entry_with(&self, live: &LiveSite, learnt: &BTreeMap<IpAddr, u32>) -> layout::Tunnel {
        let mut entry = self.entry();
        let mss = live.mss(self.mtus, learnt);
        let lan = || live.prefixes.iter().map(|(net, mark)| (*net, mark.get()));
        (entry.v4.mss, entry.v6.mss) = (mss.v4, mss.v6);
        entry.v4 = before(lan().filter_map(v4).collect(), &entry.v4);
        entry.v6 = before(lan().filter_map(v6).collect(), &entry.v6);
        entry.up = 1;
        entry
    }

    /// Returns the site's map entry after an earlier one, while nobody knows charon's SAs: what had been negotiated, as
    /// far as the policy still allows it. Encapsulations are unknown, so the MSS stays, up to the largest possible.
    pub fn entry_after(&self, earlier: &layout::Tunnel) -> layout::Tunnel {
        let mut entry = self.entry();
        let (v4, v6) = (kept(&entry.v4, &earlier.v4), kept(&entry.v6, &earlier.v6));
        if earlier.up == 0 || earlier.customer != entry.customer || (v4.is_empty() && v6.is_empty()) {
            return entry;
        }
        let largest = Encapsulation::BEST.mss(self.mtus);
        entry.v4 = Access { mss: earlier.v4.mss.min(largest.v4), ..before(v4, &entry.v4) };
        entry.v6 = Access { mss: earlier.v6.mss.min(largest.v6), ..before(v6, &entry.v6) };
        entry.up = 1;
        entry
    }

    /// Returns the site's map entry: down, generation 0, with the policy's LAN and the MSS for the worst encapsulation
    /// that may be negotiated.
    pub fn entry(&self) -> layout::Tunnel {
        let server = self.customer.server;
        let mss = Encapsulation::WORST.mss(self.mtus);
        let lan = || self.site.lan.iter().map(|net| (*net, 0));
        let (lan4, lan6) = (lan().filter_map(v4), lan().filter_map(v6));
        layout::Tunnel {
            customer: self.customer_id.get(),
            generation: 0,
            port: self.customer.port,
            up: 0,
            _reserved: [0; 3],
            v4: access(server.v4.unwrap_or(Ipv4Addr::UNSPECIFIED).into(), mss.v4, lan4),
            quota: self.quota,
            share: self.site.quota.resolve(&self.quota, self.customer.sites.len()),
            v6: access(server.v6.unwrap_or(Ipv6Addr::UNSPECIFIED).into(), mss.v6, lan6),
        }
    }
}

/// The gateway's certificates and private key, read from the files named in the policy.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The gateway's certificate, PEM.
    pub certificate: Arc<[u8]>,
    /// The gateway's private key, PEM.
    pub private_key: Vec<u8>,
    /// The authority's certificate, PEM.
    pub authority: Arc<[u8]>,
}

/// The current state of the interfaces.
#[derive(Clone, Copy, Debug)]
pub struct Links<'a> {
    /// The interface that receives IKE and ESP.
    pub internet: &'a Interface,
    /// The interface to the servers.
    pub lan: &'a Interface,
    /// True if the outer filter runs at the XDP hook.
    pub xdp: bool,
}

/// Derives the desired state of all customers. Fails if an interface has no routable address or more
/// addresses than the settings can hold.
pub fn desired<'p>(policy: &'p Policy, ids: &Assignment, links: Links) -> Result<Desired<'p>> {
    // Both are sorted by name: a merge is faster than a lookup for each name.
    let mut ids = ids.iter();
    let customer_ids =
        |customer: &Customer| ids.find(|(name, _)| **name == customer.name).map(|(_, ids)| ids);
    derive(policy, policy.customers.values(), customer_ids, links)
}

/// Derives the desired state of the given customers only.
pub fn desired_of<'p>(
    policy: &Policy,
    customers: impl Iterator<Item = &'p Customer>,
    ids: &Assignment,
    links: Links,
) -> Result<Desired<'p>> {
    derive(policy, customers, |customer| ids.get(&customer.name), links)
}

fn derive<'p, 'i>(
    policy: &Policy,
    customers: impl Iterator<Item = &'p Customer>,
    mut ids: impl FnMut(&Customer) -> Option<&'i CustomerIds>,
    links: Links,
) -> Result<Desired<'p>> {
    // Building a BTreeMap from a complete list is several times faster than inserting entry by entry.
    let (mut servers, mut tunnels) = (Vec::new(), Vec::new());
    for customer in customers {
        let own_ids = ids(customer).with_context(|| format!("customer {} has no id", customer.name))?;
        let id = own_ids.id;
        for address in customer.server.addresses() {
            servers.push((address, layout::Customer { id: id.get() }));
        }
        let quota = customer.quota.resolve(&policy.gateway.limits);
        for site in &customer.sites {
            let tunnel = *own_ids
                .tunnels
                .get(&site.name)
                .with_context(|| format!("site {} of customer {} has no id", site.name, customer.name))?;
            let mtus = mtus(site, links);
            let desired = DesiredTunnel { customer, customer_id: id, site, quota, mtus };
            tunnels.push((tunnel, desired));
        }
    }
    Ok(Desired {
        settings: settings(policy, links)?,
        tunnels: tunnels.into_iter().collect(),
        customers: servers.into_iter().collect(),
    })
}

/// Derives the desired state of one site, or returns None if the policy does not have it any more.
pub fn desired_site<'p>(
    policy: &'p Policy,
    ids: &Assignment,
    links: Links,
    place: &(CustomerName, usize),
) -> Option<DesiredTunnel<'p>> {
    let customer = policy.customers.get(&place.0)?;
    let site = customer.sites.get(place.1)?;
    Some(DesiredTunnel {
        customer,
        customer_id: ids.customer(&customer.name)?,
        site,
        quota: customer.quota.resolve(&policy.gateway.limits),
        mtus: mtus(site, links),
    })
}

fn settings(policy: &Policy, links: Links) -> Result<Settings> {
    let Links { internet, lan, xdp } = links;
    let mut management = [ManagementRule::default(); MANAGEMENT_RULES];
    let rules = &policy.gateway.management;
    ensure!(rules.len() <= MANAGEMENT_RULES, "more than {MANAGEMENT_RULES} entries in [management]");
    for (slot, rule) in management.iter_mut().zip(rules) {
        *slot = ManagementRule {
            from: mapped(rule.from),
            port: rule.port,
            protocol: match rule.protocol {
                Protocol::Tcp => protocol::TCP,
                Protocol::Udp => protocol::UDP,
            },
            _reserved: 0,
        };
    }
    Ok(Settings {
        ready: 1,
        internet_ifindex: internet.index,
        lan_ifindex: lan.index,
        lan_mtu: lan.mtu,
        xdp: u32::from(xdp),
        adopt_midstream: u32::from(policy.gateway.midstream == Midstream::Adopt),
        management_count: rules.len() as u32,
        _reserved: 0,
        internet: addresses(internet)?,
        lan: addresses(lan)?,
        management,
        timeouts: timeouts(&policy.gateway.timeouts),
    })
}

fn addresses(interface: &Interface) -> Result<Addresses> {
    let Interface { name, v4, v6, .. } = interface;
    ensure!(interface.is_routable(), "the interface {name} has only link-local IP addresses");
    let mut addresses =
        Addresses { v4_count: v4.len() as u32, v6_count: v6.len() as u32, ..Addresses::default() };
    for (family, count) in [("IPv4", v4.len()), ("IPv6", v6.len())] {
        ensure!(
            count <= OWN_ADDRESSES,
            "the interface {name} has more than {OWN_ADDRESSES} {family} addresses"
        );
    }
    for (slot, address) in addresses.v4.iter_mut().zip(v4) {
        *slot = (*address).into();
    }
    for (slot, address) in addresses.v6.iter_mut().zip(v6) {
        *slot = (*address).into();
    }
    Ok(addresses)
}

/// Returns the MTUs of a site's tunnel: the path MTU is the smaller of the policy's value and the internet
/// interface's MTU.
fn mtus(site: &Site, links: Links) -> Mtus {
    let path = site.path_mtu.map_or(u32::MAX, u32::from).min(links.internet.mtu);
    Mtus { path, lan: links.lan.mtu }
}

fn timeouts(timeouts: &Timeouts) -> [Ticks; STATE_SLOTS] {
    let mut slots = [Ticks::default(); STATE_SLOTS];
    for state in State::ALL {
        let timeout: Duration = match state {
            State::SynSent | State::SynSent2 => timeouts.syn_sent,
            State::SynRecv => timeouts.syn_recv,
            State::Established => timeouts.established,
            State::FinWait => timeouts.fin_wait,
            State::CloseWait => timeouts.close_wait,
            State::LastAck => timeouts.last_ack,
            State::TimeWait => timeouts.time_wait,
            State::Close => timeouts.close,
        };
        slots[*state as usize] = Ticks::from_ns(timeout.as_nanos() as u64);
    }
    for (slot, timeout) in
        [(RETRANSMISSION_SLOT, timeouts.retransmission), (UNACKNOWLEDGED_SLOT, timeouts.unacknowledged)]
    {
        slots[usize::from(slot)] = Ticks::from_ns(timeout.as_nanos() as u64);
    }
    slots
}

/// Returns the access of one family, with no prefixes if there are none in that family. Each prefix comes with its mark.
fn access<A: Family>(server: A, mss: u16, prefixes: impl Iterator<Item = (Prefix<A>, u32)>) -> Access<A> {
    let mut access = Access { server, mss, ..Access::default() };
    for ((slot, mark_slot), (prefix, mark)) in access.lan.iter_mut().zip(&mut access.marks).zip(prefixes) {
        (*slot, *mark_slot) = (prefix, mark);
        access.prefix_count += 1;
    }
    access
}

/// Returns the policy's access with these prefixes, which CHILD_SAs have, before those that none has.
fn before<A: Family>(prefixes: Vec<(Prefix<A>, u32)>, policy: &Access<A>) -> Access<A> {
    let covered = |lan: &Prefix<A>| prefixes.iter().any(|(prefix, _)| is_in(lan, prefix));
    let rest: Vec<_> = used(policy).into_iter().filter(|(lan, _)| !covered(lan)).collect();
    access(policy.server, policy.mss, prefixes.into_iter().chain(rest))
}

/// Returns the prefixes of `earlier` that a CHILD_SA has, as far as they lie in the policy's LAN.
fn kept<A: Family>(policy: &Access<A>, earlier: &Access<A>) -> Vec<(Prefix<A>, u32)> {
    let common = used(earlier).into_iter().filter(|(_, mark)| *mark != 0).flat_map(|(had, mark)| {
        used(policy).into_iter().filter_map(move |(lan, _)| {
            let smaller = if is_in(&had, &lan) { Some(had) } else { is_in(&lan, &had).then_some(lan) };
            Some((smaller?, mark))
        })
    });
    common.collect()
}

fn used<A: Family>(access: &Access<A>) -> Vec<(Prefix<A>, u32)> {
    access.lan.into_iter().zip(access.marks).take(usize::from(access.prefix_count)).collect()
}

fn is_in<A: Family>(inner: &Prefix<A>, outer: &Prefix<A>) -> bool {
    outer.contains(inner.network) && inner.mask.masked(outer.mask) == outer.mask
}

fn v4((net, mark): (IpNet, u32)) -> Option<(Prefix<Ipv4>, u32)> {
    match net {
        IpNet::V4(net) => Some((Prefix::new(net.network().into(), net.prefix_len()), mark)),
        IpNet::V6(_) => None,
    }
}

fn v6((net, mark): (IpNet, u32)) -> Option<(Prefix<Ipv6>, u32)> {
    match net {
        IpNet::V4(_) => None,
        IpNet::V6(net) => Some((Prefix::new(net.network().into(), net.prefix_len()), mark)),
    }
}

/// Returns the prefix as the maps store both families: IPv4 is mapped into the last 32 bits of IPv6.
fn mapped(net: IpNet) -> Prefix<Ipv6> {
    let mapped_bits = match net {
        IpNet::V4(_) => 96,
        IpNet::V6(_) => 0,
    };
    Prefix::new(net.network().into(), mapped_bits + net.prefix_len())
}
