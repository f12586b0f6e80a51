//! What the maps and charon should hold, by the policy.
use std::{collections::BTreeMap, net::Ipv4Addr, time::Duration};

use anyhow::{Context, Result, ensure};
use gateway_common::{
    ids::{CustomerId, TunnelId},
    layout::{self, ManagementRule, Prefix, Settings, Ticks},
    limits::{MANAGEMENT_RULES, OWN_ADDRESSES, PREFIXES_PER_SITE, TUNNEL_MSS_BYTES},
    tcp::{DOUBTFUL_TIMEOUT_SECONDS, RETRANSMISSION_SLOT, STATE_SLOTS, State, UNACKNOWLEDGED_SLOT},
    wire::{Ipv4, protocol},
};
use ipnet::{IpNet, Ipv4Net};

use crate::{
    kernel::interface::Interface,
    policy::{Customer, Identity, Policy, Protocol, Site, Timeouts, connection_name},
    registry::Assignment,
    strongswan::{Child, Connection, Local, Remote},
};

/// What the maps and charon should hold, but for what follows from the tunnels' life.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Desired {
    /// For the whole gateway.
    pub settings: Settings,
    /// One for each site; `up` and `generation` are 0 here.
    pub tunnels: BTreeMap<TunnelId, DesiredTunnel>,
    /// One for each customer, by its server; `generation` is 0 here.
    pub customers: BTreeMap<Ipv4Addr, layout::Customer>,
    /// One for each site, by name.
    pub connections: BTreeMap<String, Connection>,
}

/// One site.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DesiredTunnel {
    /// Its connection's name in charon, `customer.site`.
    pub connection: String,
    /// Whom charon must have authenticated for it.
    pub identity: Identity,
    /// What its SAs may select on our side: the server.
    pub local: Vec<IpNet>,
    /// What they may select on the site's side: its LAN.
    pub remote: Vec<IpNet>,
    /// Its map entry.
    pub entry: layout::Tunnel,
}

/// What the gateway proves its identity with, read from the files that the policy names.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The gateway's certificate, PEM.
    pub certificate: Vec<u8>,
    /// Its private key, PEM.
    pub private_key: Vec<u8>,
    /// The authority's certificate, PEM.
    pub authority: Vec<u8>,
}

/// Derives it all. Fails where an interface has more addresses than the maps have room for.
pub fn desired(
    policy: &Policy,
    ids: &Assignment,
    internet: &Interface,
    lan: &Interface,
    credentials: &Credentials,
) -> Result<Desired> {
    let mut desired = Desired {
        settings: settings(policy, internet, lan)?,
        tunnels: BTreeMap::new(),
        customers: BTreeMap::new(),
        connections: BTreeMap::new(),
    };
    for customer in policy.customers.values() {
        let id =
            ids.customer(&customer.name).with_context(|| format!("customer {} has no id", customer.name))?;
        desired.customers.insert(
            customer.server,
            layout::Customer { id: id.get(), generation: 0, port: customer.port, _reserved: 0 },
        );
        for site in &customer.sites {
            let tunnel = ids
                .tunnel(&customer.name, &site.name)
                .with_context(|| format!("site {} of customer {} has no id", site.name, customer.name))?;
            let connection = connection(policy, customer, site, tunnel, credentials);
            desired.tunnels.insert(
                tunnel,
                DesiredTunnel {
                    connection: connection.name.clone(),
                    identity: site.identity.clone(),
                    local: connection.children.iter().flat_map(|child| child.local_ts.clone()).collect(),
                    remote: connection.children.iter().flat_map(|child| child.remote_ts.clone()).collect(),
                    entry: entry(id, customer, site),
                },
            );
            desired.connections.insert(connection.name.clone(), connection);
        }
    }
    Ok(desired)
}

fn settings(policy: &Policy, internet: &Interface, lan: &Interface) -> Result<Settings> {
    let (internet_addresses, internet_address_count) = addresses(internet)?;
    let (lan_addresses, lan_address_count) = addresses(lan)?;
    let mut management = [ManagementRule::default(); MANAGEMENT_RULES];
    let rules = &policy.gateway.management;
    ensure!(rules.len() <= MANAGEMENT_RULES, "more than {MANAGEMENT_RULES} entries in [management]");
    for (slot, rule) in management.iter_mut().zip(rules) {
        *slot = ManagementRule {
            from: prefix(rule.from),
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
        lan_ifindex: lan.index,
        internet_ifindex: internet.index,
        internet_address_count,
        lan_address_count,
        management_count: rules.len() as u32,
        internet_addresses,
        lan_addresses,
        management,
        adopt_midstream: 0,
        timeouts: timeouts(&policy.gateway.timeouts),
    })
}

fn addresses(interface: &Interface) -> Result<([Ipv4; OWN_ADDRESSES], u32)> {
    let addresses = &interface.addresses;
    let name = &interface.name;
    ensure!(!addresses.is_empty(), "the interface {name} has no IPv4 address");
    ensure!(addresses.len() <= OWN_ADDRESSES, "the interface {name} has more than {OWN_ADDRESSES} addresses");
    let mut slots = [Ipv4::default(); OWN_ADDRESSES];
    for (slot, address) in slots.iter_mut().zip(addresses) {
        *slot = (*address).into();
    }
    Ok((slots, addresses.len() as u32))
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
    for slot in [RETRANSMISSION_SLOT, UNACKNOWLEDGED_SLOT] {
        slots[usize::from(slot)] = Ticks::from_seconds(DOUBTFUL_TIMEOUT_SECONDS);
    }
    slots
}

fn entry(id: CustomerId, customer: &Customer, site: &Site) -> layout::Tunnel {
    let mut lan = [Prefix::default(); PREFIXES_PER_SITE];
    for (slot, net) in lan.iter_mut().zip(&site.lan) {
        *slot = prefix(*net);
    }
    layout::Tunnel {
        customer: id.get(),
        up: 0,
        prefix_count: site.lan.len().min(PREFIXES_PER_SITE) as u8,
        mss: TUNNEL_MSS_BYTES,
        server: customer.server.into(),
        port: customer.port,
        _reserved: 0,
        generation: 0,
        lan,
    }
}

fn prefix(net: Ipv4Net) -> Prefix {
    Prefix::new(net.network().into(), net.prefix_len())
}

fn connection(
    policy: &Policy,
    customer: &Customer,
    site: &Site,
    tunnel: TunnelId,
    credentials: &Credentials,
) -> Connection {
    let name = connection_name(&customer.name, &site.name);
    let server: IpNet = Ipv4Net::from(customer.server).into();
    let lan = site.lan.iter().map(|net| (*net).into()).collect();
    let local = Local {
        identity: policy.gateway.ipsec.identity.to_string(),
        certificate: credentials.certificate.clone(),
    };
    let remote = Remote {
        identity: site.identity.to_string(),
        authority: credentials.authority.clone(),
        revocation: Default::default(),
    };
    let mut connection = Connection::new(name.clone(), local, remote);
    // One number names the tunnel: FACTS 5, 6 and 9.
    let mut child = Child::new(name, vec![server], lan);
    child.reqid = Some(tunnel.get());
    child.mark = Some(tunnel.get());
    connection.children.push(child);
    connection
}
