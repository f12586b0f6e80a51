//! Names of flows of either family.
use std::net::IpAddr;

use anyhow::{Context, Result};
use gateway_common::{family::Family, layout::LayoutFamily, tcp::FlowKey, wire::Ipv4};

use crate::{text::endpoint, world::customer_id};

/// The key of a flow of either family.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct FlowId {
    /// The customer id.
    pub customer: u32,
    /// The device's address.
    pub device: IpAddr,
    /// The device's port.
    pub port: u16,
}

impl FlowId {
    /// Parses a customer and a device: `acme` and `192.168.1.2:40000`.
    pub fn parse(customer: &str, device: &str) -> Result<Self> {
        let (device, port) = endpoint(device)?;
        let port = port.context("the device's port is missing")?;
        Ok(Self { customer: customer_id(customer)?, device, port })
    }
}

/// Converts a flow's key of either family.
pub fn flow_id<A: LayoutFamily>(key: &FlowKey<A>) -> FlowId {
    let mapped = key.lan_address.mapped();
    let device = match A::HEADER_BYTES == Ipv4::HEADER_BYTES {
        true => mapped.into(),
        false => IpAddr::V6(mapped.into()),
    };
    FlowId { customer: key.customer, device, port: key.lan_port }
}
