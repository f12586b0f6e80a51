//! The outer filter on random frames of both families, with etherparse as the judge of accepted frames, and
//! on each kind of frame that it knows.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{Ipv4HeaderSlice, Ipv6HeaderSlice, PacketBuilder};
use gateway_common::{
    layout::{Addresses, ManagementRule, OutboundSpi, Prefix, Settings},
    limits::{MANAGEMENT_RULES, OWN_ADDRESSES},
    outer::{
        Outer, check_neighbour_on_lan, classify_incoming, classify_outgoing, classify_to_lan,
        is_neighbour_on_lan,
    },
    reason::Reason,
    tcp::STATE_SLOTS,
    time::Ticks,
    wire::{Ipv4, Ipv6, protocol},
};
use proptest::{collection::vec, prelude::*, sample::select, test_runner::FileFailurePersistence::Direct};

/// Seeds that once failed, tried again in each run.
const REGRESSIONS: &str = "tests/outer.regressions";

/// Addresses of the gateway, a manager and a stranger, and the unspecified address, in IPv4 and IPv6.
const INTERNET: [&str; 2] = ["203.0.113.1", "2001:db8:113::1"];
const LINK: [&str; 2] = ["203.0.113.1", "fe80::1"];
const LAN: [&str; 2] = ["10.200.0.1", "fd00:200::1"];
const MANAGER: [&str; 2] = ["198.51.100.7", "2001:db8:51::7"];
const STRANGER: [&str; 2] = ["8.8.8.8", "2001:db8:8::8"];
const SERVER: [&str; 2] = ["10.200.0.11", "fd00:200::11"];
const NOBODY: [&str; 2] = ["0.0.0.0", "::"];
const GROUPS: [&str; 4] = ["ff02::1", "ff02::1:ff00:1", "ff02::2", "ff05::1:ff00:1"];
const SPI: u32 = 0xbeef_0001;
const OWNER: u32 = 1;

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn addresses(of: [&[&str]; 2]) -> Addresses {
    let (mut v4, mut v6) = ([Default::default(); OWN_ADDRESSES], [Default::default(); OWN_ADDRESSES]);
    for (to, from) in v4.iter_mut().zip(of[0]) {
        *to = from.parse::<Ipv4Addr>().expect("an address").into();
    }
    for (to, from) in v6.iter_mut().zip(of[1]) {
        *to = from.parse::<Ipv6Addr>().expect("an address").into();
    }
    Addresses { v4_count: of[0].len() as u32, v6_count: of[1].len() as u32, v4, v6 }
}

fn settings() -> Settings {
    let mut management = [ManagementRule::default(); MANAGEMENT_RULES];
    for (rule, (from, bits)) in management.iter_mut().zip([(MANAGER[0], 96 + 24), (MANAGER[1], 48)]) {
        let from = Prefix::new(Ipv6::from(ip(from)), bits);
        *rule = ManagementRule { from, port: 22, protocol: protocol::TCP, _reserved: 0 };
    }
    Settings {
        ready: 1,
        internet_ifindex: 2,
        lan_ifindex: 1,
        lan_mtu: 1500,
        xdp: 1,
        adopt_midstream: 0,
        management_count: 2,
        _reserved: 0,
        internet: addresses([&[INTERNET[0]], &[INTERNET[1], LINK[1]]]),
        lan: addresses([&[LAN[0]], &[LAN[1]]]),
        management,
        timeouts: [Ticks::default(); STATE_SLOTS],
    }
}

/// Builds an Ethernet frame with an IP packet.
fn packet(from: &str, to: &str, protocol: u8, hop_limit: u8, payload: &[u8]) -> Vec<u8> {
    const UNKNOWN: u8 = 253;
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6]);
    let mut frame = Vec::new();
    // With the real protocol, etherparse would look for extension headers.
    match (ip(from), ip(to)) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            builder.ipv4(from.octets(), to.octets(), hop_limit).write(&mut frame, UNKNOWN.into(), payload)
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            builder.ipv6(from.octets(), to.octets(), hop_limit).write(&mut frame, UNKNOWN.into(), payload)
        }
        _ => unreachable!("both addresses are of one family"),
    }
    .expect("writing to a vector");
    frame[if ip(from).is_ipv4() { 23 } else { 20 }] = protocol;
    frame
}

