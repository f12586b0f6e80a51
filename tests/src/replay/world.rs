//! The world that packets meet: what stands in the maps.
//!
//! | customer | servers, port 80 | tunnel | LANs | peers |
//! |---|---|---|---|---|
//! | acme (1) | 10.200.0.11, fd00:200::11 | berlin (1) | 192.168.0.0/16, fd00:1::/48 | 198.18.0.1, 2001:db8:18::1 |
//! | | | munich (2) | 10.20.0.0/16, fd00:2::/48 | 198.18.0.2, 2001:db8:18::2 |
//! | globex (2) | 10.200.0.12, fd00:200::12 | paris (3) | 192.168.0.0/16, fd00:1::/48 | 198.18.0.3, 2001:db8:18::3 |
//! | initech (3) | 10.200.0.13 | oslo (4) | 10.30.0.0/16 | 198.18.0.4, 2001:db8:18::4 |
//!
//! All tunnels are up, generation 1, and have quotas that nobody reaches. Inbound SPIs are 0xc0de0001 to
//! 4, outbound ones 0xbeef0001 to 4, by tunnel id. On the internet the gateway is 203.0.113.1,
//! 2001:db8:113::1 and fe80::113, on the LAN, whose MTU is 1500, 10.200.0.1, fd00:200::1 and fe80::200.
//! 198.51.100.0/24 and 2001:db8:51::/48 may reach its TCP port 22. The outer filter runs in XDP. Timeouts
//! are the default ones, and connections in mid-stream are not taken up.
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use anyhow::{Context, Result, bail, ensure};
use gateway_common::{
    family::Family,
    layout::{Access, Addresses, Customer, ManagementRule, OutboundSpi, Prefix, Quota, Settings, Tunnel},
    limits::{MANAGEMENT_RULES, PREFIXES_PER_SITE},
    tcp::{DOUBTFUL_TIMEOUT_SECONDS, RETRANSMISSION_SLOT, STATE_SLOTS, State, UNACKNOWLEDGED_SLOT},
    time::Ticks,
    wire::{Ipv4, Ipv6, protocol},
};
use ipnet::IpNet;
use serde::Deserialize;

use super::packet::number;

/// The largest TCP segments through a tunnel in bytes, in IPv4 and IPv6.
pub const MSS_BYTES: [u16; 2] = [1356, 1336];
/// A quota that nobody reaches.
pub const PLENTY: Quota =
    Quota { flows: 1 << 24, half_open: 1 << 24, new_flow_interval_ns: 0, new_flow_burst: 1 };

/// A tunnel of the usual world.
pub struct KnownTunnel {
    /// Its name in cases.
    pub name: &'static str,
    /// Its id.
    pub id: u32,
    /// Its customer's id.
    pub customer: u32,
    /// The SPI its peer sends with.
    pub inbound_spi: u32,
    /// The SPI the gateway sends with.
    pub outbound_spi: u32,
    /// The peer's outer addresses.
    pub peers: [IpAddr; 2],
    /// Network and bits.
    pub lan: (Ipv4Addr, u8),
    /// The same of IPv6.
    pub lan6: Option<(Ipv6Addr, u8)>,
}

const fn known(name: &'static str, id: u32, customer: u32, lan: [u8; 4], lan6: Option<u16>) -> KnownTunnel {
    let [a, b, c, d] = lan;
    KnownTunnel {
        name,
        id,
        customer,
        inbound_spi: 0xc0de_0000 + id,
        outbound_spi: 0xbeef_0000 + id,
        peers: [
            IpAddr::V4(Ipv4Addr::new(198, 18, 0, id as u8)),
            IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x18, 0, 0, 0, 0, id as u16)),
        ],
        lan: (Ipv4Addr::new(a, b, c, d), 16),
        lan6: match lan6 {
            Some(site) => Some((Ipv6Addr::new(0xfd00, site, 0, 0, 0, 0, 0, 0), 48)),
            None => None,
        },
    }
}

