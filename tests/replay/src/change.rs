//! How a case's world differs from the usual one.
use std::{collections::BTreeMap, net::IpAddr};

use anyhow::{Context, Result, ensure};
use gateway_common::{
    layout::{Addresses, Binding, OutboundSpi, Prefix, Quota, Share, Tunnel},
    outer::cookie::Secrets,
    tcp::{RETRANSMISSION_SLOT, State, UNACKNOWLEDGED_SLOT},
    time::Ticks,
    wire::{Ipv4, Ipv6},
};
use gateway_tests_kit::{
    settings::{add_address, management_rule},
    text::number,
    world::{World, access, customer_id, named_mark, named_reqid, secrets, tunnel_id},
};
use ipnet::IpNet;
use serde::Deserialize;

/// Changes to a world. Fields that a case does not name change nothing.
#[derive(Clone, Deserialize, Default, Debug)]
#[serde(deny_unknown_fields, default)]
pub struct Change {
    /// The settings are filled in.
    pub ready: Option<bool>,
    /// The programs that others tail-call are there.
    pub continuations: Option<bool>,
    /// Connections in mid-stream are adopted.
    pub adopt_midstream: Option<bool>,
    /// The outer filter runs in XDP, so that TCX charges no budgets.
    pub xdp: Option<bool>,
    /// The LAN's MTU in bytes.
    pub lan_mtu: Option<u32>,
    /// Quotas, by customer.
    pub quota: BTreeMap<String, QuotaChange>,
    /// Shares of quotas, by site.
    pub share: BTreeMap<String, ShareChange>,
    /// Timeouts in seconds, by the state's name, `retransmission` or `unacknowledged`.
    pub timeout_seconds: BTreeMap<String, u32>,
    /// Bindings by reqid: a number, or the site whose tunnel has it. A change replaces the binding.
    pub binding: BTreeMap<String, BindingChange>,
    /// Sites by name or number.
    pub tunnel: BTreeMap<String, TunnelChange>,
    /// Customers to remove from the table of servers.
    pub remove_customers: Vec<String>,
    /// Inbound SPIs (0x...) and the marks of the tunnels that own them from now on; "" removes an SPI. A site's name
    /// stands for the mark of its tunnel.
    pub inbound_spis: BTreeMap<String, String>,
    /// Outbound SPIs of a peer (`198.18.0.1 0x...`) and their marks, likewise.
    pub outbound_spis: BTreeMap<String, String>,
    /// More addresses of the gateway on the internet.
    pub internet_addresses: Vec<IpAddr>,
    /// Removes all other addresses of the gateway on the internet.
    pub no_internet_addresses: bool,
    /// More peers.
    pub peers: Vec<IpAddr>,
    /// The version of the newer secret of IKE cookies; 0: none is in force.
    pub cookie_secret: Option<u32>,
    /// More rules of the management allow-list: `udp 161 198.51.100.0/24`.
    pub management: Vec<String>,
}

/// A new binding of a reqid.
#[derive(Clone, Deserialize, Default, Debug)]
#[serde(deny_unknown_fields, default)]
pub struct BindingChange {
    /// The site, by name or number; none if left out.
    pub site: String,
    /// The mark: a number, or the site whose tunnel has it.
    pub mark: String,
    /// The inbound SPIs in the binding itself.
    pub inbound_spis: [u32; 2],
}

/// Changes to a site.
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
    /// The site's LAN: `10.20.0.0/16`, or `10.20.0.0/16 MARK` with the mark of the tunnel that answers to it take, if
    /// not the usual one. All prefixes are of one family; the other family's do not change.
    pub lan: Option<Vec<String>>,
    /// Largest TCP segment in IPv4.
    pub mss: Option<u16>,
    /// Largest TCP segment in IPv6.
    pub mss6: Option<u16>,
    /// The customer.
    pub customer: Option<String>,
    /// Removes the site.
    pub removed: bool,
}

/// Changes to a quota.
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

/// Changes to a site's share of its customer's quota.
#[derive(Clone, Deserialize, Default, Debug)]
#[serde(deny_unknown_fields, default)]
pub struct ShareChange {
    /// Flows at once.
    pub flows: Option<u32>,
    /// Half-open flows at once.
    pub half_open: Option<u32>,
}