fn udp(from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
    let length = (8 + payload.len()) as u16;
    [&from.to_be_bytes()[..], &to.to_be_bytes(), &length.to_be_bytes(), &[0, 0], payload].concat()
}

fn tcp(from: u16, to: u16, flags: u8) -> Vec<u8> {
    [&from.to_be_bytes()[..], &to.to_be_bytes(), &[0; 8], &[0x50, flags], &[0; 6]].concat()
}

/// Builds a fragment (RFC 8200 section 4.5) from protocol, offset in 8-byte units, M flag and payload.
fn fragment(protocol: u8, offset: u16, more: bool, payload: &[u8]) -> Vec<u8> {
    let [high, low] = (offset << 3 | u16::from(more)).to_be_bytes();
    [&[protocol, 0, high, low, 0, 0, 0, 7], payload].concat()
}

const FRAGMENT: u8 = 44;
const ICMPV6: u8 = 58;
const ESP: u8 = 50;

/// Generates frames of all kinds that the filter knows, some of them damaged.
fn frame() -> impl Strategy<Value = Vec<u8>> {
    let v4 =
        [INTERNET[0], INTERNET[0], LAN[0], MANAGER[0], MANAGER[0], STRANGER[0], NOBODY[0], "192.168.1.2"];
    let v6 = [
        INTERNET[1],
        INTERNET[1],
        LINK[1],
        LAN[1],
        SERVER[1],
        MANAGER[1],
        MANAGER[1],
        STRANGER[1],
        NOBODY[1],
        GROUPS[0],
        GROUPS[1],
        GROUPS[2],
        GROUPS[3],
    ];
    let pair =
        prop_oneof![(select(v4.to_vec()), select(v4.to_vec())), (select(v6.to_vec()), select(v6.to_vec()))]
            .prop_map(|(from, to)| (from.to_owned(), to.to_owned()));
    let port = || select(vec![500u16, 4500, 22, 80, 53]);
    let words = prop_oneof![
        Just(SPI.to_be_bytes().to_vec()),
        Just(vec![3, 4, 0, 0]),
        Just(vec![2, 0, 0, 0]),
        Just(vec![8, 0, 0, 0]),
        Just(vec![0; 8]),
        (133..138u8, 0..2u8).prop_map(|(kind, code)| vec![kind, code, 0, 0]),
        vec(any::<u8>(), 0..12),
    ];
    let quoted = prop_oneof![
        Just((ESP, SPI.to_be_bytes().to_vec())),
        (select(vec![500u16, 4500]), select(vec![SPI, 0, 7]))
            .prop_map(|(port, spi)| (17, udp(port, 9, &spi.to_be_bytes()))),
        Just((6, tcp(22, 9, 2))),
    ];
    let payload = prop_oneof![
        3 => words.clone().prop_map(|words| (ESP, words)),
        4 => (port(), port(), words.clone()).prop_map(|(from, to, words)| (17, udp(from, to, &words))),
        3 => (port(), port(), any::<u8>()).prop_map(|(from, to, flags)| (6, tcp(from, to, flags & 0x3f))),
        5 => (select(vec![1, ICMPV6, ICMPV6]), words.clone()),
        3 => (any::<bool>(), select(vec![0u16, 1399, 1400, 1500]), quoted).prop_map(
            |(v6, mtu, (protocol, body))| (if v6 { ICMPV6 } else { 1 }, too_big(v6, mtu, protocol, &body))
        ),
        1 => (select(vec![47, 4, 41, 0, 43, 60]), words),
    ];
    let split = proptest::option::weighted(0.2, (select(vec![0u16, 0, 1, 5]), any::<bool>()));
    let hop_limit = select(vec![255u8, 255, 64, 254]);
    let changes = prop_oneof![6 => Just(vec![]), 1 => vec((12..70usize, any::<u8>()), 1..3)];
    let cut = proptest::option::weighted(0.1, 0..70usize);
    (pair, payload, split, hop_limit, changes, cut).prop_map(
        |((from, to), (protocol, payload), split, hop_limit, changes, cut)| {
            let v4 = ip(&from).is_ipv4();
            let mut frame = match split {
                Some((offset, more)) if !v4 => {
                    let payload = fragment(protocol, offset, more, &payload);
                    packet(&from, &to, FRAGMENT, hop_limit, &payload)
                }
                _ => packet(&from, &to, protocol, hop_limit, &payload),
            };
            if let Some((offset, more)) = split.filter(|_| v4) {
                frame[20..22].copy_from_slice(&(offset | u16::from(more) << 13).to_be_bytes());
            }
            for (at, byte) in changes {
                if let Some(old) = frame.get_mut(at) {
                    *old = byte;
                }
            }
            frame.truncate(cut.unwrap_or(frame.len()));
            frame
        },
    )
}

