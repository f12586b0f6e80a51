//! What the maps and charon should hold, by the policy.
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
use ipnet::IpNet;

use crate::{
    control::mss::{Encapsulation, Mtus},
    kernel::interface::Interface,
    policy::{Customer, Midstream, Policy, Protocol, Site, Timeouts, connection_name},
    registry::{Assignment, CustomerIds},
    strongswan::{Child, Connection, Local, Remote},
};

/// What the maps and charon should hold, but for what follows from the tunnels' life. What the policy says
/// already is not said again: it stays there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Desired<'p> {
    /// For the whole gateway.
    pub settings: Settings,
    /// One for each site.
    pub tunnels: Tunnels<'p>,
    /// One for each address of each customer's server.
    pub customers: BTreeMap<IpAddr, layout::Customer>,
    /// What the gateway proves its identity with in every connection.
    pub local: Local,
    /// The authority that every site's certificate is of, PEM.
    pub authority: Arc<[u8]>,
}

/// All sites by their tunnels' ids.
pub type Tunnels<'p> = BTreeMap<TunnelId, DesiredTunnel<'p>>;

impl Desired<'_> {
    /// A site's connection in charon, derived when it is asked for: filling the maps needs none.
    pub fn connection(&self, id: TunnelId, tunnel: &DesiredTunnel) -> Connection {
        let remote = Remote {
            identity: tunnel.site.identity.to_string(),
            authority: self.authority.clone(),
            revocation: Default::default(),
        };
        let name = tunnel.connection();
        // One number names the tunnel: FACTS 5, 6 and 9.
        let mut child = Child::new(name.clone(), tunnel.local().collect(), tunnel.site.lan.clone());
        child.reqid = Some(id.get());
        child.mark = Some(id.get());
        let mut connection = Connection::new(name, self.local.clone(), remote);
        connection.children.push(child);
        connection
    }
}

/// One site.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DesiredTunnel<'p> {
    /// Whose it is.
    pub customer: &'p Customer,
    /// Its customer's number.
    pub customer_id: CustomerId,
    /// Whom charon must have authenticated for it, and what its SAs may select on that side.
    pub site: &'p Site,
    /// What the customer may take.
    pub quota: layout::Quota,
    /// How large packets may be around it, as far as policy and interfaces say.
    pub mtus: Mtus,
}

impl<'p> DesiredTunnel<'p> {
    /// Its connection's name in charon, `customer.site`.
    pub fn connection(&self) -> String {
        connection_name(&self.customer.name, &self.site.name)
    }

    /// The parts of that name, before and after the dot.
    pub fn names(&self) -> (&'p str, &'p str) {
        (self.customer.name.as_str(), self.site.name.as_str())
    }

    /// What its SAs may select on our side: the server, in the families of the site's LAN.
    pub fn local(&self) -> impl Iterator<Item = IpNet> + use<'p> {
        let lan = &self.site.lan;
        let in_lan = |address: &IpAddr| lan.iter().any(|net| net.network().is_ipv4() == address.is_ipv4());
        self.customer.server.addresses().filter(in_lan).map(IpNet::from)
    }

    /// Its map entry: down, without SAs, of generation 0, its MSS the worst of what may be negotiated.
    pub fn entry(&self) -> layout::Tunnel {
        let server = self.customer.server;
        let mss = Encapsulation::WORST.mss(self.mtus);
        let lan4 = self.site.lan.iter().filter_map(|net| match net {
            IpNet::V4(net) => Some(Prefix::<Ipv4>::new(net.network().into(), net.prefix_len())),
            IpNet::V6(_) => None,
        });
        let lan6 = self.site.lan.iter().filter_map(|net| match net {
            IpNet::V4(_) => None,
            IpNet::V6(net) => Some(Prefix::<Ipv6>::new(net.network().into(), net.prefix_len())),
        });
        layout::Tunnel {
            customer: self.customer_id.get(),
            generation: 0,
            port: self.customer.port,
            up: 0,
            _reserved: [0; 3],
            inbound_spis: [0; 2],
            v4: access(server.v4.unwrap_or(Ipv4Addr::UNSPECIFIED).into(), mss.v4, lan4),
            quota: self.quota,
            v6: access(server.v6.unwrap_or(Ipv6Addr::UNSPECIFIED).into(), mss.v6, lan6),
        }
    }
}

