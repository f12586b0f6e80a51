//! Scenarios of packet sizes: data gets through even if packets do not fit the tunnel or a link on the path.
use std::{collections::BTreeSet, fs, net::IpAddr, path::Path};

use anyhow::{Context, Result, ensure};
use etherparse::TcpOptionElement;
use gateway_common::reason::Reason;
use gateway_tests_kit::{
    namespace::Namespace,
    process::{output, wait_for},
};
use ipnet::IpNet;

use super::tunnels::{PATIENCE, requests_arrive};
use crate::{
    capture::{Capture, Frame, Segment},
    charon::IKE_FRAGMENT_BYTES,
    device::{self, Connection},
    gateway::{Drops, increase},
    lab::{Lab, Site, in_parallel, place_gateway_keys},
    pki::Issued,
    scenario::Scenario,
    site::{Ends, GATEWAY_IDENTITY, SITES, Spec, Suite},
    topology::{GATEWAY_LAN, GATEWAY_LAN_V6, next_hop, seen_address},
};

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "mss_of_both_ends_fits_the_tunnel", run: mss_fits },
    Scenario { name: "bulk_transfers_arrive_whole_in_both_directions", run: bulk_transfers },
    Scenario {
        name: "server_sending_too_large_packets_learns_the_tunnels_mtu",
        run: server_learns_tunnel_mtu,
    },
    Scenario {
        name: "path_mtu_of_the_internet_reaches_the_server",
        run: |lab| server_learns_path_mtu(lab, "berlin"),
    },
    Scenario {
        name: "path_mtu_of_the_internet_reaches_the_server_of_a_site_behind_nat",
        run: |lab| server_learns_path_mtu(lab, "austin"),
    },
    Scenario {
        name: "path_mtu_of_the_ipv6_internet_reaches_the_server",
        run: |lab| server_learns_path_mtu(lab, "london"),
    },
    Scenario { name: "fragmented_esp_from_a_small_uplink_arrives", run: fragmented_esp },
    Scenario { name: "ike_in_ip_fragments_brings_a_tunnel_up", run: fragmented_ike },
];

/// MTU of every link of the lab, in bytes.
const LINK_MTU: usize = 1500;
/// Reduced MTU of a link between the gateway and a site, in bytes. A tunnel over it still holds 1280 bytes,
/// as every IPv6 link must (RFC 8200 section 5).
const PATH_MTU: usize = 1400;
/// MTU of a small uplink, in bytes, over IPv4 and over IPv6.
const SMALL_MTU: (usize, usize) = (600, 1280);
const TCP_HEADER_BYTES: usize = 20;
/// Size of a bulk transfer: more than a thousand packets.
const BULK_BYTES: usize = 2 << 20;

/// Both ends offer the MSS of their links, and each receives no more than the tunnel holds, and not much
/// less.
fn mss_fits(lab: &mut Lab) -> Result<()> {
    for (site, ends) in families(lab) {
        let (device, server) =
            (Capture::start(site.device, "eth0")?, Capture::start(server_of(lab, site)?, "eth0")?);
        Connection::open(site.device, ends.server)?.get("/mss")?;
        let (at_device, at_server) = (device.stop()?, server.stop()?);
        let headers = ip_tcp_headers(ends);
        let fits = tunnel_mtu(site.spec, LINK_MTU) - headers;
        for (what, sent, received, ack) in
            [("SYN", &at_device, &at_server, false), ("SYN-ACK", &at_server, &at_device, true)]
        {
            let offered = mss(sent, true, ack).with_context(|| format!("no {what} was sent"))?;
            let told = mss(received, false, ack).with_context(|| format!("no {what} arrived"))?;
            let name = format!("{} with {}", site.spec.full_name(), ends.server);
            ensure!(offered == LINK_MTU - headers, "{name}'s {what} offers {offered} bytes");
            ensure!(
                (fits - 64..=fits).contains(&told),
                "{name}'s tunnel holds segments of {fits} bytes, the {what} arrives with {told}"
            );
        }
    }
    Ok(())
}

