//! Where packets go through real ESP: a site's gateway in a network namespace, which encrypts, and the gateway
//! that is measured in another. Keys are static, as if IKE had agreed on them; marks are as in a gateway's
//! own tunnels (FACTS 5).
//!
//! ```text
//!  namespace of the site                        namespace of the gateway
//!  devices ── lan │ forwards │ uplink ─── ESP ─── site │ decrypts, filters │ lan ── servers
//!  frames go in here                                                       they are counted here
//! ```
use std::{
    fmt::Write as _,
    net::Ipv4Addr,
    os::fd::{AsRawFd, OwnedFd},
    time::Duration,
};

use anyhow::{Context, Result};
use gateway_common::{ids::TunnelId, layout::OutboundSpi, wire::Ipv6};
use gateway_tests_kit::{
    bpf::{Classifier, Counter, Driver, Link, Way},
    namespace::Namespace,
    process, raw,
    text::mac_text,
};
use nix::{errno::Errno, libc, sched::sched_yield};

use super::{
    frames::{GATEWAY_MAC, SERVER_MAC, SITE_MAC, Segment, Side},
    ground::now,
    rules::{LAN, LAN_INTERFACE, SERVERS, SITE_INTERFACE, server},
};

/// The customer whose tunnel it is, and with that its tunnel id, reqid and mark.
pub const CUSTOMER: u32 = 1;
/// The site's and the gateway's address on the internet.
const PEERS: (Ipv4Addr, Ipv4Addr) = (Ipv4Addr::new(203, 0, 113, 2), Ipv4Addr::new(203, 0, 113, 1));
/// What the site sends with, and what the gateway sends with.
const SPIS: (u32, u32) = (0x1000_0001, 0x2000_0001);
/// `struct virtio_net_hdr`, which comes before each frame.
const OFFLOAD_BYTES: usize = 10;
/// Payload of the segments that a large one is cut into, so that ESP fits 1500 bytes.
pub const SEGMENT_BYTES: usize = 1346;
/// Segments of a large one: as many as fit an IPv4 packet.
pub const SEGMENTS: usize = 45;

/// Where packets end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// In the gateway's driver, still encrypted.
    Driver,
    /// At the first hook after decryption.
    Decrypted,
    /// At the server.
    Server,
}

/// A tunnel's two ends.
pub struct Tunnel {
    /// The gateway that is measured.
    pub gateway: Namespace,
    site: Namespace,
    devices: OwnedFd,
    servers: OwnedFd,
    arrived: Counter,
    links: Vec<Link>,
}

impl Tunnel {
    /// Makes one, with AES-GCM keys of so many bits. All frames that come out of it end there; the gateway
    /// merges packets of a stream (GRO) or not.
    pub fn create(name: &str, key_bits: u32, end: End, merge: bool) -> Result<Self> {
        let gateway = Namespace::create(&format!("{name}-gateway"), true)?;
        let site = Namespace::create(&format!("{name}-site"), true)?;
        batch(&gateway, &gateway_lines(site.name(), key_bits))?;
        batch(&site, &site_lines(key_bits))?;
        let counter = Counter::new()?;
        let mut links = gateway.enter(|| {
            // What makes the driver's queue one that can merge, for all contenders alike.
            let pass = || Driver::pass()?.attach(SITE_INTERFACE);
            match end {
                End::Driver => Ok(vec![Driver::counting_drop(&counter)?.attach(SITE_INTERFACE)?]),
                End::Decrypted => {
                    let program = Classifier::counting_drop_of_decrypted(&counter)?;
                    Ok(vec![pass()?, program.attach(SITE_INTERFACE, Way::Ingress)?])
                }
                End::Server => {
                    Ok(vec![Classifier::counting_drop(&counter)?.attach("servers", Way::Ingress)?, pass()?])
                }
            }
        })?;
        // Nobody listens to what the server sends.
        let nobody = Counter::new()?;
        links.push(site.enter(|| Classifier::counting_drop(&nobody)?.attach("devices", Way::Ingress))?);
        let mut ethtool = gateway.command("ethtool");
        ethtool.args(["-K", SITE_INTERFACE, "gro", if merge { "on" } else { "off" }]);
        process::output(&mut ethtool)?;
        let devices = site.enter(|| sender("devices"))?;
        let servers = gateway.enter(|| sender("servers"))?;
        Ok(Self { gateway, site, devices, servers, arrived: counter, links })
    }

