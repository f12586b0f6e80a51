//! The gateway's settings, frames in both families, and the filter's verdict on a frame at each hook.
use etherparse::PacketBuilder;
use gateway_common::{
    layout::{Addresses, ManagementRule, OutboundSpi, Prefix, Settings},
    limits::MANAGEMENT_RULES,
    outer::{Outer, classify_incoming, classify_outgoing, classify_to_lan},
    reason::Reason,
    tcp::STATE_SLOTS,
    time::Ticks,
    wire::{Ipv4, Ipv6, protocol},
};

pub const OURS: [u8; 4] = [203, 0, 113, 1];
pub const OURS_V6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
pub const PEER_V6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];
pub const OUR_LAN: [u8; 4] = [10, 200, 0, 1];
pub const PEER: [u8; 4] = [198, 18, 0, 1];
pub const MANAGER: [u8; 4] = [198, 51, 100, 7];
pub const SERVER: [u8; 4] = [10, 200, 0, 11];
pub const ESP_BEEF: &[u8] = &[0, 0, 0xbe, 0xef, 0, 0, 0, 1];
pub const ESP_F00D: &[u8] = &[0, 0, 0xf0, 0x0d, 0, 0, 0, 1];

pub fn settings() -> Settings {
    let mut settings = Settings {
        ready: 1,
        lan_ifindex: 1,
        internet_ifindex: 2,
        lan_mtu: 1500,
        xdp: 1,
        management_count: 2,
        adopt_midstream: 0,
        _reserved: 0,
        internet: Addresses { v4_count: 1, ..Addresses::default() },
        lan: Addresses { v4_count: 1, ..Addresses::default() },
        management: [ManagementRule::default(); MANAGEMENT_RULES],
        timeouts: [Ticks::default(); STATE_SLOTS],
    };
    settings.internet.v4[0] = Ipv4 { octets: OURS };
    settings.lan.v4[0] = Ipv4 { octets: OUR_LAN };
    let from = Prefix::new(mapped(MANAGER), 96 + 24);
    let rule = |port, protocol| ManagementRule { from, port, protocol, _reserved: 0 };
    settings.internet.v6_count = 1;
    settings.internet.v6[0] = Ipv6 { octets: OURS_V6 };
    settings.management[0] = rule(22, protocol::TCP);
    settings.management[1] = rule(161, protocol::UDP);
    // A rule beyond the count.
    settings.management[2] = rule(23, protocol::TCP);
    settings
}

pub fn mapped(address: [u8; 4]) -> Ipv6 {
    std::net::IpAddr::from(address).into()
}

pub fn ip(from: [u8; 4], to: [u8; 4], protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(from, to, 64);
    builder.write(&mut frame, protocol.into(), payload).expect("writing to a vector");
    frame
}

/// Returns an IPv6 frame from the peer.
pub fn ip6(to: [u8; 16], protocol: u8, hop_limit: u8, payload: &[u8]) -> Vec<u8> {
    ip6_between(PEER_V6, to, protocol, hop_limit, payload)
}

pub fn ip6_between(from: [u8; 16], to: [u8; 16], protocol: u8, hop_limit: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv6(from, to, hop_limit);
    builder.write(&mut frame, 253.into(), payload).expect("writing to a vector");
    frame[20] = protocol;
    frame
}

pub fn udp(from: ([u8; 4], u16), to: ([u8; 4], u16), payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(from.0, to.0, 64).udp(from.1, to.1);
    builder.write(&mut frame, payload).expect("writing to a vector");
    frame
}

pub fn tcp(from: ([u8; 4], u16), to: ([u8; 4], u16), flags: u8) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(from.0, to.0, 64).tcp(from.1, to.1, 1, 1);
    builder.write(&mut frame, &[]).expect("writing to a vector");
    frame[47] = flags;
    frame
}

/// Returns the frame with these bytes replaced.
pub fn with(mut frame: Vec<u8>, edits: &[(usize, u8)]) -> Vec<u8> {
    for (at, byte) in edits {
        frame[*at] = *byte;
    }
    frame
}

pub fn arrives(frame: &[u8]) -> Result<Outer, Reason> {
    classify_incoming(frame, &settings(), owner).map(|arrival| arrival.outer)
}

/// Classifies an outgoing frame with the mark of tunnel 1, whose SPI is 0xbeef.
pub fn leaves(frame: &[u8]) -> Result<Outer, Reason> {
    classify_outgoing(frame, &settings(), 1, owner)
}

/// Returns the tunnel that owns an outbound SPI. No tunnel has SPI 0; it is listed here so that only the filter
/// refuses it.
pub fn owner(outbound: OutboundSpi) -> Option<u32> {
    let of_peer = [mapped(PEER), Ipv6 { octets: PEER_V6 }].contains(&outbound.peer);
    match outbound.spi {
        0xbeef | 0 if of_peer => Some(1),
        0xf00d if of_peer => Some(2),
        _ => None,
    }
}

pub fn reaches_lan(frame: &[u8]) -> Result<Outer, Reason> {
    classify_to_lan(frame, &settings())
}
