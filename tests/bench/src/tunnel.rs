//! A path through real ESP: a site's gateway encrypts in one network namespace, the measured gateway decrypts in
//! another. Keys are static, as if IKE had agreed on them. Marks are set as for a gateway's own tunnels
//! (docs/facts.md: marks-separate-equal-lans).
//!
//! ```text
//!  namespace of the site                        namespace of the gateway
//!  devices ── lan │ forwards │ uplink ─── ESP ─── site │ decrypts, filters │ lan ── servers
//!  frames enter here                                                       frames are counted here
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

/// The tunnel's customer, and thereby its tunnel id, reqid and mark.
pub const CUSTOMER: u32 = 1;
/// The site's and the gateway's address on the internet.
const PEERS: (Ipv4Addr, Ipv4Addr) = (Ipv4Addr::new(203, 0, 113, 2), Ipv4Addr::new(203, 0, 113, 1));
/// The SPIs that the site and the gateway send with.
const SPIS: (u32, u32) = (0x1000_0001, 0x2000_0001);
/// Size of `struct virtio_net_hdr`, which precedes each frame.
const OFFLOAD_BYTES: usize = 10;
/// Payload of a segment cut from a large one; with ESP it fits 1500 bytes.
pub const SEGMENT_BYTES: usize = 1346;
/// Number of segments in a large one: as many as fit an IPv4 packet.
pub const SEGMENTS: usize = 45;

/// The place that counts and drops packets.
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
    /// The measured gateway.
    pub gateway: Namespace,
    site: Namespace,
    devices: OwnedFd,
    servers: OwnedFd,
    arrived: Counter,
    links: Vec<Link>,
}

impl Tunnel {
    /// Sets up the tunnel with AES-GCM keys of `key_bits` bits. All packets end at `end`. `merge` turns GRO
    /// on at the gateway.
    pub fn create(name: &str, key_bits: u32, end: End, merge: bool) -> Result<Self> {
        let gateway = Namespace::create(&format!("{name}-gateway"), true)?;
        let site = Namespace::create(&format!("{name}-site"), true)?;
        batch(&gateway, &gateway_lines(site.name(), key_bits))?;
        batch(&site, &site_lines(key_bits))?;
        let counter = Counter::new()?;
        let mut links = gateway.enter(|| {
            // With a program in the driver, its queue can merge packets; all contenders get one.
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
        // Nobody counts packets from the server.
        let nobody = Counter::new()?;
        links.push(site.enter(|| Classifier::counting_drop(&nobody)?.attach("devices", Way::Ingress))?);
        let mut ethtool = gateway.command("ethtool");
        ethtool.args(["-K", SITE_INTERFACE, "gro", if merge { "on" } else { "off" }]);
        process::output(&mut ethtool)?;
        let devices = site.enter(|| sender("devices"))?;
        let servers = gateway.enter(|| sender("servers"))?;
        Ok(Self { gateway, site, devices, servers, arrived: counter, links })
    }

    /// Detaches the program that passes all packets from the gateway's driver, to make room for another.
    pub fn free_driver(&mut self) {
        // With `End::Server` the links are sink, driver and the site's sink.
        drop(self.links.remove(1));
    }

    /// Returns the tunnel's entries in the gateway's maps: id, inbound SPI, outbound SPI.
    pub fn identity(&self) -> Result<(TunnelId, u32, OutboundSpi)> {
        let id = TunnelId::new(CUSTOMER).context("tunnel 0")?;
        let peer = Ipv6::from(std::net::IpAddr::V4(PEERS.0));
        Ok((id, SPIS.0, OutboundSpi { peer, spi: SPIS.1 }))
    }

    /// Sends segments and returns the time taken and the number of packets that reached the end. The site
    /// cuts segments larger than a packet before it encrypts.
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

    /// Waits until no more packets arrive and returns their number. The kernel leaves large amounts of work
    /// to its thread `ksoftirqd`, which runs when this one yields.
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

    /// Removes both namespaces.
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

/// Adds both SAs. The inbound SA of the gateway marks the packets it decrypts.
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

/// Opens a socket that puts whole frames on an interface, each behind a header with offload instructions.
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

/// Returns the frame behind a `struct virtio_net_hdr` that asks to cut a large one.
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
        // The pseudo header's sum; the cutting code adds the rest of each segment.
        let sum: u32 =
            frame[26..34].as_chunks::<2>().0.iter().map(|word| u32::from(u16::from_be_bytes(*word))).sum();
        let sum = sum + u32::from(segment.protocol) + tcp_bytes;
        let sum = (sum & 0xffff) + (sum >> 16);
        frame[50..52].copy_from_slice(&(((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes());
    }
    bytes
}
