//! Path MTUs that a server learns from the gateway's ICMP messages.
use std::{collections::BTreeSet, net::IpAddr};

use ::gateway::status::TunnelStatus;
use anyhow::{Context, Result, ensure};
use gateway_tests_kit::{namespace::Namespace, process::output};
use ipnet::IpNet;

use super::ground::{BULK_BYTES, LINK_MTU, TCP_HEADER_BYTES, server_of, tunnel_mtu, with_change};
use crate::{
    capture::{Capture, Frame},
    device::Connection,
    gateway::increase,
    lab::{Lab, Site},
    site::Ends,
    topology::{GATEWAY_LAN, GATEWAY_LAN_V6, seen_address},
};

/// Reduced MTU of a link between the gateway and a site, in bytes. A tunnel over it still holds 1280 bytes,
/// as every IPv6 link must (RFC 8200 section 5).
const PATH_MTU: usize = 1400;

/// The peer's SYN promises a server segments as large as its own link's. It learns the tunnel's MTU from
/// ICMP.
pub fn server_learns_tunnel_mtu(lab: &mut Lab) -> Result<()> {
    for site in lab.sites() {
        let server = server_of(lab, site)?;
        with_change(
            || {
                forget_mtus(lab, site)?;
                lie_about_mtu(server, LINK_MTU)
            },
            || server_learns(lab, site, LINK_MTU),
            || {
                stop_lying(server)?;
                forget_mtus(lab, site)
            },
        )
        .with_context(|| site.spec.full_name())?;
    }
    Ok(())
}

/// A link between the gateway and a site has a smaller MTU than the gateway's own: its router tells the
/// gateway that an ESP packet is too big, and the gateway tells the server. Once gatewayd knows the path MTU,
/// the SYN would tell the server, too, also in the site's second family; the test makes the SYN promise the
/// MTU of the gateway's own link.
pub fn server_learns_path_mtu(lab: &Lab, name: &str) -> Result<()> {
    let site = lab.site(name)?;
    let server = server_of(lab, site)?;
    let route = |verb: &str, of: &[&str]| {
        let destination = IpNet::from(seen_address(site.spec)).to_string();
        let route = ["route", verb, &destination, "dev", name];
        output(lab.topology.internet.command("ip").args(route).args(of)).map(drop)
    };
    with_change(
        || {
            forget_mtus(lab, site)?;
            lie_about_mtu(server, tunnel_mtu(site.spec, LINK_MTU))?;
            route("add", &["mtu", &PATH_MTU.to_string()])
        },
        || {
            server_learns(lab, site, PATH_MTU)?;
            let learnt = |tunnel: &TunnelStatus| {
                tunnel.site == name && tunnel.path_mtu_bytes == u32::try_from(PATH_MTU).ok()
            };
            lab.wait_for_status("the path MTU", |status| status.tunnels.iter().any(learnt)).map(drop)
        },
        || {
            route("del", &[])?;
            stop_lying(server)?;
            forget_mtus(lab, site)
        },
    )
}

/// Downloads in each family of the site. The gateway must tell the server the tunnel's MTU over a path of
/// this MTU, and must drop nothing.
fn server_learns(lab: &Lab, site: Site<'_>, path_mtu: usize) -> Result<()> {
    let mtu = tunnel_mtu(site.spec, path_mtu);
    site.spec.ends().into_iter().try_for_each(|ends| server_learns_about(lab, site, ends, mtu))
}

fn server_learns_about(lab: &Lab, site: Site<'_>, ends: Ends, mtu: usize) -> Result<()> {
    let before = lab.drops()?;
    let server = server_of(lab, site)?;
    let capture = Capture::start(server, "eth0")?;
    let downloaded = Connection::open(site.device, ends.server)?.download(BULK_BYTES);
    let told: BTreeSet<_> =
        capture.stop()?.iter().filter_map(too_big).filter(|(of, _)| *of == ends.device).collect();
    let dropped = increase(&before, &lab.drops()?);
    downloaded.with_context(|| format!("the server was told {told:?}; dropped: {dropped:?}"))?;
    ensure!(told.iter().map(|(_, mtu)| *mtu).eq([mtu]), "the server was told {told:?}, not {mtu} bytes");
    ensure!(dropped.is_empty(), "dropped: {dropped:?}");
    let route = output(server.command("ip").args(["route", "get", &ends.device.to_string()]))?;
    ensure!(route.contains(&format!("mtu {mtu} ")), "the server's route does not know {mtu} bytes: {route}");
    Ok(())
}

/// Parses the gateway's message that a packet was too big: returns the packet's destination and the MTU. RFC
/// 1191 section 4, RFC 4443 section 3.2; the quoted header begins at byte 8 of the message.
fn too_big(frame: &Frame) -> Option<(IpAddr, usize)> {
    let own = [IpAddr::from(GATEWAY_LAN), GATEWAY_LAN_V6.into()];
    let message = frame.payload()?;
    if frame.outgoing || !own.contains(&frame.addresses()?.0) {
        return None;
    }
    match (frame.ip_protocol()?, message.get(..2)?) {
        (1, [3, 4]) => {
            let destination: [u8; 4] = message.get(24..28)?.try_into().ok()?;
            Some((destination.into(), u16::from_be_bytes(message[6..8].try_into().ok()?).into()))
        }
        (58, [2, 0]) => {
            let destination: [u8; 16] = message.get(32..48)?.try_into().ok()?;
            let mtu = u32::from_be_bytes(message[4..8].try_into().ok()?);
            Some((destination.into(), mtu.try_into().ok()?))
        }
        _ => None,
    }
}

/// Rewrites the MSS of arriving SYNs, so that the server takes this MTU for every peer's. Assumes the MSS
/// option first, where Linux puts it.
fn lie_about_mtu(server: &Namespace, mtu: usize) -> Result<()> {
    let tc = |args: &str| output(server.command("tc").args(args.split_whitespace())).map(drop);
    tc("qdisc add dev eth0 clsact")?;
    for (priority, (family, protocol_at, tcp_at)) in (1..).zip([("ip", 9, 20), ("ipv6", 6, 40)]) {
        let (flags_at, option_at) = (tcp_at + 13, tcp_at + TCP_HEADER_BYTES);
        let (mss_at, mss) = (option_at + 2, mtu - option_at);
        // Matches TCP, the SYN flag, and an MSS option (kind 2, length 4).
        tc(&format!(
            "filter add dev eth0 ingress priority {priority} protocol {family} u32 \
             match u8 6 0xff at {protocol_at} match u8 0x02 0x02 at {flags_at} \
             match u16 0x0204 0xffff at {option_at} \
             action pedit munge offset {mss_at} u16 set {mss} pipe action csum tcp"
        ))?;
    }
    Ok(())
}

fn stop_lying(server: &Namespace) -> Result<()> {
    output(server.command("tc").args(["qdisc", "del", "dev", "eth0", "clsact"])).map(drop)
}

/// Flushes the path MTUs that the server, the gateway and the site's router have learnt.
fn forget_mtus(lab: &Lab, site: Site<'_>) -> Result<()> {
    for namespace in [server_of(lab, site)?, &lab.topology.gateway, site.router] {
        for family in ["-4", "-6"] {
            output(namespace.command("ip").args([family, "route", "flush", "cache"]))?;
        }
    }
    Ok(())
}
