//! The world that packets meet: what stands in the maps.
//!
//! | customer | server | tunnel | LAN | peer |
//! |---|---|---|---|---|
//! | acme (1) | 10.200.0.11:80 | berlin (1) | 192.168.0.0/16 | 198.18.0.1 |
//! | | | munich (2) | 10.20.0.0/16 | 198.18.0.2 |
//! | globex (2) | 10.200.0.12:80 | paris (3) | 192.168.0.0/16 | 198.18.0.3 |
//! | initech (3) | 10.200.0.13:80 | oslo (4) | 10.30.0.0/16 | 198.18.0.4 |
//!
//! All tunnels are up, generation 1. Inbound SPIs are 0xc0de0001 to 4, outbound ones 0xbeef0001 to
//! 4, by tunnel id. The gateway is 203.0.113.1 on the internet and 10.200.0.1 on the LAN;
//! 198.51.100.0/24 may reach its TCP port 22. Timeouts are the default ones, and connections in
//! mid-stream are not taken up.
use std::{collections::BTreeMap, net::Ipv4Addr};

use anyhow::{Context, Result, bail};
use gateway_common::{
    layout::{Customer, ManagementRule, OutboundSpi, Prefix, Settings, Ticks, Tunnel},
    limits::{MANAGEMENT_RULES, OWN_ADDRESSES, PREFIXES_PER_SITE, TUNNEL_MSS_BYTES},
    tcp::{DOUBTFUL_TIMEOUT_SECONDS, RETRANSMISSION_SLOT, STATE_SLOTS, State, UNACKNOWLEDGED_SLOT},
    wire::{Ipv4, protocol},
};
use serde::Deserialize;

use super::packet::number;

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
    /// The peer's outer address.
    pub peer: [u8; 4],
    /// Network and bits.
    pub lan: ([u8; 4], u8),
}

const fn known(name: &'static str, id: u32, customer: u32, lan: ([u8; 4], u8)) -> KnownTunnel {
    let (inbound_spi, outbound_spi) = (0xc0de_0000 + id, 0xbeef_0000 + id);
    KnownTunnel { name, id, customer, inbound_spi, outbound_spi, peer: [198, 18, 0, id as u8], lan }
}

/// All tunnels of the usual world.
pub const TUNNELS: [KnownTunnel; 4] = [
    known("berlin", 1, 1, ([192, 168, 0, 0], 16)),
    known("munich", 2, 1, ([10, 20, 0, 0], 16)),
    known("paris", 3, 2, ([192, 168, 0, 0], 16)),
    known("oslo", 4, 3, ([10, 30, 0, 0], 16)),
];

/// All customers, their ids and servers.
pub const CUSTOMERS: [(&str, u32, [u8; 4]); 3] =
    [("acme", 1, [10, 200, 0, 11]), ("globex", 2, [10, 200, 0, 12]), ("initech", 3, [10, 200, 0, 13])];

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
    match CUSTOMERS.iter().find(|(other, ..)| *other == name.trim()) {
        Some((_, id, _)) => Ok(*id),
        None if name.trim() == "nobody" => Ok(0),
        None => bail!("there is no customer {name:?}"),
    }
}