/// An IP packet as parsed by etherparse, from a frame that holds all of it.
struct Seen {
    source: IpAddr,
    destination: IpAddr,
    hop_limit: u8,
    protocol: u8,
    /// A fragment other than the first.
    later: bool,
    whole: bool,
    payload: Vec<u8>,
}

fn seen(frame: &[u8]) -> Option<Seen> {
    match frame.get(12..14)? {
        [8, 0] => {
            let header = Ipv4HeaderSlice::from_slice(&frame[14..]).ok()?;
            let end = 14 + usize::from(header.total_len());
            let fits = end <= frame.len() && header.total_len() >= 20 && header.ihl() == 5;
            fits.then(|| Seen {
                source: header.source_addr().into(),
                destination: header.destination_addr().into(),
                hop_limit: header.ttl(),
                protocol: header.protocol().0,
                later: header.fragments_offset().value() != 0,
                whole: !header.is_fragmenting_payload(),
                payload: frame[34..end].to_vec(),
            })
        }
        [0x86, 0xdd] => {
            let header = Ipv6HeaderSlice::from_slice(&frame[14..]).ok()?;
            let payload = frame[54..].get(..usize::from(header.payload_length()))?;
            let mut seen = Seen {
                source: header.source_addr().into(),
                destination: header.destination_addr().into(),
                hop_limit: header.hop_limit(),
                protocol: header.next_header().0,
                later: false,
                whole: true,
                payload: payload.to_vec(),
            };
            if seen.protocol == FRAGMENT {
                let [protocol, _, high, low, ..] = *payload.first_chunk::<8>()?;
                seen.later = u16::from_be_bytes([high, low]) >> 3 != 0;
                (seen.protocol, seen.whole, seen.payload) = (protocol, false, payload[8..].to_vec());
            }
            Some(seen)
        }
        _ => None,
    }
}

impl Seen {
    /// Returns a word of the payload: a port, or type and code.
    fn word(&self, at: usize) -> u16 {
        self.payload.get(at..at + 2).map_or(0, |word| u16::from_be_bytes([word[0], word[1]]))
    }

