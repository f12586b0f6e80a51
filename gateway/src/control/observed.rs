//! What the maps hold now.
use std::{collections::BTreeMap, net::Ipv4Addr};

use anyhow::Result;
use gateway_common::{
    ids::TunnelId,
    layout::{Customer, OutboundSpi, Settings, Tunnel},
};

use crate::kernel::maps::Maps;

/// What the maps hold, but for flows and counters.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Observed {
    /// For the whole gateway.
    pub settings: Settings,
    /// Tunnels by id.
    pub tunnels: BTreeMap<TunnelId, Tunnel>,
    /// Customers by their servers.
    pub customers: BTreeMap<Ipv4Addr, Customer>,
    /// Inbound SPIs.
    pub inbound: BTreeMap<u32, u32>,
    /// Outbound SPIs.
    pub outbound: BTreeMap<OutboundSpi, u32>,
}

/// Reads the maps.
pub fn observe(maps: &Maps) -> Result<Observed> {
    Ok(Observed {
        settings: maps.settings()?,
        tunnels: maps.tunnels()?,
        customers: maps.customers()?,
        inbound: maps.inbound_spis()?,
        outbound: maps.outbound_spis()?,
    })
}
