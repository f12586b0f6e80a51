//! The outer filter of the internet side.
use std::net::IpAddr;

use gateway_common::{
    layout::OutboundSpi,
    outer::{
        self, Outer,
        cookie::{self, Question, Shown},
    },
    wire::Ipv6,
};

use crate::{
    bytes::Bytes,
    world::{INTERNET, LAN, MANAGERS, same_network, settings},
};

/// A known outbound SPI and its tunnel.
const KNOWN: (u32, u32) = (0xbeef_0001, 1);
/// IP protocols.
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ESP: u8 = 50;
const ICMPV6: u8 = 58;
/// Protocol number of the IPv6 fragment header.
const FRAGMENT: u8 = 44;

/// Checks the bytes of each accepted frame against the filter's rules. The input is a byte, the mark of a
/// leaving packet, and a frame.
pub fn run(input: &[u8]) {
    let mut input = Bytes(input);
    let mark = u32::from(input.byte());
    let frame = input.0;
    let settings = settings(false);
    let owner_of = |outbound: OutboundSpi| (outbound.spi == KNOWN.0).then_some(KNOWN.1);
    if let Ok(arrival) = outer::classify_incoming(frame, &settings, owner_of)
        && let Some(packet) = check(frame, arrival.outer, Side::Arriving)
        && !packet.is_listener_message()
    {
        assert_eq!(arrival.source, Ipv6::from(packet.source));
        check_subscriber(packet.source, arrival.subscriber);
    }
    if let Ok(outer) = outer::classify_outgoing(frame, &settings, mark, owner_of) {
        assert!(outer != Outer::PathMtu);
        assert!(outer != Outer::Esp(KNOWN.0) || mark == KNOWN.1, "ESP of another tunnel");
        check(frame, outer, Side::Leaving);
    }
    if let Ok(outer) = outer::classify_to_lan(frame, &settings) {
        assert!(matches!(outer, Outer::Neighbour | Outer::PathMtu));
        check(frame, outer, Side::ToLan);
    }
    let mut anonymous = false;
    let known = outer::check_neighbour_on_lan(frame, &settings, |_| false, |_| false, &mut anonymous);
    if outer::is_neighbour_on_lan(frame) {
        let packet = check(frame, Outer::Neighbour, Side::FromLan);
        if known.is_ok() {
            // No server is known.
            assert!(anonymous);
            check_sender(frame, packet.as_ref());
        }
    }
    if let Some(question) = cookie::question(frame) {
        check_question(frame, &question);
        assert!(!cookie::asks_for_cookie(frame), "a request and a response");
    }
    if let Some(quoted) = outer::quoted_esp(frame, &settings.internet) {
        assert_eq!(quoted_spi(&Packet::read(frame)), quoted.spi);
    }
}

/// Checks that an accepted neighbour on the LAN has no address of its own, and names the MAC address it sends from.
fn check_sender(frame: &[u8], packet: Option<&Packet>) {
    let mac = &frame[6..12];
    let Some(packet) = packet else {
        assert_eq!((&frame[22..28], &frame[28..32]), (mac, &[0; 4][..]), "ARP of another");
        return;
    };
    let from_link = matches!(packet.source, IpAddr::V6(source) if source.is_unicast_link_local());
    assert!(packet.source.is_unspecified() || from_link);
    if packet.is_listener_message() {
        return;
    }
    let mut options = &packet.payload[24..];
    while let [kind, units, ..] = *options {
        let (option, rest) = options.split_at(8 * usize::from(units));
        assert!(!matches!(kind, 1 | 2) || &option[2..8] == mac, "an option of another");
        options = rest;
    }
    assert!(options.is_empty());
}

/// Checks a request that opens an IKE_SA, and that its answer is shorter.
fn check_question(frame: &[u8], question: &Question) {
    const IKE: usize = 8;
    const ANSWER_BYTES: usize = 48;
    let Packet { source, protocol, fragment, payload, .. } = Packet::read(frame);
    let ike = &payload[IKE..];
    assert!(protocol == UDP && !fragment && payload[2..4] == 500u16.to_be_bytes());
    assert!(ike[17] >> 4 == 2 && ike[18] == 34 && ike[19] & 0x20 == 0);
    assert_eq!(question.origin.address, Ipv6::from(source));
    assert_eq!(question.origin.port.to_be_bytes(), payload[..2]);
    assert_eq!(question.origin.spi.map(u32::to_ne_bytes).concat(), ike[..8]);
    assert!(
        question.shown != Shown::Cookie
            || (ike[16] == 41 && question.cookie.0.map(u32::to_ne_bytes).concat() == ike[36..48])
    );
    assert!(
        !question.answerable
            || (payload.len() > IKE + ANSWER_BYTES && frame[0] & 1 == 0 && !source.is_multicast())
    );
}