/// Tunnels by the parts of their connections' names.
pub(super) fn by_names<'t, 'p>(
    tunnels: &'t Tunnels<'p>,
) -> BTreeMap<(&'p str, &'p str), &'t DesiredTunnel<'p>> {
    tunnels.values().map(|tunnel| (tunnel.names(), tunnel)).collect()
}

/// What the gateway proves its identity with, read from the files that the policy names.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The gateway's certificate, PEM.
    pub certificate: Arc<[u8]>,
    /// Its private key, PEM.
    pub private_key: Vec<u8>,
    /// The authority's certificate, PEM.
    pub authority: Arc<[u8]>,
}

/// The interfaces as they are.
#[derive(Clone, Copy, Debug)]
pub struct Links<'a> {
    /// Where IKE and ESP arrive.
    pub internet: &'a Interface,
    /// Where the servers are.
    pub lan: &'a Interface,
    /// The outer filter runs at the XDP hook.
    pub xdp: bool,
}

/// Derives it all. Fails where an interface has more addresses than the maps have room for.
pub fn desired<'p>(
    policy: &'p Policy,
    ids: &Assignment,
    links: Links,
    credentials: &Credentials,
) -> Result<Desired<'p>> {
    // Both are in order of name: going through them side by side is faster than looking for each name.
    let mut ids = ids.iter();
    let own = |customer: &Customer| ids.find(|(name, _)| **name == customer.name).map(|(_, own)| own);
    derive(policy, policy.customers.values(), own, links, credentials)
}

/// The same, of the customers only some.
pub fn desired_of<'p>(
    policy: &Policy,
    customers: impl Iterator<Item = &'p Customer>,
    ids: &Assignment,
    links: Links,
    credentials: &Credentials,
) -> Result<Desired<'p>> {
    derive(policy, customers, |customer| ids.get(&customer.name), links, credentials)
}

fn derive<'p, 'i>(
    policy: &Policy,
    customers: impl Iterator<Item = &'p Customer>,
    mut ids: impl FnMut(&Customer) -> Option<&'i CustomerIds>,
    links: Links,
    credentials: &Credentials,
) -> Result<Desired<'p>> {
    // Trees of what is there already are made several times faster than by insertion.
    let (mut servers, mut tunnels) = (Vec::new(), Vec::new());
    for customer in customers {
        let own = ids(customer).with_context(|| format!("customer {} has no id", customer.name))?;
        let id = own.id;
        for address in customer.server.addresses() {
            servers.push((address, layout::Customer { id: id.get() }));
        }
        let quota = customer.quota.resolve(&policy.gateway.limits);
        for site in &customer.sites {
            let tunnel = *own
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
        local: Local {
            identity: policy.gateway.ipsec.identity.to_string(),
            certificate: credentials.certificate.clone(),
        },
        authority: credentials.authority.clone(),
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
    ensure!(interface.is_routable(), "the interface {name} has no IP address but link-local ones");
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

/// The outer packet fits the internet interface, and what the policy says of the path.
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

/// What is allowed in a family: nothing if the site has no LAN in it.
fn access<A: Family>(server: A, mss: u16, prefixes: impl Iterator<Item = Prefix<A>>) -> Access<A> {
    let mut access = Access { server, mss, prefix_count: 0, _reserved: 0, lan: Default::default() };
    for (slot, prefix) in access.lan.iter_mut().zip(prefixes) {
        *slot = prefix;
        access.prefix_count += 1;
    }
    access
}

/// As maps keep prefixes of both families: IPv4 mapped into IPv6, whose last 32 bits it takes.
fn mapped(net: IpNet) -> Prefix<Ipv6> {
    let before = match net {
        IpNet::V4(_) => 96,
        IpNet::V6(_) => 0,
    };
    Prefix::new(net.network().into(), before + net.prefix_len())
}
