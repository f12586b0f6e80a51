//! Inner packets, byte for byte, at both hooks that judge them.
use std::net::IpAddr;

use gateway_common::decide::Decision;

use crate::{
    bytes::Bytes,
    world::{
        self, DOWN, Identity, LAN_MTU_BYTES, MSS_BYTES, PORT, SITES, World, mark, reqid, same_network,
        server, spi,
    },
};

/// Longest frame of an input: all headers and some data, or a path-MTU message.
const MAX_FRAME_BYTES: usize = 130;
/// Offset of the IP header.
pub const IP: usize = 14;

/// Checks a sequence of frames. The input is a byte, whose bit 0 adopts midstream connections, and records:
/// one byte of options, tens of milliseconds since the previous frame, the frame's length and its bytes.
///
/// | bits of the options | meaning |
/// |---|---|
/// | 0 | from a server, else from a site |
/// | 1 and 2 | the site's tunnel |
/// | 3 and 4 | the fault of the identity: none, mark, SPI, reqid |
/// | 5 | correct the IPv4 checksum first |
/// | 6 | remove expired flows first |
pub fn run(input: &[u8]) {
    let mut input = Bytes(input);
    let world = World::new(input.byte() & 1 == 1);
    let mut now_ns = 1_000_000_000_000;
    while !input.is_empty() {
        let how = input.byte();
        now_ns += u64::from(input.byte()) * 10_000_000;
        let length = usize::from(input.byte()).min(MAX_FRAME_BYTES);
        let mut frame = input.up_to(length).to_vec();
        if how & 0x20 != 0 {
            repair(&mut frame);
        }
        if how & 0x40 != 0 {
            world.remove(now_ns);
        }
        let before = is_icmp(&frame).then(|| world.connections(now_ns));
        if how & 1 == 1 {
            check_from_server(&frame, &world.from_server(&frame, now_ns));
        } else {
            let identity = identity_of(how);
            check_from_site(&frame, identity, &world.from_site(&frame, identity, now_ns));
        }
        if let Some(before) = before {
            assert_eq!(before, world.connections(now_ns), "a message changed a flow");
        }
    }
}

fn identity_of(how: u8) -> Identity {
    let tunnel = u32::from(how >> 1 & 3) + 1;
    let good = world::identity(tunnel);
    let other = tunnel % 4 + 1;
    match how >> 3 & 3 {
        0 => good,
        1 => Identity { mark: mark(other), ..good },
        2 => Identity { spi: spi(other), ..good },
        _ => Identity { reqid: reqid(other), ..good },
    }
}

/// Writes the correct checksum into an IPv4 header without options.
pub fn repair(frame: &mut [u8]) {
    if frame.get(12..14) != Some(&[8, 0]) {
        return;
    }
    if let Some(header) = frame.get_mut(IP..IP + 20) {
        header[10..12].fill(0);
        let sum: u32 = header.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum();
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
        header[10..12].copy_from_slice(&sum.to_be_bytes());
    }
}

/// Returns true for ICMP of the frame's family behind a plain IP header.
fn is_icmp(frame: &[u8]) -> bool {
    match frame.get(12..14) {
        Some([8, 0]) => frame.get(IP + 9) == Some(&1),
        Some([0x86, 0xdd]) => frame.get(IP + 6) == Some(&58),
        _ => false,
    }
}

/// Checks the bytes of a passed packet from a site against the policy.
fn check_from_site(frame: &[u8], identity: Identity, decision: &Decision) {
    match decision.verdict {
        Err(_) => check_dropped(decision),
        Ok(()) => {
            let tunnel = decision.tunnel;
            let site = &SITES[tunnel as usize - 1];
            assert_eq!(identity, world::identity(tunnel));
            assert!(tunnel != DOWN);
            assert_eq!(decision.customer, site.customer);
            let packet = Packet::read(frame);
            let (network, bits) = site.lan[usize::from(packet.v6)];
            assert!(same_network(packet.source, network, bits), "{packet:?}");
            assert_eq!(packet.destination, server(site.customer, packet.v6));
            assert!(decision.bytes <= LAN_MTU_BYTES);
            match packet.body {
                Body::Tcp { ports, .. } => assert_eq!(ports[1], PORT),
                // The message quotes a packet of the server to a device of the site.
                Body::TooBig { source, destination, ports } => {
                    assert_eq!((source, ports[0]), (packet.destination, PORT));
                    assert!(same_network(destination, network, bits), "{packet:?}");
                }
            }
            packet.check(frame, decision);
        }
    }
}

/// Checks the bytes of a passed packet from a server against the policy.
fn check_from_server(frame: &[u8], decision: &Decision) {
    match decision.verdict {
        Err(_) => check_dropped(decision),
        Ok(()) => {
            let tunnel = decision.tunnel;
            let site = &SITES[tunnel as usize - 1];
            assert!(tunnel != DOWN && !decision.opened);
            assert_eq!((decision.mark, decision.customer), (mark(tunnel), site.customer));
            let packet = Packet::read(frame);
            let (network, bits) = site.lan[usize::from(packet.v6)];
            assert!(same_network(packet.destination, network, bits), "{packet:?}");
            assert_eq!(packet.source, server(site.customer, packet.v6));
            match packet.body {
                Body::Tcp { ports, .. } => assert_eq!(ports[0], PORT),
                // The message quotes a packet of this device to the server.
                Body::TooBig { source, destination, ports } => {
                    assert_eq!((destination, ports[1]), (packet.source, PORT));
                    assert_eq!(source, packet.destination);
                }
            }
            packet.check(frame, decision);
        }
    }
}

