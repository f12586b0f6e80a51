//! Sends an attack's packets and watches where they arrive.
use anyhow::Result;

use crate::{
    attack::Seen,
    frame::{Packet, send_packets},
    lab::Lab,
    watch::Watch,
};

/// Sends packets from a site's device. The router tunnels all of them, whatever their addresses.
pub fn send_from_device(lab: &Lab, site: &str, packets: &[Packet]) -> Result<Seen> {
    let device = lab.site(site)?.device;
    watched(lab, packets.len(), || send_packets(device, packets))
}

/// Sends packets from a customer's server.
pub fn send_from_server(lab: &Lab, customer: &str, packets: &[Packet]) -> Result<Seen> {
    let server = lab.topology.server(customer)?;
    watched(lab, packets.len(), || send_packets(server, packets))
}

/// Runs `send`, which sends `count` packets, none of which may arrive anywhere.
pub fn watched(lab: &Lab, count: usize, send: impl FnOnce() -> Result<()>) -> Result<Seen> {
    let watch = Watch::start(lab)?;
    send()?;
    Ok(Seen { sent: count.try_into()?, leaks: watch.leaks()?, ..Seen::default() })
}
