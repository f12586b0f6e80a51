//! The current contents of the maps.
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use anyhow::Result;
use gateway_common::{
    ids::{Reqid, TunnelId},
    layout::{Binding, Customer, OutboundSpi, Settings, Tunnel},
    wire::Ipv6,
};

use crate::{
    control::{desired::Desired, live::Touched},
    kernel::maps::Maps,
};

/// The contents of the maps, except flows and counters.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Observed {
    /// The gateway's settings.
    pub settings: Settings,
    /// Bindings by reqid.
    pub bindings: BTreeMap<Reqid, Binding>,
    /// Sites by number.
    pub tunnels: BTreeMap<TunnelId, Tunnel>,
    /// Customers by their servers' addresses.
    pub customers: BTreeMap<IpAddr, Customer>,
    /// Marks by inbound SPI.
    pub inbound: BTreeMap<u32, u32>,
    /// Marks by outbound SPI.
    pub outbound: BTreeMap<OutboundSpi, u32>,
    /// Outer addresses of peers, IPv4 mapped into IPv6.
    pub peers: BTreeSet<Ipv6>,
}

/// Reads all these maps.
pub fn observe(maps: &Maps) -> Result<Observed> {
    Ok(Observed {
        settings: maps.settings()?,
        bindings: maps.bindings()?,
        tunnels: maps.tunnels()?,
        customers: maps.customers()?,
        inbound: maps.inbound_spis()?,
        outbound: maps.outbound_spis()?,
        peers: maps.peers()?,
    })
}

impl Observed {
    fn empty(settings: Settings) -> Self {
        Self {
            settings,
            bindings: BTreeMap::new(),
            tunnels: BTreeMap::new(),
            customers: BTreeMap::new(),
            inbound: BTreeMap::new(),
            outbound: BTreeMap::new(),
            peers: BTreeSet::new(),
        }
    }
}

/// Reads the entries under these keys of [`Live`](super::live::Live), in a time independent of the number of sites.
/// Customers stay empty.
pub fn observe_live(maps: &Maps, keys: &Touched) -> Result<Observed> {
    let mut observed = Observed::empty(maps.settings()?);
    for reqid in &keys.reqids {
        let binding = maps.binding(*reqid)?;
        if binding.site != 0 {
            observed.bindings.insert(*reqid, binding);
        }
    }
    for id in &keys.sites {
        let tunnel = maps.tunnel(*id)?;
        if tunnel.customer != 0 {
            observed.tunnels.insert(*id, tunnel);
        }
    }
    for spi in &keys.inbound {
        observed.inbound.extend(maps.inbound_spi(*spi)?.map(|mark| (*spi, mark)));
    }
    for spi in &keys.outbound {
        observed.outbound.extend(maps.outbound_spi(*spi)?.map(|mark| (*spi, mark)));
    }
    for peer in &keys.peers {
        if maps.has_peer(*peer)? {
            observed.peers.insert(*peer);
        }
    }
    Ok(observed)
}

/// Reads the settings and the entries under the keys of `desired`, in a time independent of the number of
/// other customers. SPIs and peers stay empty.
pub fn observe_of(maps: &Maps, desired: &Desired) -> Result<Observed> {
    let mut observed = Observed::empty(maps.settings()?);
    for id in desired.tunnels.keys() {
        let tunnel = maps.tunnel(*id)?;
        if tunnel.customer != 0 {
            observed.tunnels.insert(*id, tunnel);
        }
    }
    for server in desired.customers.keys() {
        if let Some(customer) = maps.customer(*server)? {
            observed.customers.insert(*server, customer);
        }
    }
    Ok(observed)
}