/// All tunnels of the usual world.
pub const TUNNELS: [KnownTunnel; 4] = [
    known("berlin", 1, 1, [192, 168, 0, 0], Some(1)),
    known("munich", 2, 1, [10, 20, 0, 0], Some(2)),
    known("paris", 3, 2, [192, 168, 0, 0], Some(1)),
    known("oslo", 4, 3, [10, 30, 0, 0], None),
];

/// A customer of the usual world.
pub struct KnownCustomer {
    /// Its name in cases.
    pub name: &'static str,
    /// Its id.
    pub id: u32,
    /// Its server.
    pub server: Ipv4Addr,
    /// The same in IPv6.
    pub server6: Option<Ipv6Addr>,
}

const fn customer(name: &'static str, id: u32, v6: bool) -> KnownCustomer {
    KnownCustomer {
        name,
        id,
        server: Ipv4Addr::new(10, 200, 0, 10 + id as u8),
        server6: match v6 {
            true => Some(Ipv6Addr::new(0xfd00, 0x200, 0, 0, 0, 0, 0, 0x10 + id as u16)),
            false => None,
        },
    }
}

/// All customers of the usual world.
pub const CUSTOMERS: [KnownCustomer; 3] =
    [customer("acme", 1, true), customer("globex", 2, true), customer("initech", 3, false)];

impl KnownTunnel {
    /// Whose it is.
    pub fn owner(&self) -> &'static KnownCustomer {
        &CUSTOMERS[self.customer as usize - 1]
    }
}

/// The port that servers offer.
const PORT: u16 = 80;

/// A tunnel's id by its name or number.
pub fn tunnel_id(name: &str) -> Result<u32> {
    match TUNNELS.iter().find(|tunnel| tunnel.name == name.trim()) {
        Some(tunnel) => Ok(tunnel.id),
        None => number(name.trim()).with_context(|| format!("there is no tunnel {name:?}")),
    }
}

/// A tunnel's name by its id.
pub fn tunnel_name(id: u32) -> String {
    TUNNELS.iter().find(|tunnel| tunnel.id == id).map_or(id.to_string(), |tunnel| tunnel.name.to_owned())
}

/// A customer's id by its name, 0 for nobody.
pub fn customer_id(name: &str) -> Result<u32> {
    match CUSTOMERS.iter().find(|customer| customer.name == name.trim()) {
        Some(customer) => Ok(customer.id),
        None if name.trim() == "nobody" => Ok(0),
        None => bail!("there is no customer {name:?}"),
    }
}

/// A customer's name by its id.
pub fn customer_name(id: u32) -> String {
    match CUSTOMERS.iter().find(|customer| customer.id == id) {
        Some(customer) => customer.name.to_owned(),
        None if id == 0 => "nobody".to_owned(),
        None => format!("customer {id}"),
    }
}

/// What stands in the maps.
#[derive(Clone, PartialEq, Debug)]
pub struct World {
    /// SETTINGS.
    pub settings: Settings,
    /// TUNNELS.
    pub tunnels: BTreeMap<u32, Tunnel>,
    /// CUSTOMERS and CUSTOMERS6.
    pub customers: BTreeMap<IpAddr, Customer>,
    /// PEERS: who is one.
    pub peers: BTreeSet<Ipv6>,
    /// INBOUND_SPIS.
    pub inbound_spis: BTreeMap<u32, u32>,
    /// OUTBOUND_SPIS.
    pub outbound_spis: BTreeMap<OutboundSpi, u32>,
    /// PROGRAMS: whether it is filled.
    pub continuations: bool,
}

impl World {
    /// The usual one.
    pub fn usual() -> Self {
        let customers = CUSTOMERS.iter().flat_map(|customer| {
            let servers = [Some(IpAddr::V4(customer.server)), customer.server6.map(IpAddr::V6)];
            servers.into_iter().flatten().map(|server| (server, Customer { id: customer.id }))
        });
        let outbound =
            TUNNELS.iter().flat_map(|known| known.peers.map(|peer| (outbound(known, peer), known.id)));
        Self {
            settings: settings(),
            tunnels: TUNNELS.iter().map(|known| (known.id, tunnel(known))).collect(),
            customers: customers.collect(),
            peers: TUNNELS.iter().flat_map(|known| known.peers.map(Ipv6::from)).collect(),
            inbound_spis: TUNNELS.iter().map(|known| (known.inbound_spi, known.id)).collect(),
            outbound_spis: outbound.collect(),
            continuations: true,
        }
    }
}

