//! Packets of every size: what does not fit a tunnel, or a link on its way, still gets through.
use std::{fs, net::Ipv4Addr};

use etherparse::TcpOptionElement;
use gateway_common::reason::Reason;

use super::*;
use crate::lab::{
    Site,
    capture::{Capture, Frame, Segment},
    charon::IKE_FRAGMENT_BYTES,
    namespace::Namespace,
    pki::Issued,
    place_gateway_keys,
    process::output,
    site::{GATEWAY_IDENTITY, Spec},
    topology::{GATEWAY, GATEWAY_LAN, next_hop, seen_address},
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
    Scenario { name: "esp_in_fragments_from_a_small_uplink_works", run: fragmented_esp },
    Scenario { name: "ike_messages_in_ip_fragments_make_a_tunnel", run: fragmented_ike },
];

/// Of every link of the lab, in bytes.
const LINK_MTU: usize = 1500;
/// Of a link on the way from the gateway to a site, in bytes.
const PATH_MTU: usize = 1300;
/// Of a site's uplink that is smaller, in bytes.
const SMALL_MTU: usize = 600;
/// IPv4 and TCP without options.
const IP_TCP_HEADERS: usize = 40;
/// More than a thousand packets.
const BULK_BYTES: usize = 2 << 20;

/// Both ends offer what their links hold, and each is told no more than the tunnel holds, and not much less.
fn mss_fits(lab: &mut Lab) -> Result<()> {
    for site in lab.sites() {
        let (device, server) =
            (Capture::start(site.device, "eth0")?, Capture::start(server_of(lab, site)?, "eth0")?);
        Connection::open(site.device, site.spec.server)?.get("/mss")?;
        let (at_device, at_server) = (device.stop()?, server.stop()?);
        let fits = tunnel_mtu(site.spec, LINK_MTU) - IP_TCP_HEADERS;
        for (what, sent, received, ack) in
            [("SYN", &at_device, &at_server, false), ("SYN-ACK", &at_server, &at_device, true)]
        {
            let offered = mss(sent, true, ack).with_context(|| format!("no {what} was sent"))?;
            let told = mss(received, false, ack).with_context(|| format!("no {what} arrived"))?;
            let name = site.spec.full_name();
            ensure!(offered == LINK_MTU - IP_TCP_HEADERS, "{name}'s {what} offers {offered} bytes");
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
    for site in lab.sites() {
        transfer(site)?;
    }
    in_parallel(lab.sites(), |site| {
        in_parallel(vec![true, false], |up| {
            let mut connection = Connection::open(site.device, site.spec.server)?;
            if up { connection.upload(BULK_BYTES) } else { connection.download(BULK_BYTES) }
                .with_context(|| format!("{}, all at once", site.spec.full_name()))
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
                lie_about_mss(server)
            },
            || server_learns(lab, site, tunnel_mtu(site.spec, LINK_MTU)),
            || {
                output(server.command("tc").args(["qdisc", "del", "dev", "eth0", "clsact"]))?;
                forget_mtus(lab, site)
            },
        )
        .with_context(|| site.spec.full_name())?;
    }
    Ok(())
}

/// A link between the gateway and a site takes less than the gateway's own: its router tells the gateway
/// that an ESP packet is too big, and the gateway the server.
fn server_learns_path_mtu(lab: &Lab, name: &str) -> Result<()> {
    let site = lab.site(name)?;
    let route = |verb: &str, of: &[&str]| {
        let destination = format!("{}/32", seen_address(site.spec));
        let route = ["route", verb, &destination, "dev", name];
        output(lab.topology.internet.command("ip").args(route).args(of)).map(drop)
    };
    changed(
        || {
            forget_mtus(lab, site)?;
            route("add", &["mtu", &PATH_MTU.to_string()])
        },
        || server_learns(lab, site, tunnel_mtu(site.spec, PATH_MTU)),
        || {
            route("del", &[])?;
            forget_mtus(lab, site)
        },
    )
}

/// Downloads; the gateway must tell the server this MTU, and nothing may be lost for another reason.
fn server_learns(lab: &Lab, site: Site<'_>, mtu: usize) -> Result<()> {
    let before = lab.drops()?;
    let server = server_of(lab, site)?;
    let capture = Capture::start(server, "eth0")?;
    let downloaded = Connection::open(site.device, site.spec.server)?.download(BULK_BYTES);
    let told: BTreeSet<_> =
        capture.stop()?.iter().filter_map(too_big).filter(|(of, _)| *of == site.spec.device).collect();
    let dropped = increase(&before, &lab.drops()?);
    downloaded.with_context(|| format!("the server was told {told:?}; dropped: {dropped:?}"))?;
    ensure!(told.iter().map(|(_, mtu)| *mtu).eq([mtu]), "the server was told {told:?}, not {mtu} bytes");
    ensure!(dropped.is_empty(), "dropped: {dropped:?}");
    let route = output(server.command("ip").args(["route", "get", &site.spec.device.to_string()]))?;
    ensure!(route.contains(&format!("mtu {mtu} ")), "the server's route does not know {mtu} bytes: {route}");
    Ok(())
}

/// Where a packet was going that the gateway says is too big, and what is not: RFC 1191 section 4.
fn too_big(frame: &Frame) -> Option<(Ipv4Addr, usize)> {
    const FRAGMENTATION_NEEDED: [u8; 2] = [3, 4];
    let from_gateway = !frame.outgoing && frame.addresses()?.0 == GATEWAY_LAN;
    if !from_gateway || frame.ip_protocol() != Some(1) || frame.bytes.get(34..36)? != FRAGMENTATION_NEEDED {
        return None;
    }
    let mtu: [u8; 2] = frame.bytes.get(40..42)?.try_into().ok()?;
    let destination: [u8; 4] = frame.bytes.get(58..62)?.try_into().ok()?;
    Some((destination.into(), u16::from_be_bytes(mtu).into()))
}

/// Has a server believe that every peer takes segments as large as its own link holds, whatever the SYN
/// says when it arrives. The option is the first one, as Linux writes it.
fn lie_about_mss(server: &Namespace) -> Result<()> {
    let tc = |args: &str| output(server.command("tc").args(args.split_whitespace())).map(drop);
    let mss = LINK_MTU - IP_TCP_HEADERS;
    tc("qdisc add dev eth0 clsact")?;
    // TCP; SYN; kind 2, length 4.
    tc(&format!(
        "filter add dev eth0 ingress protocol ip u32 match u8 6 0xff at 9 match u8 0x02 0x02 at 33 \
         match u16 0x0204 0xffff at 40 action pedit munge offset 42 u16 set {mss} pipe action csum tcp"
    ))
}

/// What path-MTU discovery has taught the server and the gateway.
fn forget_mtus(lab: &Lab, site: Site<'_>) -> Result<()> {
    for namespace in [server_of(lab, site)?, &lab.topology.gateway, site.router] {
        output(namespace.command("ip").args(["route", "flush", "cache"]))?;
    }
    Ok(())
}

/// Devices that do not ask for path-MTU discovery, behind uplinks that hold less than an ESP packet: the
/// gateway gets every large one in fragments, of ESP and of UDP.
fn fragmented_esp(lab: &mut Lab) -> Result<()> {
    for site in lab.sites().into_iter().filter(|site| ["berlin", "austin"].contains(&site.spec.name)) {
        let before = lab.drops()?;
        let route = |mtu: usize| {
            let next_hop = next_hop(site.spec).to_string();
            let mtu = mtu.to_string();
            let change = ["route", "change", "default", "via", &next_hop, "mtu", &mtu];
            output(site.router.command("ip").args(change)).map(drop)
        };
        let seen = Capture::start(&lab.topology.internet, "gateway")?;
        changed(
            || {
                site.device.set_sysctl("ipv4/ip_no_pmtu_disc", "1")?;
                route(SMALL_MTU)
            },
            || {
                let answer = device::report_date(site.device, site.spec)?;
                ensure!(answer.contains("received"), "the answer is {answer:?}");
                transfer(site)
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
    let read = || Ok(fs::read_to_string("/proc/thread-self/net/sockstat")?);
    let statistics = lab.topology.gateway.enter(read)?;
    Ok(statistics.lines().any(|line| line.starts_with("FRAG: inuse 0 ")).then_some(()))
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

/// Of this protocol, to or from the gateway; the capture is at its next hop.
fn fragments(frames: &[Frame], to_gateway: bool, protocol: u8) -> Fragments {
    const MORE_FRAGMENTS: u16 = 0x2000;
    const OFFSET: u16 = 0x1fff;
    let mut count = Fragments::default();
    for frame in frames.iter().filter(|frame| frame.ip_protocol() == Some(protocol)) {
        let Some((source, destination)) = frame.addresses() else { continue };
        let Some(&[high, low]) = frame.bytes.get(20..22) else { continue };
        let bits = u16::from_be_bytes([high, low]);
        if (if to_gateway { destination } else { source }) != GATEWAY {
            continue;
        }
        count.first += usize::from(bits & MORE_FRAGMENTS != 0 && bits & OFFSET == 0);
        count.later += usize::from(bits & OFFSET != 0);
    }
    count
}

fn transfer(site: Site<'_>) -> Result<()> {
    let mut connection = Connection::open(site.device, site.spec.server)?;
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
    let udp = if site.behind_nat { 8 } else { 0 };
    (path_mtu - 20 - udp - 8 - iv - icv) / block * block - 2
}

fn server_of<'a>(lab: &'a Lab, site: Site<'_>) -> Result<&'a Namespace> {
    lab.topology.server(site.spec.customer)
}
