//! What the maps hold now.
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use anyhow::Result;
use gateway_common::{
    ids::TunnelId,
    layout::{Customer, OutboundSpi, Settings, Tunnel},
    wire::Ipv6,
};

use crate::kernel::maps::Maps;

/// What the maps hold, but for flows and counters.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Observed {
    /// For the whole gateway.
    pub settings: Settings,
    /// Tunnels by id.
    pub tunnels: BTreeMap<TunnelId, Tunnel>,
    /// Customers by their servers' addresses.
    pub customers: BTreeMap<IpAddr, Customer>,
    /// Inbound SPIs.
    pub inbound: BTreeMap<u32, u32>,
    /// Outbound SPIs.
    pub outbound: BTreeMap<OutboundSpi, u32>,
    /// Outer addresses of peers, IPv4 mapped into IPv6.
    pub peers: BTreeSet<Ipv6>,
}

/// Reads the maps.
pub fn observe(maps: &Maps) -> Result<Observed> {
    Ok(Observed {
        settings: maps.settings()?,
        tunnels: maps.tunnels()?,
        customers: maps.customers()?,
        inbound: maps.inbound_spis()?,
        outbound: maps.outbound_spis()?,
        peers: maps.peers()?,
    })
}
