//! Packets of one connection between a device of tunnel 1 and its server, in either family.
use std::net::IpAddr;

use gateway_common::{
    decide::{Decision, Identity},
    reason::Reason,
};

use crate::world::{World, from_server, from_site, identity, ip, server, transport};

pub const NOW_NS: u64 = 1_000_000_000_000;
/// The device's and the server's port.
pub const PORTS: (u16, u16) = (40_000, 80);
/// Offset of the IP header in a frame.
pub const IP: usize = 14;
pub const FAMILIES: [bool; 2] = [false, true];

/// Returns a device of tunnel 1.
pub fn device(v6: bool) -> IpAddr {
    address(if v6 { "fd00:192:168::2" } else { "192.168.1.2" })
}

pub fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// A TCP header without its ports.
#[derive(Clone, Copy)]
pub struct Tcp<'a> {
    pub flags: u8,
    pub sequence: u32,
    pub acknowledgment: u32,
    pub options: &'a [u8],
}

/// Returns a header without options.
pub const fn tcp(flags: u8, sequence: u32, acknowledgment: u32) -> Tcp<'static> {
    Tcp { flags, sequence, acknowledgment, options: &[] }
}

pub fn segment(from: (IpAddr, u16), to: (IpAddr, u16), tcp: Tcp) -> Vec<u8> {
    let mut frame = Vec::new();
    ip(from.0, to.0, 64)
        .tcp(from.1, to.1, tcp.sequence, 1000)
        .options_raw(tcp.options)
        .expect("options fit")
        .write(&mut frame, &[])
        .expect("writing to a vector");
    let at = transport(from.0);
    frame[at + 8..at + 12].copy_from_slice(&tcp.acknowledgment.to_be_bytes());
    frame[at + 13] = tcp.flags;
    frame
}

/// Builds a segment of the connection from its device.
pub fn request(v6: bool, tcp: Tcp) -> Vec<u8> {
    segment((device(v6), PORTS.0), (server(1, v6), PORTS.1), tcp)
}

/// Builds a segment of the connection from its server.
pub fn answer(v6: bool, tcp: Tcp) -> Vec<u8> {
    segment((server(1, v6), PORTS.1), (device(v6), PORTS.0), tcp)
}

pub fn syn(v6: bool) -> Vec<u8> {
    request(v6, tcp(0x02, 1000, 0))
}

pub fn syn_ack(v6: bool) -> Vec<u8> {
    answer(v6, tcp(0x12, 5000, 1001))
}

/// Builds the ACK that completes the handshake.
pub fn ack(v6: bool) -> Vec<u8> {
    request(v6, tcp(0x10, 1001, 5001))
}

/// Replaces a byte of the frame and sets the IPv4 checksum.
pub fn with(mut frame: Vec<u8>, at: usize, byte: u8) -> Vec<u8> {
    frame[at] = byte;
    if frame[12..14] != [8, 0] {
        return frame;
    }
    frame[24..26].fill(0);
    let sum: u32 = frame[IP..34].chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    frame[24..26].copy_from_slice(&(!sum as u16).to_be_bytes());
    frame
}

/// Returns the identity of packets out of a site's tunnel.
pub fn tunnel(site: u32) -> Identity {
    identity(site)
}

/// Decides about a packet of tunnel 1.
pub fn from_device(world: &World, frame: &[u8]) -> Decision {
    from_site(frame, world, tunnel(1), NOW_NS)
}

/// Decides about a packet of the cloud LAN.
pub fn from_lan(world: &World, frame: &[u8]) -> Decision {
    from_server(frame, world, NOW_NS)
}

/// Returns the reason of a drop, or None if the packet passes.
pub fn reason(decision: Decision) -> Option<Reason> {
    decision.verdict.err()
}

/// Returns why a new world drops a packet of tunnel 1, or None if the packet passes.
pub fn refused(frame: &[u8]) -> Option<Reason> {
    reason(from_device(&World::new(), frame))
}

/// Returns a world in which the SYN has passed.
pub fn opened(v6: bool) -> World {
    let world = World::new();
    assert!(from_device(&world, &syn(v6)).opened);
    world
}

/// Returns a world in which the handshake is complete.
pub fn established(v6: bool) -> World {
    let world = opened(v6);
    assert_eq!(reason(from_lan(&world, &syn_ack(v6))), None);
    assert_eq!(reason(from_device(&world, &ack(v6))), None);
    world
}