impl Change {
    /// Applies the change to a world.
    pub fn apply(&self, world: &mut World) -> Result<()> {
        if let Some(ready) = self.ready {
            world.settings.ready = u32::from(ready);
        }
        world.continuations = self.continuations.unwrap_or(world.continuations);
        if let Some(adopt) = self.adopt_midstream {
            world.settings.adopt_midstream = u32::from(adopt);
        }
        if let Some(xdp) = self.xdp {
            world.settings.xdp = u32::from(xdp);
        }
        world.settings.lan_mtu = self.lan_mtu.unwrap_or(world.settings.lan_mtu);
        for (name, quota) in &self.quota {
            let id = customer_id(name)?;
            for tunnel in world.tunnels.values_mut().filter(|tunnel| tunnel.customer == id) {
                quota.apply(&mut tunnel.quota);
            }
        }
        for (name, share) in &self.share {
            share.apply(&mut world.tunnels.entry(tunnel_id(name)?).or_default().share);
        }
        for (name, seconds) in &self.timeout_seconds {
            world.settings.timeouts[timeout_slot(name)?] = Ticks::from_seconds(*seconds);
        }
        for (name, change) in &self.binding {
            world.bindings.insert(named_reqid(name)?, change.binding()?);
        }
        world.bindings.retain(|_, binding| *binding != Binding::default());
        for (name, change) in &self.tunnel {
            let id = tunnel_id(name)?;
            let usual = named_mark(name)?;
            change
                .apply(world.tunnels.entry(id).or_default(), usual)
                .with_context(|| format!("site {name}"))?;
            if change.removed {
                world.tunnels.remove(&id);
            }
        }
        for name in &self.remove_customers {
            let id = customer_id(name)?;
            world.customers.retain(|_, customer| customer.id != id);
        }
        for (spi, owner) in &self.inbound_spis {
            set(&mut world.inbound_spis, number(spi)?, owner)?;
        }
        for (spi, owner) in &self.outbound_spis {
            let (peer, spi) = spi.split_once(' ').context("an outbound SPI is `PEER SPI`")?;
            let spi = OutboundSpi { peer: peer.parse::<IpAddr>()?.into(), spi: number(spi)? };
            set(&mut world.outbound_spis, spi, owner)?;
        }
        if self.no_internet_addresses {
            world.settings.internet = Addresses::default();
        }
        for address in &self.internet_addresses {
            add_address(&mut world.settings.internet, *address)?;
        }
        match self.cookie_secret {
            None => {}
            Some(0) => world.secrets = Secrets::default(),
            Some(version) => world.secrets = secrets(version),
        }
        world.peers.extend(self.peers.iter().map(|peer| Ipv6::from(*peer)));
        for rule in &self.management {
            let count = &mut world.settings.management_count;
            world.settings.management[*count as usize] = management_rule(rule)?;
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
        owner => spis.insert(spi, named_mark(owner)?),
    };
    Ok(())
}

impl ShareChange {
    fn apply(&self, share: &mut Share) {
        share.flows = self.flows.unwrap_or(share.flows);
        share.half_open = self.half_open.unwrap_or(share.half_open);
    }
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

impl BindingChange {
    fn binding(&self) -> Result<Binding> {
        let number = |text: &str, of: fn(&str) -> Result<u32>| if text.is_empty() { Ok(0) } else { of(text) };
        let (site, mark) = (number(&self.site, tunnel_id)?, number(&self.mark, named_mark)?);
        Ok(Binding { site, mark, inbound_spis: self.inbound_spis })
    }
}

impl TunnelChange {
    fn apply(&self, tunnel: &mut Tunnel, usual_mark: u32) -> Result<()> {
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
            let (mut v4, mut v6, mut marks) = (Vec::new(), Vec::new(), Vec::new());
            for text in lan {
                let (net, mark) = text.split_once(' ').unwrap_or((text, ""));
                marks.push(if mark.is_empty() { usual_mark } else { named_mark(mark)? });
                match net.parse()? {
                    IpNet::V4(net) => v4.push(Prefix::new(Ipv4::from(net.addr()), net.prefix_len())),
                    IpNet::V6(net) => v6.push(Prefix::new(Ipv6::from(net.addr()), net.prefix_len())),
                }
            }
            ensure!(v4.is_empty() || v6.is_empty(), "a LAN changes in one family at a time");
            if v6.is_empty() {
                tunnel.v4 = access(tunnel.v4.server, tunnel.v4.mss, &v4, 0);
                tunnel.v4.marks[..marks.len()].copy_from_slice(&marks);
            } else {
                tunnel.v6 = access(tunnel.v6.server, tunnel.v6.mss, &v6, 0);
                tunnel.v6.marks[..marks.len()].copy_from_slice(&marks);
            }
        }
        Ok(())
    }
}
