//! Inner packets, byte for byte, at both hooks that judge them.
use gateway_common::{
    decide::Decision,
    verdict::Verdict::{Drop, ToServer, ToTunnel},
};

use crate::{
    bytes::Bytes,
    world::{DOWN, Identity, MSS_BYTES, PORT, SITES, World, server, spi},
};

/// Longest frame of an input: all headers and some data.
const MAX_FRAME_BYTES: usize = 120;
/// Where the IPv4 and the TCP header begin.
const IP: usize = 14;
const TCP: usize = 34;

/// The input is records, each a frame: how it comes, milliseconds (in tens) since the one before, its
/// length, its bytes.
///
/// How it comes: bit 0: from a server, else from a site; bits 1 and 2: the site's tunnel; bits 3 and 4: what is
/// wrong with its identity (nothing, mark, SPI, reqid); bit 5: its IPv4 checksum is made right first.
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
        if how & 1 == 1 {
            check_from_server(&frame, &world.from_server(&frame, now_ns));
        } else {
            let identity = identity(how);
            check_from_site(&frame, identity, &world.from_site(&frame, identity, now_ns));
        }
    }
}

fn identity(how: u8) -> Identity {
    let tunnel = u32::from(how >> 1 & 3) + 1;
    let good = Identity { reqid: tunnel, spi: spi(tunnel), mark: tunnel };
    let other = tunnel % 4 + 1;
    match how >> 3 & 3 {
        0 => good,
        1 => Identity { mark: other, ..good },
        2 => Identity { spi: spi(other), ..good },
        _ => Identity { reqid: other, ..good },
    }
}

/// Puts the right checksum into an IPv4 header without options.
fn repair(frame: &mut [u8]) {
    if let Some(header) = frame.get_mut(IP..TCP) {
        header[10..12].fill(0);
        let sum: u32 = header.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum();
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
        header[10..12].copy_from_slice(&sum.to_be_bytes());
    }
}

/// What lets a site's packet pass, read off the bytes.
fn check_from_site(frame: &[u8], identity: Identity, decision: &Decision) {
    match decision.verdict {
        Drop(_) => check_dropped(decision),
        ToServer(tunnel) => {
            let (customer, network, bits) = SITES[tunnel.get() as usize - 1];
            assert_eq!((identity.reqid, identity.mark), (tunnel.get(), tunnel.get()));
            assert_eq!(identity.spi, spi(tunnel.get()));
            assert!(tunnel.get() != DOWN);
            assert_eq!((decision.tunnel, decision.customer), (tunnel.get(), customer));
            let packet = Packet::read(frame);
            let differing = u32::from_be_bytes(packet.source) ^ u32::from_be_bytes(network);
            assert!(differing.leading_zeros() >= u32::from(bits), "{packet:?}");
            assert_eq!((packet.destination, packet.ports[1]), (server(customer), PORT));
            packet.check(frame, decision);
        }
        _ => panic!("{decision:?}"),
    }
}

/// What lets a server's packet pass.
fn check_from_server(frame: &[u8], decision: &Decision) {
    match decision.verdict {
        Drop(_) => check_dropped(decision),
        ToTunnel(tunnel) => {
            let (customer, ..) = SITES[tunnel.get() as usize - 1];
            assert!(tunnel.get() != DOWN && !decision.opened);
            assert_eq!((decision.tunnel, decision.customer), (tunnel.get(), customer));
            let packet = Packet::read(frame);
            assert_eq!((packet.source, packet.ports[0]), (server(customer), PORT));
            packet.check(frame, decision);
        }
        _ => panic!("{decision:?}"),
    }
}

/// What is dropped does nothing else.
pub fn check_dropped(decision: &Decision) {
    assert!(!decision.opened && decision.syn.is_none() && decision.bytes == 0, "{decision:?}");
}

/// What a packet that passes says of itself, at the places where a plain TCP segment has it.
#[derive(Debug)]
struct Packet {
    source: [u8; 4],
    destination: [u8; 4],
    ports: [u16; 2],
    total: usize,
    tcp_header: usize,
}

impl Packet {
    fn read(frame: &[u8]) -> Self {
        let be16 = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
        let address = |at: usize| [frame[at], frame[at + 1], frame[at + 2], frame[at + 3]];
        assert_eq!((be16(12), frame[IP], frame[IP + 9]), (0x0800, 0x45, 6), "no TCP in plain IPv4");
        assert_eq!(be16(IP + 6) & 0x3fff, 0, "a fragment");
        assert!(frame[IP + 8] > 1, "its time is over");
        Self {
            source: address(IP + 12),
            destination: address(IP + 16),
            ports: [be16(TCP), be16(TCP + 2)],
            total: usize::from(be16(IP + 2)),
            tcp_header: usize::from(frame[TCP + 12] >> 4) * 4,
        }
    }

    fn check(&self, frame: &[u8], decision: &Decision) {
        assert!(
            IP + self.total <= frame.len() && self.tcp_header >= 20 && 20 + self.tcp_header <= self.total
        );
        assert_eq!(decision.bytes, self.total as u64);
        check_mss(frame, self.tcp_header, decision);
    }
}

/// An MSS that is to be lowered is a SYN's, stands in its options and is too large.
pub fn check_mss(frame: &[u8], tcp_header_bytes: usize, decision: &Decision) {
    let Some(syn) = decision.syn else { return };
    assert!(frame[TCP + 13] & 0x02 != 0, "no SYN");
    let at = usize::from(syn.offered.at);
    assert!(at >= 2 && 20 + at + 2 <= tcp_header_bytes, "{syn:?} in {tcp_header_bytes}");
    let at = TCP + 20 + at;
    assert_eq!(frame[at - 2..at], [2, 4]);
    assert_eq!(u16::from_be_bytes([frame[at], frame[at + 1]]), syn.offered.bytes);
    assert!(syn.offered.bytes > syn.mss && syn.mss == MSS_BYTES);
}