fn tunnel(known: &KnownTunnel) -> Tunnel {
    let owner = known.owner();
    let lan6 = known.lan6.map(|(network, bits)| Prefix::new(Ipv6::from(network), bits));
    let server6 = owner.server6.map(Ipv6::from).unwrap_or_default();
    Tunnel {
        customer: known.customer,
        generation: 1,
        port: PORT,
        up: 1,
        _reserved: [0; 3],
        inbound_spis: [0; 2],
        v4: access(owner.server.into(), MSS_BYTES[0], &[Prefix::new(known.lan.0.into(), known.lan.1)]),
        quota: PLENTY,
        v6: access(server6, MSS_BYTES[1], lan6.as_slice()),
    }
}

fn access<A: Family>(server: A, mss: u16, prefixes: &[Prefix<A>]) -> Access<A> {
    let mut lan = [Prefix::default(); PREFIXES_PER_SITE];
    lan[..prefixes.len()].copy_from_slice(prefixes);
    Access { server, mss, prefix_count: prefixes.len() as u8, _reserved: 0, lan }
}

fn outbound(known: &KnownTunnel, peer: IpAddr) -> OutboundSpi {
    OutboundSpi { peer: peer.into(), spi: known.outbound_spi }
}

fn settings() -> Settings {
    let (mut internet, mut lan) = (Addresses::default(), Addresses::default());
    for (addresses, texts) in [
        (&mut internet, ["203.0.113.1", "2001:db8:113::1", "fe80::113"]),
        (&mut lan, ["10.200.0.1", "fd00:200::1", "fe80::200"]),
    ] {
        for text in texts {
            add_address(addresses, text.parse().expect("an address")).expect("room for it");
        }
    }
    let mut management = [ManagementRule::default(); MANAGEMENT_RULES];
    for (rule, text) in management.iter_mut().zip(["tcp 22 198.51.100.0/24", "tcp 22 2001:db8:51::/48"]) {
        *rule = management_rule(text).expect("a rule");
    }
    let mut timeouts = [Ticks::default(); STATE_SLOTS];
    for state in State::ALL {
        timeouts[*state as usize] = Ticks::from_seconds(state.default_timeout_seconds());
    }
    for slot in [RETRANSMISSION_SLOT, UNACKNOWLEDGED_SLOT] {
        timeouts[usize::from(slot)] = Ticks::from_seconds(DOUBTFUL_TIMEOUT_SECONDS);
    }
    Settings {
        ready: 1,
        internet_ifindex: 2,
        lan_ifindex: 1,
        lan_mtu: 1500,
        xdp: 1,
        adopt_midstream: 0,
        management_count: 2,
        _reserved: 0,
        internet,
        lan,
        management,
        timeouts,
    }
}

fn add_address(addresses: &mut Addresses, address: IpAddr) -> Result<()> {
    const FULL: &str = "the gateway has no room for more addresses";
    match address {
        IpAddr::V4(address) => {
            *addresses.v4.get_mut(addresses.v4_count as usize).context(FULL)? = address.into();
            addresses.v4_count += 1;
        }
        IpAddr::V6(address) => {
            *addresses.v6.get_mut(addresses.v6_count as usize).context(FULL)? = address.into();
            addresses.v6_count += 1;
        }
    }
    Ok(())
}