/// Returns the SPI of the ESP packet that a path-MTU message quotes: ESP in IP, or in UDP from port 4500.
fn quoted_spi(packet: &Packet) -> u32 {
    let (header, protocol_at) = if packet.source.is_ipv6() { (40, 6) } else { (20, 9) };
    let quote = &packet.payload[8..];
    let spi_at = match quote[protocol_at] {
        ESP => header,
        UDP => {
            assert_eq!(quote[header..header + 2], 4500u16.to_be_bytes());
            header + 8
        }
        other => panic!("a quote of protocol {other}"),
    };
    u32::from_be_bytes(*quote[spi_at..].first_chunk().expect("4 bytes"))
}

/// Checks that the subscriber is the IPv4 address or the /64 of the IPv6 address.
fn check_subscriber(source: IpAddr, subscriber: Ipv6) {
    let expected = match source {
        IpAddr::V4(_) => Ipv6::from(source),
        IpAddr::V6(source) => Ipv6 { octets: (source.to_bits() >> 64 << 64).to_be_bytes() },
    };
    assert_eq!(subscriber, expected);
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Side {
    Arriving,
    Leaving,
    ToLan,
    FromLan,
}

/// The fields of an accepted outer packet, read at the offsets that the filter allows.
struct Packet<'a> {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    hop_limit: u8,
    /// Any fragment.
    fragment: bool,
    /// A fragment other than the first.
    later: bool,
    payload: &'a [u8],
}

impl<'a> Packet<'a> {
    fn read(frame: &'a [u8]) -> Self {
        let be16 = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
        if be16(12) == 0x0800 {
            let total = usize::from(be16(16));
            assert!(frame[14] == 0x45 && (20..=frame.len() - 14).contains(&total), "not plain IPv4");
            let address = |at: usize| IpAddr::from([frame[at], frame[at + 1], frame[at + 2], frame[at + 3]]);
            return Self {
                source: address(26),
                destination: address(30),
                protocol: frame[23],
                hop_limit: frame[22],
                fragment: be16(20) & 0x3fff != 0,
                later: be16(20) & 0x1fff != 0,
                payload: &frame[34..14 + total],
            };
        }
        assert_eq!((be16(12), frame[14] >> 4), (0x86dd, 6), "not IP");
        let address = |at: usize| {
            let octets: [u8; 16] = *frame[at..].first_chunk().expect("16 bytes");
            IpAddr::from(octets)
        };
        let mut packet = Self {
            source: address(22),
            destination: address(38),
            protocol: frame[20],
            hop_limit: frame[21],
            fragment: false,
            later: false,
            payload: &frame[54..54 + usize::from(be16(18))],
        };
        if packet.protocol == FRAGMENT {
            (packet.protocol, packet.fragment) = (packet.payload[0], true);
            packet.later = packet.payload[2] != 0 || packet.payload[3] & 0xf8 != 0;
            packet.payload = &packet.payload[8..];
        }
        packet
    }
}

/// Protocol number of the IPv6 hop-by-hop header.
const HOP_BY_HOP: u8 = 0;

impl Packet<'_> {
    /// Returns true for a multicast listener message, which is the only packet with a hop-by-hop header that is ever
    /// accepted.
    fn is_listener_message(&self) -> bool {
        self.source.is_ipv6() && self.protocol == HOP_BY_HOP
    }
}

