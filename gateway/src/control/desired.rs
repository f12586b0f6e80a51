//! The desired contents of the maps and charon, derived from the policy.
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

/// The desired contents of the maps and charon, except what depends on charon's SAs. Borrows from the
/// policy instead of copying it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Desired<'p> {
    /// The gateway's settings.
    pub settings: Settings,
    /// One tunnel for each site.
    pub tunnels: Tunnels<'p>,
    /// One entry for each address of each customer's server.
    pub customers: BTreeMap<IpAddr, layout::Customer>,
    /// The gateway's identity and certificate, the same in every connection.
    pub local: Local,
    /// Certificate of the authority that issues every site's certificate, PEM.
    pub authority: Arc<[u8]>,
}

/// All sites by tunnel id.
pub type Tunnels<'p> = BTreeMap<TunnelId, DesiredTunnel<'p>>;

impl Desired<'_> {
    /// Returns a site's connection in charon. Derived on demand, because filling the maps needs no connections.
    pub fn connection(&self, id: TunnelId, tunnel: &DesiredTunnel) -> Connection {
        let remote = Remote {
            identity: tunnel.site.identity.to_string(),
            authority: self.authority.clone(),
            revocation: Default::default(),
        };
        let name = tunnel.connection();
        // The tunnel's number is both its reqid and its mark (docs/facts.md: marks-separate-equal-lans,
        // set-mark-in-is-visible, order-of-rekey-events).
        let mut child = Child::new(name.clone(), tunnel.local().collect(), tunnel.site.lan.clone());
        child.reqid = Some(id.get());
        child.mark = Some(id.get());
        let mut connection = Connection::new(name, self.local.clone(), remote);
        connection.children.push(child);
        connection
    }
}

/// The tunnel of one site.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DesiredTunnel<'p> {
    /// The customer that owns the site.
    pub customer: &'p Customer,
    /// The customer's number.
    pub customer_id: CustomerId,
    /// The site: the identity that charon must authenticate, and the LANs for the remote traffic selectors.
    pub site: &'p Site,
    /// The customer's quota.
    pub quota: layout::Quota,
    /// MTUs according to the policy and the interfaces.
    pub mtus: Mtus,
}

impl<'p> DesiredTunnel<'p> {
    /// Returns the connection's name in charon, `customer.site`.
    pub fn connection(&self) -> String {
        connection_name(&self.customer.name, &self.site.name)
    }

    /// Returns the customer's and the site's name: the two parts of the connection's name.
    pub fn names(&self) -> (&'p str, &'p str) {
        (self.customer.name.as_str(), self.site.name.as_str())
    }

    /// Returns the local traffic selectors: the server's addresses in the families of the site's LANs.
    pub fn local(&self) -> impl Iterator<Item = IpNet> + use<'p> {
        let lan = &self.site.lan;
        let in_lan = |address: &IpAddr| lan.iter().any(|net| net.network().is_ipv4() == address.is_ipv4());
        self.customer.server.addresses().filter(in_lan).map(IpNet::from)
    }

    /// Returns the tunnel's map entry: down, without SPIs, generation 0, with the MSS for the worst
    /// encapsulation that may be negotiated.
    pub fn entry(&self, id: TunnelId) -> layout::Tunnel {
        let mark = id.get();
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
            v4: access(server.v4.unwrap_or(Ipv4Addr::UNSPECIFIED).into(), mss.v4, lan4, mark),
            quota: self.quota,
            v6: access(server.v6.unwrap_or(Ipv6Addr::UNSPECIFIED).into(), mss.v6, lan6, mark),
            _reserved2: [0; 2],
        }
    }
}

/// Returns the tunnels by the names of customer and site.
pub(super) fn by_names<'t, 'p>(
    tunnels: &'t Tunnels<'p>,
) -> BTreeMap<(&'p str, &'p str), &'t DesiredTunnel<'p>> {
    tunnels.values().map(|tunnel| (tunnel.names(), tunnel)).collect()
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
pub fn desired<'p>(
    policy: &'p Policy,
    ids: &Assignment,
    links: Links,
    credentials: &Credentials,
) -> Result<Desired<'p>> {
    // Both are sorted by name: a merge is faster than a lookup for each name.
    let mut ids = ids.iter();
    let customer_ids =
        |customer: &Customer| ids.find(|(name, _)| **name == customer.name).map(|(_, ids)| ids);
    derive(policy, policy.customers.values(), customer_ids, links, credentials)
}

/// Derives the desired state of the given customers only.
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

/// Returns the access of one family, with no prefixes if the site has no LAN in that family.
fn access<A: Family>(server: A, mss: u16, prefixes: impl Iterator<Item = Prefix<A>>, mark: u32) -> Access<A> {
    let mut access = Access { server, mss, ..Access::default() };
    for ((lan, answered_by), prefix) in access.lan.iter_mut().zip(&mut access.marks).zip(prefixes) {
        (*lan, *answered_by) = (prefix, mark);
        access.prefix_count += 1;
    }
    access
}

/// Returns the prefix as the maps store both families: IPv4 is mapped into the last 32 bits of IPv6.
fn mapped(net: IpNet) -> Prefix<Ipv6> {
    let mapped_bits = match net {
        IpNet::V4(_) => 96,
        IpNet::V6(_) => 0,
    };
    Prefix::new(net.network().into(), mapped_bits + net.prefix_len())
}
