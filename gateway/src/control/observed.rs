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

use crate::{control::desired::Desired, kernel::maps::Maps};

/// The contents of the maps, except flows and counters.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Observed {
    /// The gateway's settings.
    pub settings: Settings,
    /// Bindings by reqid.
    pub bindings: BTreeMap<Reqid, Binding>,
    /// Tunnels by id.
    pub tunnels: BTreeMap<TunnelId, Tunnel>,
    /// Customers by their servers' addresses.
    pub customers: BTreeMap<IpAddr, Customer>,
    /// Tunnel numbers by inbound SPI.
    pub inbound: BTreeMap<u32, u32>,
    /// Tunnel numbers by outbound SPI.
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

/// Reads the settings and the entries under the keys of `desired`, in a time independent of the number of
/// other customers. SPIs and peers stay empty.
pub fn observe_of(maps: &Maps, desired: &Desired) -> Result<Observed> {
    let mut observed = Observed {
        settings: maps.settings()?,
        bindings: BTreeMap::new(),
        tunnels: BTreeMap::new(),
        customers: BTreeMap::new(),
        inbound: BTreeMap::new(),
        outbound: BTreeMap::new(),
        peers: BTreeSet::new(),
    };
    for id in desired.tunnels.keys() {
        if let Some(reqid) = Reqid::new(id.get()) {
            let binding = maps.binding(reqid)?;
            if binding.site != 0 {
                observed.bindings.insert(reqid, binding);
            }
        }
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