/// A customer's name by its id.
pub fn customer_name(id: u32) -> String {
    match CUSTOMERS.iter().find(|(_, other, _)| *other == id) {
        Some((name, ..)) => (*name).to_owned(),
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
    /// CUSTOMERS.
    pub customers: BTreeMap<Ipv4Addr, Customer>,
    /// INBOUND_SPIS.
    pub inbound_spis: BTreeMap<u32, u32>,
    /// OUTBOUND_SPIS.
    pub outbound_spis: BTreeMap<OutboundSpi, u32>,
}

impl World {
    /// The usual one.
    pub fn usual() -> Self {
        let tunnel = |known: &KnownTunnel| {
            let mut lan = [Prefix::default(); PREFIXES_PER_SITE];
            lan[0] = Prefix::new(Ipv4 { octets: known.lan.0 }, known.lan.1);
            let [(.., server)] =
                CUSTOMERS.iter().filter(|(_, id, _)| *id == known.customer).collect::<Vec<_>>()[..]
            else {
                panic!("every tunnel has a customer")
            };
            Tunnel {
                customer: known.customer,
                up: 1,
                prefix_count: 1,
                mss: TUNNEL_MSS_BYTES,
                server: Ipv4 { octets: *server },
                port: PORT,
                _reserved: 0,
                generation: 1,
                lan,
            }
        };
        let customer = |id| Customer { id, generation: 1, port: PORT, _reserved: 0 };
        Self {
            settings: settings(),
            tunnels: TUNNELS.iter().map(|known| (known.id, tunnel(known))).collect(),
            customers: CUSTOMERS.iter().map(|(_, id, server)| ((*server).into(), customer(*id))).collect(),
            inbound_spis: TUNNELS.iter().map(|known| (known.inbound_spi, known.id)).collect(),
            outbound_spis: TUNNELS.iter().map(|known| (outbound(known), known.id)).collect(),
        }
    }
}

fn outbound(known: &KnownTunnel) -> OutboundSpi {
    OutboundSpi { peer: Ipv4 { octets: known.peer }, spi: known.outbound_spi }
}

fn settings() -> Settings {
    let mut internet_addresses = [Ipv4::default(); OWN_ADDRESSES];
    internet_addresses[0] = Ipv4 { octets: [203, 0, 113, 1] };
    let mut lan_addresses = [Ipv4::default(); OWN_ADDRESSES];
    lan_addresses[0] = Ipv4 { octets: [10, 200, 0, 1] };
    let mut management = [ManagementRule::default(); MANAGEMENT_RULES];
    management[0] = ManagementRule {
        from: Prefix::new(Ipv4 { octets: [198, 51, 100, 0] }, 24),
        port: 22,
        protocol: protocol::TCP,
        _reserved: 0,
    };
    let mut timeouts = [Ticks::default(); STATE_SLOTS];
    for state in State::ALL {
        timeouts[*state as usize] = Ticks::from_seconds(state.default_timeout_seconds());
    }
    for slot in [RETRANSMISSION_SLOT, UNACKNOWLEDGED_SLOT] {
        timeouts[usize::from(slot)] = Ticks::from_seconds(DOUBTFUL_TIMEOUT_SECONDS);
    }
    Settings {
        ready: 1,
        lan_ifindex: 1,
        internet_address_count: 1,
        lan_address_count: 1,
        management_count: 1,
        internet_ifindex: 2,
        adopt_midstream: 0,
        internet_addresses,
        lan_addresses,
        management,
        timeouts,
    }
}

/// How a world changes: only what is named.
#[derive(Clone, Deserialize, Default, Debug)]
#[serde(deny_unknown_fields, default)]
pub struct Change {
    /// Whether the settings are filled in.
    pub ready: Option<bool>,
    /// Whether connections in mid-stream are taken up.
    pub adopt_midstream: Option<bool>,
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
    pub internet_addresses: Vec<Ipv4Addr>,
    /// More of the management allow-list: `udp 161 198.51.100.0/24`.
    pub management: Vec<String>,
}

/// How a tunnel changes.
#[derive(Clone, Deserialize, Default, Debug)]
#[serde(deny_unknown_fields, default)]
pub struct TunnelChange {
    /// Up or down.
    pub up: Option<bool>,
    /// The policy generation.
    pub generation: Option<u32>,
    /// The server's port.
    pub port: Option<u16>,
    /// The server.
    pub server: Option<Ipv4Addr>,
    /// The site's LAN.
    pub lan: Option<Vec<String>>,
    /// The largest segment.
    pub mss: Option<u16>,
    /// Whose it is.
    pub customer: Option<String>,
    /// There is no such tunnel any more.
    pub removed: bool,
}

impl World {
    /// Makes the change.
    pub fn apply(&mut self, change: &Change) -> Result<()> {
        if let Some(ready) = change.ready {
            self.settings.ready = u32::from(ready);
        }
        if let Some(adopt) = change.adopt_midstream {
            self.settings.adopt_midstream = u32::from(adopt);
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
            let spi = OutboundSpi { peer: peer.parse::<Ipv4Addr>()?.into(), spi: number(spi)? };
            set(&mut self.outbound_spis, spi, owner)?;
        }
        for address in &change.internet_addresses {
            let count = &mut self.settings.internet_address_count;
            self.settings.internet_addresses[*count as usize] = (*address).into();
            *count += 1;
        }
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
    Ok(ManagementRule { from: prefix(from)?, port: number(port)?, protocol, _reserved: 0 })
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
        tunnel.server = self.server.map_or(tunnel.server, Ipv4::from);
        tunnel.mss = self.mss.unwrap_or(tunnel.mss);
        if let Some(lan) = &self.lan {
            tunnel.lan = [Prefix::default(); PREFIXES_PER_SITE];
            for (to, from) in tunnel.lan.iter_mut().zip(lan) {
                *to = prefix(from)?;
            }
            tunnel.prefix_count = u8::try_from(lan.len())?;
        }
        Ok(())
    }
}

fn prefix(text: &str) -> Result<Prefix> {
    let (network, bits) = text.split_once('/').with_context(|| format!("{text:?} is no prefix"))?;
    Ok(Prefix::new(network.parse::<Ipv4Addr>()?.into(), number(bits)?))
}
