//! Packets of every size: what does not fit a tunnel, or a link on its way, still gets through.
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
    Scenario { name: "esp_in_fragments_from_a_small_uplink_works", run: fragmented_esp },
    Scenario { name: "ike_messages_in_ip_fragments_make_a_tunnel", run: fragmented_ike },
];

/// Of every link of the lab, in bytes.
const LINK_MTU: usize = 1500;
/// Of a link on the way from the gateway to a site, in bytes. A tunnel in it takes what every IPv6 link
/// must: 1280 bytes (RFC 8200 section 5).
const PATH_MTU: usize = 1400;
/// Of a site's uplink that is smaller, in bytes, in IPv4 and in IPv6.
const SMALL_MTU: (usize, usize) = (600, 1280);
const TCP_HEADER_BYTES: usize = 20;
/// More than a thousand packets.
const BULK_BYTES: usize = 2 << 20;

/// Both ends offer what their links hold, and each is told no more than the tunnel holds, and not much less.
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

/// The MSS option of the only SYN or SYN-ACK.
fn mss(frames: &[Frame], outgoing: bool, ack: bool) -> Option<usize> {
    let mut segments = frames.iter().filter(|frame| frame.outgoing == outgoing).filter_map(Frame::segment);
    let syn: Segment = segments.find(|segment| segment.header.syn && segment.header.ack == ack)?;
    syn.header.options_iterator().find_map(|option| match option {
        Ok(TcpOptionElement::MaximumSegmentSize(bytes)) => Some(usize::from(bytes)),
        _ => None,
    })
}

/// First one direction after the other, then both at once.
fn bulk_transfers(lab: &mut Lab) -> Result<()> {
    let before = lab.drops()?;
    for (site, ends) in families(lab) {
        transfer(site, ends)?;
    }
    in_parallel(families(lab), |(site, ends)| {
        in_parallel(vec![true, false], |up| {
            let mut connection = Connection::open(site.device, ends.server)?;
            if up { connection.upload(BULK_BYTES) } else { connection.download(BULK_BYTES) }
                .with_context(|| format!("{} with {}, all at once", site.spec.full_name(), ends.server))
        })
    })?;
    ensure_no_drops(lab, &before)
}