    /// Returns true if a frame that the filter accepted as `outer` may pass. `peer` is the far end, `port`
    /// the gateway's own port, and `types` are the accepted types of neighbour discovery.
    fn justifies(&self, outer: Outer, peer: IpAddr, port: u16, types: &[u8]) -> bool {
        let (v6, protocol) = (self.source.is_ipv6(), self.protocol);
        let icmp = [self.word(0) >> 8, self.word(0) & 0xff];
        match outer {
            Outer::Neighbour => {
                v6 && protocol == ICMPV6
                    && self.whole
                    && self.hop_limit == 255
                    && types.contains(&(icmp[0] as u8))
                    && icmp[1] == 0
            }
            Outer::Esp(spi) => spi != 0 && !self.later && (protocol == ESP || protocol == 17 && port == 4500),
            Outer::Ike => protocol == 17 && !self.later && (port == 500 || port == 4500),
            Outer::PathMtu if v6 => protocol == ICMPV6 && self.whole && icmp == [2, 0],
            Outer::PathMtu => protocol == 1 && self.whole && icmp == [3, 4],
            Outer::Management => protocol == 6 && self.whole && port == 22 && manager(peer),
            Outer::Fragment => self.later && (protocol == ESP || protocol == 17),
        }
    }
}

impl Seen {
    /// Returns true for a path-MTU message of at least 1400 bytes that quotes ESP of the gateway's with the
    /// known SPI, in IP or in UDP from port 4500.
    fn quotes_esp_of_ours(&self) -> bool {
        let quote = &self.payload[8..];
        let mtu =
            u32::from(self.word(6)) | if self.source.is_ipv6() { u32::from(self.word(4)) << 16 } else { 0 };
        let (source, protocol, body) = match self.source {
            IpAddr::V4(_) => {
                let source: [u8; 4] = *quote[12..].first_chunk().expect("4 bytes");
                (IpAddr::from(source), quote[9], &quote[20..])
            }
            IpAddr::V6(_) => {
                let source: [u8; 16] = *quote[8..].first_chunk().expect("16 bytes");
                (IpAddr::from(source), quote[6], &quote[40..])
            }
        };
        let esp = match protocol {
            ESP => body,
            17 if body[..2] == 4500u16.to_be_bytes() => &body[8..],
            _ => return false,
        };
        mtu >= 1400
            && [INTERNET[0], INTERNET[1], LINK[1]].map(ip).contains(&source)
            && esp[..4] == SPI.to_be_bytes()
    }
}

fn manager(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.octets()[..3] == [198, 51, 100],
        IpAddr::V6(address) => address.segments()[..3] == [0x2001, 0xdb8, 0x51],
    }
}

fn is_arp(frame: &[u8]) -> bool {
    frame.get(12..14) == Some(&[8, 6])
}

/// Solicited-node groups and all nodes (RFC 4291 section 2.7.1).
fn neighbour_group(address: IpAddr) -> bool {
    address == ip("ff02::1")
        || matches!(address, IpAddr::V6(address) if address.octets()[..13] == ip6("ff02::1:ff00:0").octets()[..13])
}

fn ip6(text: &str) -> Ipv6Addr {
    text.parse().expect("an address")
}

fn nobody_owns(_: OutboundSpi) -> Option<u32> {
    None
}

fn owner_of(outbound: OutboundSpi) -> Option<u32> {
    (outbound.spi == SPI).then_some(OWNER)
}

