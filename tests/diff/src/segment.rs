//! A packet of a sequence, and the flow that gives it addresses.
use std::{
    fmt::Write,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use anyhow::{Context, Result};
use gateway_common::tcp::Direction;
use gateway_tests_kit::{
    packet::{Ethernet, Ip, Network, Packet, Tcp, TcpOption, Transport, Udp},
    text::{hex_text, tcp_flag_letters},
    world::{KnownTunnel, TUNNELS},
};

/// The port that servers offer.
pub const SERVER_PORT: u16 = 80;
/// Device ports of one flow; the others are for packets beside it.
pub const PORTS_PER_FLOW: u16 = 4;

const GATEWAY_MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0, 1];
const SERVER_MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0, 2];

/// Offset of the TCP checksum in a frame, behind the IP header.
const CHECKSUM_OFFSET: usize = 14 + 16;

/// Who talks to whom.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flow {
    /// Index into [`TUNNELS`].
    pub tunnel: usize,
    /// The device, of either family.
    pub device: IpAddr,
    /// Its port.
    pub port: u16,
}

/// One packet, without the addresses of its flow.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Segment {
    /// Which way it goes.
    pub direction: Direction,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgment number.
    pub ack: u32,
    /// The rest of TCP; ports and numbers are those of the flow and of the segment, whatever stands here.
    pub tcp: Tcp,
    /// What the checksum is wrong by.
    pub checksum_error: u16,
    /// Time to live.
    pub ttl: u8,
    /// Where it differs from its flow.
    pub aside: Aside,
}

/// A packet that is not quite its flow's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Aside {
    /// It is.
    No,
    /// Another port of the device.
    DevicePort(u16),
    /// Another port of the server.
    ServerPort(u16),
    /// Out of another tunnel (an index).
    Tunnel(usize),
    /// Another address instead of the device's; in IPv6 the one that answers to it.
    Device(Ipv4Addr),
    /// Another address instead of the server's, likewise.
    Server(Ipv4Addr),
    /// UDP instead of TCP.
    Udp,
    /// An ICMP echo request.
    Ping,
    /// A message that a packet was too big which came the other way on the flow, or on the connection of
    /// a device's port that is so much higher.
    TooBig(u16),
    /// A bad IPv4 header checksum; nothing in IPv6.
    IpChecksum,
    /// IPv4 options, or an IPv6 extension header (destination options).
    IpOptions,
    /// A first fragment without a second.
    Fragment,
}

impl Segment {
    /// A segment as TCPs send them.
    pub fn new(direction: Direction, flags: u8, seq: u32, ack: u32) -> Self {
        let tcp = Tcp::new([0; 2], flags);
        Self { direction, seq, ack, tcp, checksum_error: 0, ttl: 64, aside: Aside::No }
    }

    /// What it takes of the sequence space.
    pub fn space(&self) -> u32 {
        self.tcp.length as u32 + u32::from(self.tcp.flags & 1 != 0) + u32::from(self.tcp.flags & 2 != 0)
    }

    /// Flags as letters.
    pub fn flags(&self) -> String {
        tcp_flag_letters(self.tcp.flags)
    }
}