/// How a world changes: only what is named.
#[derive(Clone, Deserialize, Default, Debug)]
#[serde(deny_unknown_fields, default)]
pub struct Change {
    /// Whether the settings are filled in.
    pub ready: Option<bool>,
    /// Whether the programs are there that others go on in.
    pub continuations: Option<bool>,
    /// Whether connections in mid-stream are taken up.
    pub adopt_midstream: Option<bool>,
    /// Whether the outer filter runs in XDP, so that TCX charges no budgets.
    pub xdp: Option<bool>,
    /// The LAN's MTU in bytes.
    pub lan_mtu: Option<u32>,
    /// What customers may take.
    pub quota: BTreeMap<String, QuotaChange>,
    /// Timeouts in seconds, by the state's name, `retransmission` or `unacknowledged`.
    pub timeout_seconds: BTreeMap<String, u32>,
    /// Tunnels by name or number.
    pub tunnel: BTreeMap<String, TunnelChange>,
    /// Customers that are removed from the table of servers.
    pub remove_customers: Vec<String>,
    /// Inbound SPIs (0x...) and the tunnels they belong to from now on; "" for none.
    pub inbound_spis: BTreeMap<String, String>,
    /// Outbound SPIs of a peer (`198.18.0.1 0x...`), likewise.
    pub outbound_spis: BTreeMap<String, String>,
    /// More addresses of the gateway on the internet.
    pub internet_addresses: Vec<IpAddr>,
    /// The gateway has no addresses on the internet but those.
    pub no_internet_addresses: bool,
    /// More peers.
    pub peers: Vec<IpAddr>,
    /// More of the management allow-list: `udp 161 198.51.100.0/24`.
    pub management: Vec<String>,
}

/// How a tunnel changes.
#[derive(Clone, Deserialize, Default, Debug)]
#[serde(deny_unknown_fields, default)]
pub struct TunnelChange {
    /// Up or down.
    pub up: Option<bool>,
    /// The generation of its customer's server.
    pub generation: Option<u16>,
    /// The server's port.
    pub port: Option<u16>,
    /// The server.
    pub server: Option<IpAddr>,
    /// The site's LAN, in the family of these prefixes.
    pub lan: Option<Vec<String>>,
    /// The largest segment in IPv4.
    pub mss: Option<u16>,
    /// The largest segment in IPv6.
    pub mss6: Option<u16>,
    /// Whose it is.
    pub customer: Option<String>,
    /// There is no such tunnel any more.
    pub removed: bool,
}

/// How a quota changes.
#[derive(Clone, Deserialize, Default, Debug)]
#[serde(deny_unknown_fields, default)]
pub struct QuotaChange {
    /// Flows at once.
    pub flows: Option<u32>,
    /// Half-open flows at once.
    pub half_open: Option<u32>,
    /// Milliseconds between two new flows.
    pub interval_ms: Option<u32>,
    /// New flows at once.
    pub burst: Option<u32>,
}

impl World {
    /// Makes the change.
    pub fn apply(&mut self, change: &Change) -> Result<()> {
        if let Some(ready) = change.ready {
            self.settings.ready = u32::from(ready);
        }
        self.continuations = change.continuations.unwrap_or(self.continuations);
        if let Some(adopt) = change.adopt_midstream {
            self.settings.adopt_midstream = u32::from(adopt);
        }
        if let Some(xdp) = change.xdp {
            self.settings.xdp = u32::from(xdp);
        }
        self.settings.lan_mtu = change.lan_mtu.unwrap_or(self.settings.lan_mtu);
        for (name, quota) in &change.quota {
            let id = customer_id(name)?;
            for tunnel in self.tunnels.values_mut().filter(|tunnel| tunnel.customer == id) {
                quota.apply(&mut tunnel.quota);
            }
        }
        for (name, seconds) in &change.timeout_seconds {
            self.settings.timeouts[timeout_slot(name)?] = Ticks::from_seconds(*seconds);
        }
        for (name, change) in &change.tunnel {
            let id = tunnel_id(name)?;
            change.apply(self.tunnels.entry(id).or_default()).with_context(|| format!("tunnel {name}"))?;
            if change.removed {
                self.tunnels.remove(&id);
            }
        }
        for name in &change.remove_customers {
            let id = customer_id(name)?;
            self.customers.retain(|_, customer| customer.id != id);
        }
        for (spi, owner) in &change.inbound_spis {
            set(&mut self.inbound_spis, number(spi)?, owner)?;
        }
        for (spi, owner) in &change.outbound_spis {
            let (peer, spi) = spi.split_once(' ').context("an outbound SPI is `PEER SPI`")?;
            let spi = OutboundSpi { peer: peer.parse::<IpAddr>()?.into(), spi: number(spi)? };
            set(&mut self.outbound_spis, spi, owner)?;
        }
        if change.no_internet_addresses {
            self.settings.internet = Addresses::default();
        }
        for address in &change.internet_addresses {
            add_address(&mut self.settings.internet, *address)?;
        }
        self.peers.extend(change.peers.iter().map(|peer| Ipv6::from(*peer)));
        for rule in &change.management {
            let count = &mut self.settings.management_count;
            self.settings.management[*count as usize] = management_rule(rule)?;
            *count += 1;
        }
        Ok(())
    }
}