/// Returns a path-MTU message of this family that announces an MTU and quotes this protocol of the gateway's.
fn too_big(v6: bool, mtu: u16, protocol: u8, body: &[u8]) -> Vec<u8> {
    let family = usize::from(v6);
    let quote = packet(INTERNET[family], STRANGER[family], protocol, 64, body);
    let head = if v6 { [2, 0, 0, 0, 0, 0] } else { [3, 4, 0, 0, 0, 0] };
    [&head[..], &mtu.to_be_bytes(), &quote[14..]].concat()
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: Some(Box::new(Direct(REGRESSIONS))),
        ..ProptestConfig::with_cases(20_000)
    })]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..100), v6: bool, mark: u32) {
        let mut bytes = bytes;
        if v6 && bytes.len() > 14 {
            bytes[12..15].copy_from_slice(&[0x86, 0xdd, 0x60]);
        }
        let settings = settings();
        let _ = classify_incoming(&bytes[..], &settings, nobody_owns);
        let _ = classify_outgoing(&bytes[..], &settings, mark, nobody_owns);
        let _ = classify_to_lan(&bytes[..], &settings);
        let _ = is_neighbour_on_lan(&bytes[..]);
        let _ = check_neighbour_on_lan(&bytes[..], &settings, |_| true, |_| true, &mut false);
    }

    #[test]
    fn arriving_frames_are_for_the_gateway_and_of_known_kinds(frame in frame()) {
        if let Ok(arrival) = classify_incoming(&frame[..], &settings(), owner_of) && !is_arp(&frame) {
            let seen = seen(&frame);
            prop_assert!(seen.is_some());
            let seen = seen.unwrap();
            let own = [INTERNET[0], INTERNET[1], LINK[1]].map(ip).contains(&seen.destination);
            let outer = arrival.outer;
            prop_assert!(own || outer == Outer::Neighbour && neighbour_group(seen.destination));
            prop_assert!(seen.justifies(outer, seen.source, seen.word(2), &[134, 135, 136]), "{:?}", outer);
            prop_assert_eq!(IpAddr::from(arrival.source), seen.source);
            prop_assert!(outer != Outer::PathMtu || seen.quotes_esp_of_ours(), "{:?}", seen.payload);
        }
    }

    #[test]
    fn leaving_frames_are_the_gateways_and_of_the_marked_tunnel(frame in frame(), mark in 0..3u32) {
        if let Ok(outer) = classify_outgoing(&frame[..], &settings(), mark, owner_of) && !is_arp(&frame) {
            let seen = seen(&frame);
            prop_assert!(seen.is_some());
            let seen = seen.unwrap();
            let own = [INTERNET[0], INTERNET[1], LINK[1]].map(ip).contains(&seen.source);
            // RFC 4862 section 5.4.2.
            let tentative = seen.source == ip("::") && outer == Outer::Neighbour && seen.payload[0] == 135;
            prop_assert!(own || tentative);
            prop_assert!(outer != Outer::PathMtu);
            prop_assert!(seen.justifies(outer, seen.destination, seen.word(0), &[133, 135, 136]), "{:?}", outer);
            prop_assert!(outer != Outer::Esp(SPI) || mark == OWNER);
            let syn = outer == Outer::Management && seen.payload[13] & 0x12 == 0x02;
            prop_assert!(!syn, "the gateway opens a connection");
        }
    }

    #[test]
    fn frames_to_the_lan_are_neighbour_discovery_or_the_gateways_path_mtu_errors(frame in frame()) {
        if let Ok(outer) = classify_to_lan(&frame[..], &settings()) && !is_arp(&frame) {
            let seen = seen(&frame);
            prop_assert!(seen.is_some());
            let seen = seen.unwrap();
            let tentative = seen.source == ip("::") && outer == Outer::Neighbour && seen.payload[0] == 135;
            prop_assert!(tentative || LAN.map(ip).contains(&seen.source));
            prop_assert!(matches!(outer, Outer::PathMtu | Outer::Neighbour));
            prop_assert!(seen.justifies(outer, seen.destination, 0, &[135, 136]));
        }
    }

    #[test]
    fn neighbours_on_the_lan_are_servers_or_of_the_link(frame in frame()) {
        let mut anonymous = false;
        let v4 = |address: Ipv4| IpAddr::from(address.octets) == ip(SERVER[0]);
        let v6 = |address: Ipv6| IpAddr::from(address) == ip(SERVER[1]);
        let checked = check_neighbour_on_lan(&frame[..], &settings(), v4, v6, &mut anonymous);
        if is_neighbour_on_lan(&frame[..]) && !is_arp(&frame) && checked.is_ok() {
            let seen = seen(&frame).expect("a packet");
            let server = seen.source == ip(SERVER[1]);
            prop_assert_eq!(anonymous, !server);
            prop_assert!(server || seen.source == ip("::") || seen.source == ip(LINK[1]), "{}", seen.source);
            prop_assert!([LAN[1]].map(ip).contains(&seen.destination) || neighbour_group(seen.destination));
        }
    }

    #[test]
    fn only_neighbour_discovery_passes_undecided_on_the_lan(frame in frame()) {
        if is_neighbour_on_lan(&frame[..]) && !is_arp(&frame) {
            let seen = seen(&frame);
            prop_assert!(seen.is_some_and(|seen| seen.justifies(Outer::Neighbour, seen.source, 0, &[135, 136])));
        }
    }
}