/// Returns the MSS option of the only SYN or SYN-ACK.
fn mss(frames: &[Frame], outgoing: bool, ack: bool) -> Option<usize> {
    let mut segments = frames.iter().filter(|frame| frame.outgoing == outgoing).filter_map(Frame::segment);
    let syn: Segment = segments.find(|segment| segment.header.syn && segment.header.ack == ack)?;
    syn.header.options_iterator().find_map(|option| match option {
        Ok(TcpOptionElement::MaximumSegmentSize(bytes)) => Some(usize::from(bytes)),
        _ => None,
    })
}

/// Transfers in one direction after the other, then in both at once.
fn bulk_transfers(lab: &mut Lab) -> Result<()> {
    let before = lab.drops()?;
    for (site, ends) in families(lab) {
        transfer(site, ends)?;
    }
    in_parallel(families(lab), |(site, ends)| {
        in_parallel(vec![true, false], |up| {
            let mut connection = Connection::open(site.device, ends.server)?;
            if up { connection.upload(BULK_BYTES) } else { connection.download(BULK_BYTES) }
                .with_context(|| format!("{} with {}, all in parallel", site.spec.full_name(), ends.server))
        })
    })?;
    ensure_no_drops(lab, &before)
}

/// The peer's SYN promises a server segments as large as its own link's. It learns the tunnel's MTU from
/// ICMP.
fn server_learns_tunnel_mtu(lab: &mut Lab) -> Result<()> {
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
fn server_learns_path_mtu(lab: &Lab, name: &str) -> Result<()> {
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
        || server_learns(lab, site, PATH_MTU),
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

/// Devices without path-MTU discovery, behind uplinks too small for a large ESP packet: the gateway receives
/// those in fragments, of ESP and of UDP.
fn fragmented_esp(lab: &mut Lab) -> Result<()> {
    for site in
        lab.sites().into_iter().filter(|site| ["berlin", "austin", "london"].contains(&site.spec.name))
    {
        let before = lab.drops()?;
        let (family, small_mtu, default) = match site.spec.uplink_v6 {
            false => ("-4", SMALL_MTU.0, "0.0.0.0/0"),
            true => ("-6", SMALL_MTU.1, "::/0"),
        };
        let route = |mtu: usize| {
            let next_hop = next_hop(site.spec).to_string();
            let mtu = mtu.to_string();
            let change = [family, "route", "replace", default, "via", &next_hop, "mtu", &mtu];
            output(site.router.command("ip").args(change)).map(drop)
        };
        let seen = Capture::start(&lab.topology.internet, "gateway")?;
        with_change(
            || {
                site.device.set_sysctl("ipv4/ip_no_pmtu_disc", "1")?;
                route(small_mtu)
            },
            || {
                let answer = device::report_date(site.device, site.spec, site.spec.server.into())?;
                ensure!(answer.contains("received"), "the answer is {answer:?}");
                transfer(site, Ends { device: site.spec.device.into(), server: site.spec.server.into() })
            },
            || {
                site.device.set_sysctl("ipv4/ip_no_pmtu_disc", "0")?;
                route(LINK_MTU)
            },
        )
        .with_context(|| {
            format!(
                "{}; dropped: {:?}",
                site.spec.full_name(),
                lab.drops().map(|now| increase(&before, &now))
            )
        })?;
        let fragments = fragments(&seen.stop()?, true, if site.spec.behind_nat { UDP } else { ESP });
        ensure!(
            fragments.first > BULK_BYTES / LINK_MTU && fragments.later >= fragments.first,
            "the gateway received {fragments:?}"
        );
        wait_for("the gateway's reassembly queues to empty", PATIENCE, || has_no_fragments(lab))?;
        // On a busy machine the gateway loses a fragment now and then, and its kernel then tries to send
        // "fragment reassembly time exceeded" (RFC 792).
        let mut dropped = increase(&before, &lab.drops()?);
        dropped.remove(&("-".to_owned(), Reason::GatewayTrafficNotAllowed.name().to_owned()));
        ensure!(dropped.is_empty(), "dropped: {dropped:?}");
    }
    Ok(())
}

/// Returns `Some` once no packet waits for the rest of its fragments.
fn has_no_fragments(lab: &Lab) -> Result<Option<()>> {
    let read = |name| fs::read_to_string(Path::new("/proc/thread-self/net").join(name));
    let statistics = lab.topology.gateway.enter(|| Ok([read("sockstat")?, read("sockstat6")?].concat()))?;
    let none = |family| statistics.lines().any(|line| line.starts_with(&format!("{family}: inuse 0 ")));
    Ok((none("FRAG") && none("FRAG6")).then_some(()))
}

/// Both ends have certificates of several kilobytes and no IKE fragmentation, so that IP fragments their
/// messages.
fn fragmented_ike(lab: &mut Lab) -> Result<()> {
    const NEVER: u32 = 9000;
    let spec = &SITES[0];
    let drops_before = lab.drops()?;
    let (own, sites) = (lab.credentials.clone(), lab.authority.issue(spec.identity)?);
    let large = (lab.authority.issue_large(GATEWAY_IDENTITY)?, lab.authority.issue_large(spec.identity)?);
    with_change(
        || use_certificates(lab, &large.0, &large.1, NEVER),
        || {
            let both = wait_for("fragments of IKE from both ends", PATIENCE, || {
                let seen = Capture::start(&lab.topology.internet, "gateway")?;
                reconnect(lab, spec.name)?;
                let frames = seen.stop()?;
                let (to, from) = (fragments(&frames, true, UDP), fragments(&frames, false, UDP));
                // The gateway may not use its new certificate yet.
                Ok((to.is_whole() && from.is_whole()).then_some((to, from)))
            })
            .with_context(|| {
                format!("dropped: {:?}", lab.drops().map(|now| increase(&drops_before, &now)))
            })?;
            requests_arrive(lab).with_context(|| format!("{both:?}"))
        },
        || {
            use_certificates(lab, &own, &sites, IKE_FRAGMENT_BYTES)?;
            reconnect(lab, spec.name)
        },
    )?;
    let wrong: Vec<_> = increase(&drops_before, &lab.drops()?)
        .into_keys()
        .filter(|(_, reason)| reason != Reason::TunnelDown.name())
        .collect();
    ensure!(wrong.is_empty(), "dropped: {wrong:?}");
    Ok(())
}

/// Configures the gateway and the first site with these certificates, and both charons with this fragment
/// size.
fn use_certificates(lab: &Lab, gateways: &Issued, sites: &Issued, fragment_bytes: u32) -> Result<()> {
    let site = lab.sites()[0];
    lab.gateway().charon().set_fragment_bytes(&lab.topology.gateway, fragment_bytes)?;
    site.charon.set_fragment_bytes(site.router, fragment_bytes)?;
    lab.load_router(0, sites)?;
    place_gateway_keys(&lab.authority, gateways)?;
    lab.gateway().reload()?;
    lab.wait_for_status("gatewayd without failures", |status| {
        status.failed.is_empty() && status.charon.is_some()
    })
    .map(drop)
}

fn reconnect(lab: &Lab, name: &str) -> Result<()> {
    let site = lab.site(name)?;
    site.terminate()?;
    site.initiate()?;
    lab.wait_for_tunnels().map(drop)
}

const UDP: u8 = 17;
const ESP: u8 = 50;

/// Numbers of IP fragments.
#[derive(Debug, Clone, Copy, Default)]
struct Fragments {
    first: usize,
    later: usize,
}

impl Fragments {
    fn is_whole(self) -> bool {
        self.first > 0 && self.later > 0
    }
}

/// Counts fragments of this protocol to or from the gateway. The frames come from its next hop, where
/// outgoing means to the gateway.
fn fragments(frames: &[Frame], to_gateway: bool, protocol: u8) -> Fragments {
    let mut count = Fragments::default();
    for frame in frames.iter().filter(|frame| frame.outgoing == to_gateway) {
        if let Some((later, more)) = fragment(frame, protocol) {
            count.first += usize::from(!later && more);
            count.later += usize::from(later);
        }
    }
    count
}

/// Returns, for a packet of this protocol, if it is a later fragment, and if more fragments follow: RFC 791
/// section 3.1, RFC 8200 section 4.5. An unfragmented IPv6 packet is `None`.
fn fragment(frame: &Frame, protocol: u8) -> Option<(bool, bool)> {
    const FRAGMENT_HEADER: u8 = 44;
    match frame.ip_protocol()? {
        FRAGMENT_HEADER => {
            let &[next_header, _, high, low] = frame.payload()?.first_chunk()?;
            let bits = u16::from_be_bytes([high, low]);
            (next_header == protocol).then_some((bits & 0xfff8 != 0, bits & 1 != 0))
        }
        other if other == protocol && frame.addresses()?.0.is_ipv4() => {
            let bits = u16::from_be_bytes(frame.array(20)?);
            Some((bits & 0x1fff != 0, bits & 0x2000 != 0))
        }
        _ => None,
    }
}

fn transfer(site: Site<'_>, ends: Ends) -> Result<()> {
    let mut connection = Connection::open(site.device, ends.server)?;
    connection.upload(BULK_BYTES).with_context(|| format!("{} uploads", site.spec.full_name()))?;
    connection.download(BULK_BYTES).with_context(|| format!("{} downloads", site.spec.full_name()))
}

fn ensure_no_drops(lab: &Lab, before: &Drops) -> Result<()> {
    let dropped = increase(before, &lab.drops()?);
    ensure!(dropped.is_empty(), "dropped: {dropped:?}");
    Ok(())
}

/// Runs `change` and `work`, then `undo`, whatever fails.
fn with_change(
    change: impl FnOnce() -> Result<()>,
    work: impl FnOnce() -> Result<()>,
    undo: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let done = change().and_then(|()| work());
    match (done, undo().context("cannot undo the change")) {
        (Err(error), Err(also)) => Err(error.context(format!("{also:#}"))),
        (done, undone) => done.and(undone),
    }
}

/// Returns the largest inner packet of a tunnel over a path of `path_mtu` bytes: RFC 4303 section 2 (SPI,
/// sequence number, IV, padding and two bytes after it, ICV), RFC 3948 section 2.1 for ESP in UDP.
fn tunnel_mtu(site: &Spec, path_mtu: usize) -> usize {
    let (iv, icv, block) = match site.suite {
        Suite::Gcm => (8, 16, 4),
        Suite::Cbc => (16, 32, 16),
    };
    let ip = if site.uplink_v6 { 40 } else { 20 };
    let udp = if site.behind_nat { 8 } else { 0 };
    (path_mtu - ip - udp - 8 - iv - icv) / block * block - 2
}

/// Returns every site with the ends of each of its families.
fn families(lab: &Lab) -> Vec<(Site<'_>, Ends)> {
    let sites = lab.sites().into_iter();
    sites.flat_map(|site| site.spec.ends().into_iter().map(move |ends| (site, ends))).collect()
}

/// Returns the bytes of the IP and TCP headers without options.
fn ip_tcp_headers(ends: Ends) -> usize {
    TCP_HEADER_BYTES + if ends.server.is_ipv4() { 20 } else { 40 }
}

fn server_of<'a>(lab: &'a Lab, site: Site<'_>) -> Result<&'a Namespace> {
    lab.topology.server(site.spec.customer)
}