fn timeout_slot(name: &str) -> Result<usize> {
    Ok(match name {
        "retransmission" => usize::from(RETRANSMISSION_SLOT),
        "unacknowledged" => usize::from(UNACKNOWLEDGED_SLOT),
        state => {
            let known = State::ALL.iter().find(|known| known.name() == state);
            *known.with_context(|| format!("there is no timeout {name:?}"))? as usize
        }
    })
}

fn set<K: Ord>(spis: &mut BTreeMap<K, u32>, spi: K, owner: &str) -> Result<()> {
    match owner {
        "" => spis.remove(&spi),
        owner => spis.insert(spi, tunnel_id(owner)?),
    };
    Ok(())
}

fn management_rule(text: &str) -> Result<ManagementRule> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let [name, port, from] = words[..] else { bail!("{text:?} is not `PROTOCOL PORT PREFIX`") };
    let protocol = match name {
        "tcp" => protocol::TCP,
        "udp" => protocol::UDP,
        _ => bail!("{name:?} is neither tcp nor udp"),
    };
    let from = match from.parse::<IpNet>()? {
        IpNet::V4(net) => Prefix::new(Ipv6::from(IpAddr::V4(net.network())), 96 + net.prefix_len()),
        IpNet::V6(net) => Prefix::new(Ipv6::from(net.network()), net.prefix_len()),
    };
    Ok(ManagementRule { from, port: number(port)?, protocol, _reserved: 0 })
}

impl QuotaChange {
    fn apply(&self, quota: &mut Quota) {
        quota.flows = self.flows.unwrap_or(quota.flows);
        quota.half_open = self.half_open.unwrap_or(quota.half_open);
        let interval_ns = self.interval_ms.map(|ms| ms * 1_000_000);
        quota.new_flow_interval_ns = interval_ns.unwrap_or(quota.new_flow_interval_ns);
        quota.new_flow_burst = self.burst.unwrap_or(quota.new_flow_burst);
    }
}

impl TunnelChange {
    fn apply(&self, tunnel: &mut Tunnel) -> Result<()> {
        if let Some(up) = self.up {
            tunnel.up = u8::from(up);
        }
        if let Some(customer) = &self.customer {
            tunnel.customer = customer_id(customer)?;
        }
        tunnel.generation = self.generation.unwrap_or(tunnel.generation);
        tunnel.port = self.port.unwrap_or(tunnel.port);
        match self.server {
            Some(IpAddr::V4(server)) => tunnel.v4.server = server.into(),
            Some(IpAddr::V6(server)) => tunnel.v6.server = server.into(),
            None => {}
        }
        tunnel.v4.mss = self.mss.unwrap_or(tunnel.v4.mss);
        tunnel.v6.mss = self.mss6.unwrap_or(tunnel.v6.mss);
        if let Some(lan) = &self.lan {
            let nets = lan.iter().map(|text| Ok(text.parse()?)).collect::<Result<Vec<IpNet>>>()?;
            let (mut v4, mut v6) = (Vec::new(), Vec::new());
            for net in &nets {
                match net {
                    IpNet::V4(net) => v4.push(Prefix::new(Ipv4::from(net.addr()), net.prefix_len())),
                    IpNet::V6(net) => v6.push(Prefix::new(Ipv6::from(net.addr()), net.prefix_len())),
                }
            }
            ensure!(v4.is_empty() || v6.is_empty(), "a LAN changes in one family at a time");
            match v6.is_empty() {
                true => tunnel.v4 = access(tunnel.v4.server, tunnel.v4.mss, &v4),
                false => tunnel.v6 = access(tunnel.v6.server, tunnel.v6.mss, &v6),
            }
        }
        Ok(())
    }
}