/// Classifies a packet from the manager to the gateway's address.
fn to_us(family: usize, protocol: u8, payload: &[u8]) -> Result<Outer, Reason> {
    let frame = packet(MANAGER[family], INTERNET[family], protocol, 64, payload);
    classify_incoming(&frame[..], &settings(), owner_of).map(|arrival| arrival.outer)
}

#[test]
fn every_kind_arrives_in_both_families() {
    let spi = SPI.to_be_bytes();
    for family in [0, 1] {
        let message =
            |mtu, protocol, body: &[u8]| ([1, ICMPV6][family], too_big(family == 1, mtu, protocol, body));
        let other_icmp = [(1, [2, 0, 0, 0]), (ICMPV6, [3, 4, 0, 0])][family];
        for ((protocol, payload), expected) in [
            ((ESP, spi.to_vec()), Ok(Outer::Esp(SPI))),
            ((ESP, vec![0; 4]), Err(Reason::OuterMalformed)),
            ((ESP, vec![1; 3]), Err(Reason::OuterMalformed)),
            ((17, udp(500, 500, &[1; 28])), Ok(Outer::Ike)),
            ((17, udp(9, 4500, &[0; 32])), Ok(Outer::Ike)),
            ((17, udp(9, 4500, &[0xff])), Ok(Outer::Ike)),
            ((17, udp(9, 4500, &spi)), Ok(Outer::Esp(SPI))),
            ((17, udp(9, 4501, &spi)), Err(Reason::OuterPortNotAllowed)),
            ((6, tcp(9, 22, 2)), Ok(Outer::Management)),
            ((6, tcp(9, 23, 2)), Err(Reason::OuterPortNotAllowed)),
            (message(1400, ESP, &spi), Ok(Outer::PathMtu)),
            (message(1400, 17, &udp(4500, 9, &spi)), Ok(Outer::PathMtu)),
            (message(1399, ESP, &spi), Err(Reason::PathMtuTooSmall)),
            (message(1400, ESP, &[1; 4]), Err(Reason::PathMtuOfUnknownPacket)),
            (message(1400, 17, &udp(500, 9, &spi)), Err(Reason::PathMtuOfUnknownPacket)),
            ((other_icmp.0, other_icmp.1.to_vec()), Err(Reason::OuterProtocolNotAllowed)),
            ((47, vec![0; 8]), Err(Reason::OuterProtocolNotAllowed)),
        ] {
            assert_eq!(to_us(family, protocol, &payload), expected, "IPv{} {protocol}", [4, 6][family]);
        }
    }
}

#[test]
fn icmp_of_the_other_family_is_dropped() {
    assert_eq!(to_us(0, ICMPV6, &[2, 0, 0, 0]), Err(Reason::OuterProtocolNotAllowed));
    assert_eq!(to_us(1, 1, &[3, 4, 0, 0]), Err(Reason::OuterProtocolNotAllowed));
}

