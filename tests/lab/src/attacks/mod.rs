//! The attacks. To add one, add an entry to one of the lists.
mod from_internet;
mod from_server;
mod from_site;
mod gro;
mod tunnel;

use anyhow::Result;

use crate::{
    attack::{Attack, Seen},
    frame::{Packet, send_packets},
    lab::Lab,
    watch::Watch,
};

/// All attacks, in the order of the report.
pub fn all() -> impl Iterator<Item = &'static Attack> {
    let lists =
        [from_site::ATTACKS, from_server::ATTACKS, from_internet::ATTACKS, tunnel::ATTACKS, gro::ATTACKS];
    lists.into_iter().flatten()
}

/// Sends packets from a site's device. The router tunnels all of them, whatever their addresses.
fn send_from_device(lab: &Lab, site: &str, packets: &[Packet]) -> Result<Seen> {
    let device = lab.site(site)?.device;
    watched(lab, packets.len(), || send_packets(device, packets))
}

/// Sends packets from a customer's server.
fn send_from_server(lab: &Lab, customer: &str, packets: &[Packet]) -> Result<Seen> {
    let server = lab.topology.server(customer)?;
    watched(lab, packets.len(), || send_packets(server, packets))
}

/// Runs `send`, which sends `count` packets, none of which may arrive anywhere.
fn watched(lab: &Lab, count: usize, send: impl FnOnce() -> Result<()>) -> Result<Seen> {
    let watch = Watch::start(lab)?;
    send()?;
    Ok(Seen { sent: count.try_into()?, leaks: watch.leaks()?, ..Seen::default() })
}