    /// Takes the program that lets all pass out of the gateway's driver, where another one is to be.
    pub fn free_driver(&mut self) {
        // `end` is the server: sink, driver, the site's sink.
        drop(self.links.remove(1));
    }

    /// What the gateway's maps have to know of it.
    pub fn identity(&self) -> Result<(TunnelId, u32, OutboundSpi)> {
        let id = TunnelId::new(CUSTOMER).context("tunnel 0")?;
        let peer = Ipv6::from(std::net::IpAddr::V4(PEERS.0));
        Ok((id, SPIS.0, OutboundSpi { peer, spi: SPIS.1 }))
    }

    /// Sends segments, and returns how long that took and how many packets came to the end. `large`: segments
    /// of more bytes than a packet has are cut by the site before it encrypts.
    pub fn send(&self, segments: &[Segment]) -> Result<(Duration, u64)> {
        let frames: Vec<_> = segments.iter().map(|segment| (segment.from, with_offload(segment))).collect();
        let before = self.arrived.get()?;
        let start = now()?;
        for (from, frame) in &frames {
            let socket = if *from == Side::Site { &self.devices } else { &self.servers };
            raw::put(socket, frame)?;
        }
        let arrived = self.settle()? - before;
        Ok((now()?.saturating_sub(start), arrived))
    }

    /// Packets that have arrived once no more come: much work at a time the kernel leaves to a thread of its
    /// own (`ksoftirqd`), which runs when we step back.
    fn settle(&self) -> Result<u64> {
        const QUIET: u32 = 200;
        let (mut arrived, mut quiet) = (self.arrived.get()?, 0);
        while quiet < QUIET {
            sched_yield()?;
            let now = self.arrived.get()?;
            quiet = if now == arrived { quiet + 1 } else { 0 };
            arrived = now;
        }
        Ok(arrived)
    }

    /// Ends it.
    pub fn remove(self) -> Result<()> {
        self.gateway.remove()?;
        self.site.remove()
    }
}

fn batch(namespace: &Namespace, lines: &str) -> Result<()> {
    let mut ip = namespace.command("ip");
    process::run_with_input(ip.args(["-batch", "-"]), lines).map(drop)
}

fn gateway_lines(site: &str, key_bits: u32) -> String {
    let [gateway_mac, site_mac, server_mac] = [GATEWAY_MAC, SITE_MAC, SERVER_MAC].map(mac_text);
    let (site_address, own) = PEERS;
    let (server, lan) = (server(CUSTOMER), format!("{}/{}", LAN.0, LAN.1));
    let on_lan = Ipv4Addr::from_bits(SERVERS.0.to_bits() | ((1 << (32 - SERVERS.1)) - 2));
    let mut lines = format!(
        "link set lo up\n\
         link add {SITE_INTERFACE} address {gateway_mac} type veth peer name uplink address {site_mac} netns {site}\n\
         link add {LAN_INTERFACE} address {gateway_mac} type veth peer name servers address {server_mac}\n\
         link set {SITE_INTERFACE} up\nlink set {LAN_INTERFACE} up\nlink set servers up\n\
         addr add {own}/24 dev {SITE_INTERFACE}\naddr add {on_lan}/{} dev {LAN_INTERFACE}\n\
         neigh add {site_address} lladdr {site_mac} dev {SITE_INTERFACE} nud permanent\n\
         neigh add {server} lladdr {server_mac} dev {LAN_INTERFACE} nud permanent\n\
         route add default via {site_address} dev {SITE_INTERFACE}\n",
        SERVERS.1
    );
    states(&mut lines, key_bits, &format!("output-mark {CUSTOMER}"), "");
    for direction in ["in", "fwd"] {
        lines += &policy(&lan, &format!("{server}/32"), direction, PEERS, true);
    }
    lines += &policy(&format!("{server}/32"), &lan, "out", (PEERS.1, PEERS.0), true);
    lines
}