/// A server is told by its peer's SYN that segments may be as large as its own link's. It finds out.
fn server_learns_tunnel_mtu(lab: &mut Lab) -> Result<()> {
    for site in lab.sites() {
        let server = server_of(lab, site)?;
        changed(
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

/// A link between the gateway and a site takes less than the gateway's own: its router tells the gateway
/// that an ESP packet is too big, and the gateway the server. The SYN would tell the server so as soon as
/// gatewayd has heard of it, and with that of the site's second family: it is made to promise what the
/// gateway's own link holds.
fn server_learns_path_mtu(lab: &Lab, name: &str) -> Result<()> {
    let site = lab.site(name)?;
    let server = server_of(lab, site)?;
    let route = |verb: &str, of: &[&str]| {
        let destination = IpNet::from(seen_address(site.spec)).to_string();
        let route = ["route", verb, &destination, "dev", name];
        output(lab.topology.internet.command("ip").args(route).args(of)).map(drop)
    };
    changed(
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

/// Downloads, in each family of the site; the gateway must tell the server what the tunnel holds on a path of
/// this MTU, and nothing may be lost for another reason.
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

/// Where a packet was going that the gateway says is too big, and what is not: RFC 1191 section 4, RFC 4443
/// section 3.2. The quoted header begins at byte 8 of the message.
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

/// Has a server believe that every peer takes packets of this many bytes, whatever the SYN says when it
/// arrives. The option is the first one, as Linux writes it.
fn lie_about_mtu(server: &Namespace, mtu: usize) -> Result<()> {
    let tc = |args: &str| output(server.command("tc").args(args.split_whitespace())).map(drop);
    tc("qdisc add dev eth0 clsact")?;
    for (priority, (family, protocol_at, tcp_at)) in (1..).zip([("ip", 9, 20), ("ipv6", 6, 40)]) {
        let (flags_at, option_at) = (tcp_at + 13, tcp_at + TCP_HEADER_BYTES);
        let (mss_at, mss) = (option_at + 2, mtu - option_at);
        // TCP; SYN; kind 2, length 4.
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

/// What path-MTU discovery has taught the server and the gateway.
fn forget_mtus(lab: &Lab, site: Site<'_>) -> Result<()> {
    for namespace in [server_of(lab, site)?, &lab.topology.gateway, site.router] {
        for family in ["-4", "-6"] {
            output(namespace.command("ip").args([family, "route", "flush", "cache"]))?;
        }
    }
    Ok(())
}

/// Devices that do not ask for path-MTU discovery, behind uplinks that hold less than an ESP packet: the
/// gateway gets every large one in fragments, of ESP and of UDP.
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
        changed(
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
            "the gateway got {fragments:?}"
        );
        wait_for("the gateway to have no fragments any more", PATIENCE, || has_no_fragments(lab))?;
        // When the machine is busy the gateway loses a fragment now and then, and its kernel then wants to
        // say so: RFC 792, "fragment reassembly time exceeded".
        let mut dropped = increase(&before, &lab.drops()?);
        dropped.remove(&("-".to_owned(), Reason::GatewayTrafficNotAllowed.name().to_owned()));
        ensure!(dropped.is_empty(), "dropped: {dropped:?}");
    }
    Ok(())
}

/// Something once no packet waits for the rest of its fragments.
fn has_no_fragments(lab: &Lab) -> Result<Option<()>> {
    let read = |name| fs::read_to_string(Path::new("/proc/thread-self/net").join(name));
    let statistics = lab.topology.gateway.enter(|| Ok([read("sockstat")?, read("sockstat6")?].concat()))?;
    let none = |family| statistics.lines().any(|line| line.starts_with(&format!("{family}: inuse 0 ")));
    Ok((none("FRAG") && none("FRAG6")).then_some(()))
}

/// Both ends have certificates of several kilobytes and do not fragment IKE themselves, so that IP does.
fn fragmented_ike(lab: &mut Lab) -> Result<()> {
    const NEVER: u32 = 9000;
    let spec = &SITES[0];
    let drops_before = lab.drops()?;
    let (own, sites) = (lab.credentials.clone(), lab.authority.issue(spec.identity)?);
    let large = (lab.authority.issue_large(GATEWAY_IDENTITY)?, lab.authority.issue_large(spec.identity)?);
    changed(
        || use_certificates(lab, &large.0, &large.1, NEVER),
        || {
            let both = wait_for("fragments of IKE from both ends", PATIENCE, || {
                let seen = Capture::start(&lab.topology.internet, "gateway")?;
                reconnect(lab, spec.name)?;
                let frames = seen.stop()?;
                let (to, from) = (fragments(&frames, true, UDP), fragments(&frames, false, UDP));
                // The gateway may not have taken its new certificate yet.
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

/// Gives the gateway and the first site these certificates, and both charons this fragment size.
fn use_certificates(lab: &Lab, gateways: &Issued, sites: &Issued, fragment_bytes: u32) -> Result<()> {
    let site = lab.sites()[0];
    lab.gateway().charon().set_fragment_bytes(&lab.topology.gateway, fragment_bytes)?;
    site.charon.set_fragment_bytes(site.router, fragment_bytes)?;
    lab.load_router(0, sites)?;
    place_gateway_keys(&lab.authority, gateways)?;
    lab.gateway().reload()?;
    lab.wait_for_status("gatewayd to be content", |status| {
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

/// How many IP fragments there were.
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

/// Of this protocol, to or from the gateway; the capture is at its next hop, where only the gateway receives.
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

/// Whether a packet of this protocol is a later fragment, and whether more follow: RFC 791 section 3.1, RFC
/// 8200 section 4.5. None of an IPv6 packet that is whole.
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

/// Does `work` with something changed, and undoes the change whatever happens.
fn changed(
    change: impl FnOnce() -> Result<()>,
    work: impl FnOnce() -> Result<()>,
    undo: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let done = change().and_then(|()| work());
    match (done, undo().context("it cannot be undone")) {
        (Err(error), Err(also)) => Err(error.context(format!("{also:#}"))),
        (done, undone) => done.and(undone),
    }
}

/// The largest inner packet that fits a tunnel over a path that takes `path_mtu` bytes: RFC 4303 section 2
/// (SPI, sequence number, IV, padding with two bytes behind it, ICV), RFC 3948 section 2.1 for ESP in UDP.
fn tunnel_mtu(site: &Spec, path_mtu: usize) -> usize {
    let (iv, icv, block) = match site.suite {
        Suite::Gcm => (8, 16, 4),
        Suite::Cbc => (16, 32, 16),
    };
    let ip = if site.uplink_v6 { 40 } else { 20 };
    let udp = if site.behind_nat { 8 } else { 0 };
    (path_mtu - ip - udp - 8 - iv - icv) / block * block - 2
}

/// Every site with each of its families.
fn families(lab: &Lab) -> Vec<(Site<'_>, Ends)> {
    let sites = lab.sites().into_iter();
    sites.flat_map(|site| site.spec.ends().into_iter().map(move |ends| (site, ends))).collect()
}

/// Of IP and of TCP without options, in bytes.
fn ip_tcp_headers(ends: Ends) -> usize {
    TCP_HEADER_BYTES + if ends.server.is_ipv4() { 20 } else { 40 }
}

fn server_of<'a>(lab: &'a Lab, site: Site<'_>) -> Result<&'a Namespace> {
    lab.topology.server(site.spec.customer)
}