#[test]
fn only_ipv6_fragments_of_esp_and_udp_arrive() {
    let first = |protocol, payload: &[u8]| to_us(1, FRAGMENT, &fragment(protocol, 0, true, payload));
    let later = |protocol| to_us(1, FRAGMENT, &fragment(protocol, 3, false, &[0; 8]));
    let spi = SPI.to_be_bytes();
    assert_eq!(first(ESP, &spi), Ok(Outer::Esp(SPI)));
    let mut ike = udp(500, 500, &[1; 24]);
    // The length of the whole datagram.
    ike[4..6].copy_from_slice(&2000u16.to_be_bytes());
    assert_eq!(first(17, &ike), Ok(Outer::Ike));
    assert_eq!(first(6, &tcp(9, 22, 2)), Err(Reason::OuterProtocolNotAllowed));
    assert_eq!(first(ICMPV6, &[2, 0, 0, 0]), Err(Reason::OuterProtocolNotAllowed));
    assert_eq!(later(ESP), Ok(Outer::Fragment));
    assert_eq!(later(17), Ok(Outer::Fragment));
    assert_eq!(later(6), Err(Reason::OuterProtocolNotAllowed));
    assert_eq!(later(ICMPV6), Err(Reason::OuterProtocolNotAllowed));
    // An atomic fragment (RFC 6946) has no more rights than a first fragment either.
    assert_eq!(to_us(1, FRAGMENT, &fragment(ESP, 0, false, &spi)), Ok(Outer::Esp(SPI)));
    assert_eq!(
        to_us(1, FRAGMENT, &fragment(6, 0, false, &tcp(9, 22, 2))),
        Err(Reason::OuterProtocolNotAllowed)
    );
    assert_eq!(to_us(1, FRAGMENT, &fragment(ESP, 0, true, &spi)[..7]), Err(Reason::OuterMalformed));
    assert_eq!(to_us(1, FRAGMENT, &fragment(ESP, 0, true, &[])), Err(Reason::OuterMalformed));
}

#[test]
fn no_extension_header_is_a_way_past_the_filter() {
    // Hop-by-hop, routing, authentication, destination options, mobility, HIP, shim6, experiments.
    for kind in [0u8, 43, 51, 60, 135, 139, 140, 253, 254] {
        let esp = [&[ESP, 0, 1, 4, 0, 0, 0, 0], &SPI.to_be_bytes()[..]].concat();
        assert_eq!(to_us(1, kind, &esp), Err(Reason::OuterHasIpOptions), "header {kind}");
        let behind_a_fragment_header = fragment(kind, 0, true, &esp);
        assert_eq!(to_us(1, FRAGMENT, &behind_a_fragment_header), Err(Reason::OuterHasIpOptions), "{kind}");
    }
    let twice = fragment(FRAGMENT, 0, true, &fragment(ESP, 0, true, &SPI.to_be_bytes()));
    assert_eq!(to_us(1, FRAGMENT, &twice), Err(Reason::OuterHasIpOptions));
    // No next header (RFC 8200 section 4.7).
    assert_eq!(to_us(1, 59, &[]), Err(Reason::OuterProtocolNotAllowed));
}

#[test]
fn an_ipv6_packet_longer_than_its_frame_is_malformed() {
    let frame = packet(MANAGER[1], INTERNET[1], ESP, 64, &[1; 12]);
    for (length, expected) in [(12u16, true), (11, true), (13, false), (u16::MAX, false)] {
        let mut frame = frame.clone();
        frame[18..20].copy_from_slice(&length.to_be_bytes());
        let result = classify_incoming(&frame[..], &settings(), owner_of);
        assert_eq!(result.is_ok(), expected, "payload length {length}");
        assert!(expected || result == Err(Reason::OuterMalformed));
    }
    for version in [0, 4, 5, 7, 15] {
        let mut frame = frame.clone();
        frame[14] = version << 4;
        assert_eq!(
            classify_incoming(&frame[..], &settings(), owner_of),
            Err(Reason::OuterMalformed),
            "version {version}"
        );
    }
}

/// ICMPv6 types around neighbour discovery, and whether each may arrive, leave, pass on the LAN and reach the
/// LAN.
const DISCOVERY: [(u8, [bool; 4]); 6] = [
    (132, [false; 4]),
    (133, [false, true, false, false]),
    (134, [true, false, false, false]),
    (135, [true; 4]),
    (136, [true; 4]),
    (137, [false; 4]), // Redirect: a way to steal traffic.
];