fn site_lines(key_bits: u32) -> String {
    let [gateway_mac, site_mac] = [GATEWAY_MAC, SITE_MAC].map(mac_text);
    let (own, gateway) = PEERS;
    let (server, lan) = (server(CUSTOMER), format!("{}/{}", LAN.0, LAN.1));
    let on_lan = Ipv4Addr::from_bits(LAN.0.to_bits() | 0xfffe);
    let device_mac = mac_text([0x02, 0, 0, 0, 0, 9]);
    let mut lines = format!(
        "link set lo up\n\
         link add lan address {gateway_mac} type veth peer name devices address {device_mac}\n\
         link set lan up\nlink set devices up\nlink set uplink up\n\
         addr add {own}/24 dev uplink\naddr add {on_lan}/{} dev lan\n\
         neigh add {gateway} lladdr {gateway_mac} dev uplink nud permanent\n\
         neigh add {} lladdr {site_mac} dev lan nud permanent\n\
         route add default via {gateway} dev uplink\n",
        LAN.1,
        super::rules::device(0)
    );
    states(&mut lines, key_bits, "", "");
    for direction in ["in", "fwd"] {
        lines += &policy(&format!("{server}/32"), &lan, direction, (gateway, own), false);
    }
    lines += &policy(&lan, &format!("{server}/32"), "out", PEERS, false);
    lines
}

/// Both SAs. What decrypts marks what comes out of it.
fn states(lines: &mut String, key_bits: u32, inbound: &str, outbound: &str) {
    // Key and salt (RFC 4106 section 8.1).
    let hex_digits = key_bits as usize / 4 + 8;
    for ((source, destination), spi, extra, digit) in
        [(PEERS, SPIS.0, inbound, "5a"), ((PEERS.1, PEERS.0), SPIS.1, outbound, "c3")]
    {
        let key = digit.repeat(hex_digits / 2);
        _ = writeln!(
            lines,
            "xfrm state add src {source} dst {destination} proto esp spi {spi:#x} reqid {CUSTOMER} mode tunnel \
             replay-window 32 aead rfc4106(gcm(aes)) 0x{key} 128 {extra}"
        );
    }
}

fn policy(
    source: &str,
    destination: &str,
    direction: &str,
    (from, to): (Ipv4Addr, Ipv4Addr),
    marked: bool,
) -> String {
    let mark = if marked { format!("mark {CUSTOMER}") } else { String::new() };
    format!(
        "xfrm policy add src {source} dst {destination} dir {direction} {mark} \
         tmpl src {from} dst {to} proto esp reqid {CUSTOMER} mode tunnel\n"
    )
}

/// A socket that puts whole frames on an interface, each behind what its hardware would have to do.
fn sender(interface: &str) -> Result<OwnedFd> {
    const PACKET_VNET_HDR: libc::c_int = 15;
    let yes: libc::c_int = 1;
    let socket = raw::sender(interface, CUSTOMER)?;
    // SAFETY: the option takes an int, whose size is given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            PACKET_VNET_HDR,
            (&raw const yes).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    Errno::result(result).context("PACKET_VNET_HDR")?;
    Ok(socket)
}

/// The frame behind a `struct virtio_net_hdr`, which asks for a large one to be cut.
fn with_offload(segment: &Segment) -> Vec<u8> {
    const NEEDS_CHECKSUM: u8 = 1;
    const TCP_IN_IPV4: u8 = 1;
    const HEADERS: usize = 54;
    let mut bytes = vec![0; OFFLOAD_BYTES];
    segment.write(&mut bytes);
    if segment.frame_bytes > HEADERS + SEGMENT_BYTES {
        let (offload, frame) = bytes.split_at_mut(OFFLOAD_BYTES);
        let tcp_bytes = (frame.len() - 34) as u32;
        (offload[0], offload[1]) = (NEEDS_CHECKSUM, TCP_IN_IPV4);
        let words = [HEADERS as u16, SEGMENT_BYTES as u16, 34, 16];
        for (field, word) in offload[2..].as_chunks_mut::<2>().0.iter_mut().zip(words) {
            *field = word.to_ne_bytes();
        }
        // The sum of the pseudo header, which whoever cuts it goes on with.
        let sum: u32 =
            frame[26..34].as_chunks::<2>().0.iter().map(|word| u32::from(u16::from_be_bytes(*word))).sum();
        let sum = sum + u32::from(segment.protocol) + tcp_bytes;
        let sum = (sum & 0xffff) + (sum >> 16);
        frame[50..52].copy_from_slice(&(((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes());
    }
    bytes
}