/// Checks an accepted frame, and returns its packet if it is IP.
fn check(frame: &[u8], outer: Outer, side: Side) -> Option<Packet<'_>> {
    if frame[12..14] == [8, 6] {
        assert_eq!(outer, Outer::Neighbour);
        return None;
    }
    let packet = Packet::read(frame);
    let Packet { source, destination, protocol, fragment, later, payload, .. } = packet;
    // The gateway's address, the offset of its port, and the peer.
    let (own, own_port, peer) = match side {
        Side::Arriving | Side::FromLan => (destination, 2, source),
        Side::Leaving | Side::ToLan => (source, 0, destination),
    };
    let ours = if matches!(side, Side::ToLan | Side::FromLan) { LAN } else { INTERNET };
    assert!(outer == Outer::Neighbour || ours.contains(&own), "{own} is not the gateway's");
    let port = || u16::from_be_bytes([payload[own_port], payload[own_port + 1]]);
    match outer {
        Outer::Neighbour if packet.is_listener_message() => check_listener_message(&packet, ours, side),
        Outer::Neighbour => check_neighbour(&packet, own, ours, side),
        Outer::Esp(spi) => {
            assert!(spi != 0 && !later);
            let at = if protocol == ESP { 0 } else { 8 };
            assert!(protocol == ESP || (protocol == UDP && port() == 4500));
            assert_eq!(payload[at..at + 4], spi.to_be_bytes());
        }
        Outer::Ike => assert!(protocol == UDP && !later && matches!(port(), 500 | 4500)),
        Outer::PathMtu => {
            let too_big = if source.is_ipv6() { (ICMPV6, [2, 0]) } else { (ICMP, [3, 4]) };
            assert!(!fragment && (protocol, [payload[0], payload[1]]) == too_big);
            if side == Side::Arriving {
                assert_eq!(quoted_spi(&packet), KNOWN.0);
                let [a, b, c, d] = *payload[4..].first_chunk().expect("4 bytes");
                let mtu = u32::from_be_bytes(if source.is_ipv6() { [a, b, c, d] } else { [0, 0, c, d] });
                assert!(mtu >= 1400, "{mtu}");
            }
        }
        Outer::Management => {
            assert!(protocol == TCP && !fragment && port() == 22 && payload.len() >= 20);
            assert!(MANAGERS.iter().any(|(network, bits)| same_network(peer, *network, *bits)), "{peer}");
            let flags = payload[13];
            assert!(side == Side::Arriving || flags & 0x12 != 0x02, "the gateway opens a connection");
        }
        Outer::Fragment => assert!(later && matches!(protocol, UDP | ESP)),
    }
    // A listener message is charged to nobody, so nobody is mistaken for an IPv4 address.
    let charged = side == Side::Arriving && !packet.is_listener_message();
    assert!(!charged || !is_mapped(source), "an IPv4-mapped source");
    Some(packet)
}

fn is_mapped(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.to_ipv4_mapped().is_some())
}

/// Checks neighbour discovery: from the link, not fragmented, of an allowed type, between allowed addresses.
fn check_neighbour(packet: &Packet, own: IpAddr, ours: [IpAddr; 2], side: Side) {
    let Packet { source, protocol, hop_limit, fragment, payload, .. } = *packet;
    assert!(source.is_ipv6() && protocol == ICMPV6 && !fragment && hop_limit == 255);
    let (kind, code) = (payload[0], payload[1]);
    let kinds = match side {
        Side::Arriving => [134, 135, 136],
        Side::Leaving => [133, 135, 136],
        Side::ToLan | Side::FromLan => [135, 136, 136],
    };
    assert!(kinds.contains(&kind) && code == 0, "type {kind} code {code}");
    let group = matches!(own, IpAddr::V6(own) if {
        let words = own.segments();
        words[..5] == [0xff02, 0, 0, 0, 0]
            && (words[5..] == [0, 0, 1] || (words[5] == 1 && words[6] >> 8 == 0xff))
    });
    let justified = match side {
        Side::Arriving => ours.contains(&own) || group,
        Side::Leaving | Side::ToLan => ours.contains(&own) || (own.is_unspecified() && kind == 135),
        Side::FromLan => true,
    };
    assert!(justified, "{own}");
}

/// Checks a multicast listener message: on this link, to a group, a router alert before it (RFC 3810 section 5).
fn check_listener_message(packet: &Packet, ours: [IpAddr; 2], side: Side) {
    let Packet { source, destination, hop_limit, payload, .. } = *packet;
    assert!(hop_limit == 1 && destination.is_multicast());
    assert_eq!(payload[..8], [ICMPV6, 0, 5, 2, 0, 0, 1, 0]);
    assert!(payload.len() >= 16 && matches!(payload[8], 130..=132 | 143), "type {}", payload[8]);
    let leaves = matches!(side, Side::Leaving | Side::ToLan);
    assert!(!leaves || source.is_unspecified() || ours.contains(&source), "a message of another's");
}
