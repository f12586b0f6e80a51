//! A packet of a sequence, and the flow that gives it its addresses.
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

/// The servers' port.
pub const SERVER_PORT: u16 = 80;
/// Device ports reserved for one flow; all but the first are for packets that deviate from it.
pub const PORTS_PER_FLOW: u16 = 4;

const GATEWAY_MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0, 1];
const SERVER_MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0, 2];

/// Offset of the TCP checksum in a frame, less the length of the IP header.
const CHECKSUM_OFFSET: usize = 14 + 16;

/// The two ends of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flow {
    /// Index into [`TUNNELS`].
    pub tunnel: usize,
    /// The device's address, of either family.
    pub device: IpAddr,
    /// The device's port.
    pub port: u16,
}

/// One packet, without the addresses of its flow.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Segment {
    /// The packet's direction.
    pub direction: Direction,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgment number.
    pub ack: u32,
    /// The rest of TCP. Its ports and numbers are ignored in favour of the flow's and the segment's.
    pub tcp: Tcp,
    /// Bits flipped in the checksum; 0 for a right one.
    pub checksum_error: u16,
    /// Time to live.
    pub ttl: u8,
    /// How it deviates from its flow.
    pub deviation: Deviation,
}

/// How a packet deviates from its flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Deviation {
    /// Not at all.
    None,
    /// Another port of the device.
    DevicePort(u16),
    /// Another port of the server.
    ServerPort(u16),
    /// From another tunnel (an index into [`TUNNELS`]).
    Tunnel(usize),
    /// Another address instead of the device's; in IPv6 the corresponding one.
    Device(Ipv4Addr),
    /// Another address instead of the server's; in IPv6 the corresponding one.
    Server(Ipv4Addr),
    /// UDP instead of TCP.
    Udp,
    /// An ICMP echo request.
    Ping,
    /// An ICMP message that a packet in the other direction was too big, on the flow or on the connection of
    /// a device port that is higher by this number.
    TooBig(u16),
    /// A wrong IPv4 header checksum; in IPv6 not at all.
    IpChecksum,
    /// IPv4 options, or an IPv6 extension header (destination options).
    IpOptions,
    /// A first fragment without a second.
    Fragment,
}

impl Segment {
    /// Returns a segment without anything special.
    pub fn new(direction: Direction, flags: u8, seq: u32, ack: u32) -> Self {
        let tcp = Tcp::new([0; 2], flags);
        Self { direction, seq, ack, tcp, checksum_error: 0, ttl: 64, deviation: Deviation::None }
    }

    /// Returns the sequence numbers that the segment occupies.
    pub fn space(&self) -> u32 {
        self.tcp.length as u32 + u32::from(self.tcp.flags & 1 != 0) + u32::from(self.tcp.flags & 2 != 0)
    }

    /// Returns the flags as letters.
    pub fn flags(&self) -> String {
        tcp_flag_letters(self.tcp.flags)
    }
}

impl Flow {
    /// Returns the flow's tunnel.
    pub fn tunnel(&self) -> &'static KnownTunnel {
        &TUNNELS[self.tunnel]
    }

    /// Returns the customer's name and server.
    pub fn customer(&self) -> (&'static str, IpAddr) {
        let owner = self.tunnel().owner();
        let server = match (self.is_v6(), owner.server6) {
            (true, Some(server)) => IpAddr::V6(server),
            _ => IpAddr::V4(owner.server),
        };
        (owner.name, server)
    }

    /// Returns true for an IPv6 flow.
    pub fn is_v6(&self) -> bool {
        self.device.is_ipv6()
    }

    /// Returns the address of the flow's family that corresponds to `v4`.
    fn address(&self, v4: Ipv4Addr) -> IpAddr {
        let [a, b, c, d] = v4.octets().map(u16::from);
        match (self.is_v6(), a, b) {
            (false, ..) => IpAddr::V4(v4),
            (true, 10, 200) => IpAddr::V6(Ipv6Addr::new(0xfd00, 0x200, 0, 0, 0, 0, 0, 0x10 + d - 10)),
            (true, 10, _) => IpAddr::V6(Ipv6Addr::new(0xfd00, b / 10, 0, 0, 0, 0, c, d)),
            (true, ..) => IpAddr::V6(Ipv6Addr::new(0xfd00, 0xffff, 0, 0, 0, 0, c, d)),
        }
    }

    /// Builds the packet of a segment, with `tag` as its IPv4 identification or IPv6 flow label.
    pub fn packet(&self, segment: &Segment, tag: u16) -> Result<Packet> {
        let mut device = (self.device, self.port);
        let mut server = (self.customer().1, SERVER_PORT);
        let mut tunnel = self.tunnel();
        match segment.deviation {
            Deviation::DevicePort(port) => device.1 = self.port + port,
            Deviation::ServerPort(port) => server.1 = port,
            Deviation::Tunnel(other) => tunnel = &TUNNELS[other],
            Deviation::Device(address) => device.0 = self.address(address),
            // On a port of its own: on another port it could be a packet of another flow.
            Deviation::Server(address) => {
                (server.0, device.1) = (self.address(address), self.port + PORTS_PER_FLOW - 1);
            }
            _ => {}
        }
        let [a, b, c, d] = tunnel.inbound_spi.to_be_bytes();
        let (source, destination, mac) = match segment.direction {
            // The source MAC as `internet_xdp` rewrites it for ESP: 02:00:SPI.
            Direction::ToServer => (device, server, [0x02, 0, a, b, c, d]),
            Direction::ToSite => (server, device, SERVER_MAC),
        };
        let ports = [source.1, destination.1];
        let transport = match segment.deviation {
            Deviation::Udp => {
                Transport::Udp(Udp { ports, udp_length: None, head: Vec::new(), ike: false, length: 8 })
            }
            Deviation::Ping => {
                let kind = if self.is_v6() { 128 } else { 8 };
                Transport::Icmp { kind, code: 0, about: None, about_esp: None, mtu: 0, length: 8 }
            }
            Deviation::TooBig(port) => {
                let (kind, code) = if self.is_v6() { (2, 0) } else { (3, 4) };
                let device = (device.0, device.1 + port);
                let about = match segment.direction {
                    Direction::ToServer => [server, device],
                    Direction::ToSite => [device, server],
                };
                Transport::Icmp { kind, code, about: Some(about), about_esp: None, mtu: 0, length: 0 }
            }
            _ => Transport::Tcp(Tcp {
                ports,
                seq: Some(segment.seq),
                ack: Some(segment.ack),
                ..segment.tcp.clone()
            }),
        };
        let mut ip = Ip::new(source.0, destination.0);
        (ip.ttl, ip.id, ip.mf) = (segment.ttl, tag, segment.deviation == Deviation::Fragment);
        if segment.deviation == Deviation::IpOptions {
            match self.is_v6() {
                false => ip.options = vec![1, 1, 1, 0],
                true => ip.extension = Some(60),
            }
        }
        let ethernet = Ethernet::new(mac, GATEWAY_MAC);
        let network = Network::Ip(ip, transport);
        let mut packet = Packet { ethernet, network, patches: Vec::new(), cut: None };
        let wrong = match segment.deviation {
            Deviation::IpChecksum => (!self.is_v6()).then_some((24, 1)),
            Deviation::Udp
            | Deviation::Ping
            | Deviation::TooBig(_)
            | Deviation::IpOptions
            | Deviation::Fragment => None,
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

    /// Returns the packet of a segment in the packet language.
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