/// Returns the results in the order of [`DISCOVERY`].
fn passes(kind: u8, code: u8, hop_limit: u8) -> [bool; 4] {
    let body = [kind, code, 0, 0, 0, 0, 0, 0];
    let frame = |from, to| packet(from, to, ICMPV6, hop_limit, &body);
    let is = |result: Result<Outer, Reason>| result == Ok(Outer::Neighbour);
    let to_us = classify_incoming(&frame("fe80::9", LINK[1])[..], &settings(), nobody_owns);
    let from_us = classify_outgoing(&frame(LINK[1], "ff02::1:ff00:9")[..], &settings(), 0, nobody_owns);
    let on_lan = is_neighbour_on_lan(&frame("fe80::9", "ff02::1:ff00:1")[..]);
    let to_lan = classify_to_lan(&frame(LAN[1], "ff02::1:ff00:9")[..], &settings());
    [is(to_us.map(|arrival| arrival.outer)), is(from_us), on_lan, is(to_lan)]
}

#[test]
fn neighbour_discovery_comes_from_the_link_only() {
    for (kind, allowed) in DISCOVERY {
        assert_eq!(passes(kind, 0, 255), allowed, "type {kind}");
        for hop_limit in [0, 1, 64, 254] {
            assert_eq!(passes(kind, 0, hop_limit), [false; 4], "type {kind} hop limit {hop_limit}");
        }
        assert_eq!(passes(kind, 1, 255), [false; 4], "type {kind} code 1");
    }
}

#[test]
fn neighbour_discovery_goes_to_the_gateways_groups_only() {
    let body = [135, 0, 0, 0, 0, 0, 0, 0];
    for (to, arrives) in [
        ("ff02::1", true),
        ("ff02::1:ff00:1", true),
        ("ff02::2", false),
        ("ff05::1", false),
        ("ff02::1:fe00:1", false),
        ("ff02::1:0:ff00:1", false),
        (STRANGER[1], false),
    ] {
        let result =
            classify_incoming(&packet("fe80::9", to, ICMPV6, 255, &body)[..], &settings(), nobody_owns);
        assert_eq!(result.is_ok(), arrives, "{to}");
        assert!(arrives || result == Err(Reason::OuterNotGatewayAddress));
    }
    // No other protocol may go to a group.
    for (protocol, payload) in [(ESP, SPI.to_be_bytes().to_vec()), (17, udp(500, 500, &[1; 28]))] {
        let result = classify_incoming(
            &packet(MANAGER[1], "ff02::1", protocol, 255, &payload)[..],
            &settings(),
            nobody_owns,
        );
        assert_eq!(result, Err(Reason::OuterNotGatewayAddress));
    }
}

#[test]
fn neighbour_discovery_in_fragments_is_dropped() {
    // RFC 6980.
    let body = fragment(ICMPV6, 0, true, &[135, 0, 0, 0, 0, 0, 0, 0]);
    let frame = packet("fe80::9", LINK[1], FRAGMENT, 255, &body);
    assert_eq!(classify_incoming(&frame[..], &settings(), owner_of), Err(Reason::OuterProtocolNotAllowed));
    assert!(!is_neighbour_on_lan(&frame[..]));
}

/// RFC 4942 section 2.2: such a source would pass for the manager, and for an IPv4 peer.
#[test]
fn ipv4_mapped_source_is_malformed() {
    for (protocol, payload) in [(6, tcp(9, 22, 2)), (17, udp(500, 500, &[1; 28])), (ESP, vec![1; 8])] {
        let mapped = packet("::ffff:198.51.100.7", INTERNET[1], protocol, 64, &payload);
        assert_eq!(classify_incoming(&mapped[..], &settings(), nobody_owns), Err(Reason::OuterMalformed));
    }
}