/// Checks that a dropped packet has no other effect.
pub fn check_dropped(decision: &Decision) {
    assert!(!decision.opened && decision.syn().is_none() && decision.bytes == 0, "{decision:?}");
}

/// The fields of a passed packet, read at the offsets of a plain one.
#[derive(Debug)]
struct Packet {
    v6: bool,
    source: IpAddr,
    destination: IpAddr,
    /// Size of the whole packet in bytes.
    total: usize,
    body: Body,
}

#[derive(Debug)]
enum Body {
    Tcp {
        ports: [u16; 2],
        header: usize,
    },
    /// A path-MTU message with the fields of the quoted packet.
    TooBig {
        source: IpAddr,
        destination: IpAddr,
        ports: [u16; 2],
    },
}

/// Returns the size of a plain IP header in bytes.
const fn ip_bytes(v6: bool) -> usize {
    if v6 { 40 } else { 20 }
}

fn be16(frame: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([frame[at], frame[at + 1]])
}

/// Returns source and destination of a plain header.
fn addresses(frame: &[u8], at: usize, v6: bool) -> [IpAddr; 2] {
    [0, 1].map(|which| {
        if v6 {
            let octets: [u8; 16] = *frame[at + 8 + which * 16..].first_chunk().expect("16 bytes");
            octets.into()
        } else {
            let octets: [u8; 4] = *frame[at + 12 + which * 4..].first_chunk().expect("4 bytes");
            octets.into()
        }
    })
}

impl Packet {
    fn read(frame: &[u8]) -> Self {
        let v6 = be16(frame, 12) == 0x86dd;
        let ip = &frame[IP..];
        let (total, hops, protocol) = if v6 {
            assert_eq!(ip[0] >> 4, 6);
            (40 + usize::from(be16(ip, 4)), ip[7], ip[6])
        } else {
            assert_eq!((be16(frame, 12), ip[0]), (0x0800, 0x45), "not plain IP");
            assert_eq!(be16(ip, 6) & 0x3fff, 0, "a fragment");
            (usize::from(be16(ip, 2)), ip[8], ip[9])
        };
        assert!(hops > 1, "the hop limit is {hops}");
        let packet = &ip[..total];
        let payload = &packet[ip_bytes(v6)..];
        let [source, destination] = addresses(packet, 0, v6);
        let body = if protocol == 6 {
            let ports = [be16(payload, 0), be16(payload, 2)];
            Body::Tcp { ports, header: usize::from(payload[12] >> 4) * 4 }
        } else {
            let too_big = if v6 { (58, [2, 0]) } else { (1, [3, 4]) };
            assert_eq!((protocol, [payload[0], payload[1]]), too_big);
            let quote = &payload[8..];
            assert!(if v6 { quote[0] >> 4 == 6 && quote[6] == 6 } else { quote[0] == 0x45 && quote[9] == 6 });
            let [source, destination] = addresses(quote, 0, v6);
            let ports = &quote[ip_bytes(v6)..];
            Body::TooBig { source, destination, ports: [be16(ports, 0), be16(ports, 2)] }
        };
        Self { v6, source, destination, total, body }
    }

    fn check(&self, frame: &[u8], decision: &Decision) {
        assert_eq!((decision.v6, decision.bytes as usize), (self.v6, self.total));
        let ip = ip_bytes(self.v6);
        match self.body {
            Body::Tcp { header, .. } => {
                assert!(header >= 20 && ip + header <= self.total);
                assert_eq!(usize::from(decision.header_bytes), ip + header);
                check_mss(frame, self.v6, header, decision);
            }
            Body::TooBig { .. } => {
                assert!(!decision.opened && decision.syn().is_none());
                assert_eq!(usize::from(decision.header_bytes), ip);
            }
        }
    }
}

/// Checks an MSS to lower: it is in the options of a SYN and too large.
pub fn check_mss(frame: &[u8], v6: bool, tcp_header_bytes: usize, decision: &Decision) {
    let Some(syn) = decision.syn() else { return };
    let tcp = IP + ip_bytes(v6);
    assert_eq!(usize::from(syn.transport), tcp);
    assert!(frame[tcp + 13] & 0x02 != 0, "not a SYN");
    let at = usize::from(syn.offered.at);
    assert!(at >= 2 && 20 + at + 2 <= tcp_header_bytes, "{syn:?} in {tcp_header_bytes}");
    let at = tcp + 20 + at;
    assert_eq!(frame[at - 2..at], [2, 4]);
    assert_eq!(be16(frame, at), syn.offered.bytes);
    assert!(syn.offered.bytes > syn.mss && syn.mss == MSS_BYTES[usize::from(v6)]);
}