impl Flow {
    /// The tunnel.
    pub fn tunnel(&self) -> &'static KnownTunnel {
        &TUNNELS[self.tunnel]
    }

    /// The customer's name and server.
    pub fn customer(&self) -> (&'static str, IpAddr) {
        let owner = self.tunnel().owner();
        let server = match (self.is_v6(), owner.server6) {
            (true, Some(server)) => IpAddr::V6(server),
            _ => IpAddr::V4(owner.server),
        };
        (owner.name, server)
    }

    /// True if it is IPv6.
    pub fn is_v6(&self) -> bool {
        self.device.is_ipv6()
    }

    /// An address of the flow's family that answers to this one.
    fn address(&self, v4: Ipv4Addr) -> IpAddr {
        let [a, b, c, d] = v4.octets().map(u16::from);
        match (self.is_v6(), a, b) {
            (false, ..) => IpAddr::V4(v4),
            (true, 10, 200) => IpAddr::V6(Ipv6Addr::new(0xfd00, 0x200, 0, 0, 0, 0, 0, 0x10 + d - 10)),
            (true, 10, _) => IpAddr::V6(Ipv6Addr::new(0xfd00, b / 10, 0, 0, 0, 0, c, d)),
            (true, ..) => IpAddr::V6(Ipv6Addr::new(0xfd00, 0xffff, 0, 0, 0, 0, c, d)),
        }
    }

    /// The described packet; its IPv4 identification, or IPv6 flow label, is `tag`.
    pub fn packet(&self, segment: &Segment, tag: u16) -> Result<Packet> {
        let mut device = (self.device, self.port);
        let mut server = (self.customer().1, SERVER_PORT);
        let mut tunnel = self.tunnel();
        match segment.aside {
            Aside::DevicePort(port) => device.1 = self.port + port,
            Aside::ServerPort(port) => server.1 = port,
            Aside::Tunnel(other) => tunnel = &TUNNELS[other],
            Aside::Device(address) => device.0 = self.address(address),
            // On a port of its own: with another flow's it would be that one's packet.
            Aside::Server(address) => {
                (server.0, device.1) = (self.address(address), self.port + PORTS_PER_FLOW - 1);
            }
            _ => {}
        }
        let [a, b, c, d] = tunnel.inbound_spi.to_be_bytes();
        let (source, destination, mac) = match segment.direction {
            // As `internet_xdp` leaves ESP's source address: 02:00:SPI.
            Direction::ToServer => (device, server, [0x02, 0, a, b, c, d]),
            Direction::ToSite => (server, device, SERVER_MAC),
        };
        let ports = [source.1, destination.1];
        let transport = match segment.aside {
            Aside::Udp => Transport::Udp(Udp { ports, udp_length: None, head: Vec::new(), length: 8 }),
            Aside::Ping => {
                let kind = if self.is_v6() { 128 } else { 8 };
                Transport::Icmp { kind, code: 0, about: None, length: 8 }
            }
            Aside::TooBig(port) => {
                let (kind, code) = if self.is_v6() { (2, 0) } else { (3, 4) };
                let device = (device.0, device.1 + port);
                let about = match segment.direction {
                    Direction::ToServer => [server, device],
                    Direction::ToSite => [device, server],
                };
                Transport::Icmp { kind, code, about: Some(about), length: 0 }
            }
            _ => Transport::Tcp(Tcp {
                ports,
                seq: Some(segment.seq),
                ack: Some(segment.ack),
                ..segment.tcp.clone()
            }),
        };
        let mut ip = Ip::new(source.0, destination.0);
        (ip.ttl, ip.id, ip.mf) = (segment.ttl, tag, segment.aside == Aside::Fragment);
        if segment.aside == Aside::IpOptions {
            match self.is_v6() {
                false => ip.options = vec![1, 1, 1, 0],
                true => ip.extension = Some(60),
            }
        }
        let ethernet = Ethernet::new(mac, GATEWAY_MAC);
        let network = Network::Ip(ip, transport);
        let mut packet = Packet { ethernet, network, patches: Vec::new(), cut: None };
        let wrong = match segment.aside {
            Aside::IpChecksum => (!self.is_v6()).then_some((24, 1)),
            Aside::Udp | Aside::Ping | Aside::TooBig(_) | Aside::IpOptions | Aside::Fragment => None,
            _ => {
                let at = CHECKSUM_OFFSET + if self.is_v6() { 40 } else { 20 };
                (segment.checksum_error != 0).then_some((at, segment.checksum_error))
            }
        };
        if let Some((at, by)) = wrong {
            let frame = packet.frame()?;
            let right = frame.get(at..at + 2).context("no checksum")?;
            let sum = u16::from_be_bytes([right[0], right[1]]) ^ by;
            packet.patches.push((at, sum.to_be_bytes().to_vec()));
        }
        Ok(packet)
    }

    /// The packet in the packet language.
    pub fn line(&self, segment: &Segment) -> Result<String> {
        let packet = self.packet(segment, 0x1234)?;
        let mut line = String::new();
        let Network::Ip(ip, transport) = &packet.network else { unreachable!("flows are IP") };
        let (from, to) = (ip.source, ip.destination);
        match transport {
            Transport::Tcp(tcp) => {
                let ([a, b], flags) = (tcp.ports, tcp_flag_letters(tcp.flags));
                let (from, to) = (SocketAddr::new(from, a), SocketAddr::new(to, b));
                write!(line, "{from} > {to} {flags} seq {} ack {}", segment.seq, segment.ack)?;
                write_tcp(&mut line, tcp)?;
            }
            Transport::Udp(udp) => {
                let [a, b] = udp.ports;
                let (from, to) = (SocketAddr::new(from, a), SocketAddr::new(to, b));
                write!(line, "{from} > {to} UDP len {}", udp.length)?;
            }
            Transport::Icmp { about: Some([a, b]), .. } => {
                let (a, b) = (SocketAddr::from(*a), SocketAddr::from(*b));
                write!(line, "{from} > {to} ICMP too-big about {a} > {b}")?;
            }
            Transport::Icmp { length, .. } => write!(line, "{from} > {to} ICMP echo len {length}")?,
            _ => unreachable!("nothing else is generated"),
        }
        if ip.ttl != 64 {
            write!(line, " ttl {}", ip.ttl)?;
        }
        if ip.mf {
            line += " mf";
        }
        if let Some(kind) = ip.extension {
            write!(line, " ext {kind}")?;
        }
        if !ip.options.is_empty() {
            write!(line, " ipopts {}", hex_text(&ip.options))?;
        }
        for (at, bytes) in &packet.patches {
            write!(line, " patch {at}:{}", hex_text(bytes))?;
        }
        Ok(line)
    }
}

fn write_tcp(line: &mut String, tcp: &Tcp) -> Result<()> {
    if tcp.window != 64240 {
        write!(line, " win {}", tcp.window)?;
    }
    for option in &tcp.options {
        match option {
            TcpOption::Mss(mss) => write!(line, " mss {mss}")?,
            TcpOption::Bytes(bytes) => match bytes[..] {
                [3, 3, shift] => write!(line, " wscale {shift}")?,
                [4, 2] => *line += " sackok",
                [1] => *line += " nop",
                _ => write!(line, " opt {}", hex_text(bytes))?,
            },
        }
    }
    if let Some(words) = tcp.data_offset {
        write!(line, " doff {words}")?;
    }
    if tcp.length != 0 {
        write!(line, " len {}", tcp.length)?;
    }
    Ok(())
}
