//! The outer filter of the internet side, rule by rule: one packet of each kind that passes, and variants
//! that differ in one detail.
use etherparse::PacketBuilder;
use gateway_common::{
    layout::{Addresses, ManagementRule, OutboundSpi, Prefix, Settings},
    limits::{MANAGEMENT_RULES, MIN_PATH_MTU_BYTES},
    outer::{
        Outer, check_neighbour_on_lan, classify_incoming, classify_outgoing, classify_to_lan,
        is_neighbour_on_lan, quoted_esp,
    },
    reason::Reason::{self, *},
    tcp::STATE_SLOTS,
    time::Ticks,
    wire::{Ipv4, Ipv6, has_priority_tag, is_foreign, protocol},
};

const OURS: [u8; 4] = [203, 0, 113, 1];
const OURS_V6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const PEER_V6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];
const OUR_LAN: [u8; 4] = [10, 200, 0, 1];
const PEER: [u8; 4] = [198, 18, 0, 1];
const MANAGER: [u8; 4] = [198, 51, 100, 7];
const SERVER: [u8; 4] = [10, 200, 0, 11];

fn settings() -> Settings {
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

fn mapped(address: [u8; 4]) -> Ipv6 {
    std::net::IpAddr::from(address).into()
}

fn ip(from: [u8; 4], to: [u8; 4], protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(from, to, 64);
    builder.write(&mut frame, protocol.into(), payload).expect("writing to a vector");
    frame
}

fn udp(from: ([u8; 4], u16), to: ([u8; 4], u16), payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(from.0, to.0, 64).udp(from.1, to.1);
    builder.write(&mut frame, payload).expect("writing to a vector");
    frame
}

fn tcp(from: ([u8; 4], u16), to: ([u8; 4], u16), flags: u8) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(from.0, to.0, 64).tcp(from.1, to.1, 1, 1);
    builder.write(&mut frame, &[]).expect("writing to a vector");
    frame[47] = flags;
    frame
}

/// Returns the frame with these bytes replaced.
fn with(mut frame: Vec<u8>, edits: &[(usize, u8)]) -> Vec<u8> {
    for (at, byte) in edits {
        frame[*at] = *byte;
    }
    frame
}

fn arrives(frame: &[u8]) -> Result<Outer, Reason> {
    classify_incoming(frame, &settings(), owner).map(|arrival| arrival.outer)
}

/// Classifies an outgoing frame with the mark of tunnel 1, whose SPI is 0xbeef.
fn leaves(frame: &[u8]) -> Result<Outer, Reason> {
    classify_outgoing(frame, &settings(), 1, owner)
}

/// Returns the tunnel that owns an outbound SPI. No tunnel has SPI 0; it is listed here so that only the filter
/// refuses it.
fn owner(outbound: OutboundSpi) -> Option<u32> {
    let of_peer = [mapped(PEER), Ipv6 { octets: PEER_V6 }].contains(&outbound.peer);
    match outbound.spi {
        0xbeef | 0 if of_peer => Some(1),
        0xf00d if of_peer => Some(2),
        _ => None,
    }
}

fn reaches_lan(frame: &[u8]) -> Result<Outer, Reason> {
    classify_to_lan(frame, &settings())
}

/// Offset of the fragment field in the IPv4 header.
const FRAGMENT: usize = 20;
const MORE: (usize, u8) = (FRAGMENT, 0x20);
const LATER: (usize, u8) = (FRAGMENT + 1, 1);
const FAR_LATER: (usize, u8) = (FRAGMENT, 0x10);
const ESP_BEEF: &[u8] = &[0, 0, 0xbe, 0xef, 0, 0, 0, 1];
const ESP_F00D: &[u8] = &[0, 0, 0xf0, 0x0d, 0, 0, 0, 1];

#[test]
fn esp_passes_in_ip_and_in_udp() {
    for (payload, spi) in [(ESP_BEEF, 0xbeef), (ESP_F00D, 0xf00d)] {
        assert_eq!(arrives(&ip(PEER, OURS, 50, payload)), Ok(Outer::Esp(spi)));
        assert_eq!(arrives(&udp((PEER, 1024), (OURS, 4500), payload)), Ok(Outer::Esp(spi)));
    }
    assert_eq!(arrives(&ip(PEER, OURS, 50, &[0; 8])), Err(OuterMalformed), "SPI 0");
    assert_eq!(arrives(&ip(PEER, OURS, 50, &[0, 0, 1])), Err(OuterMalformed), "cut short");
    assert_eq!(arrives(&ip(PEER, [203, 0, 113, 2], 50, ESP_BEEF)), Err(OuterNotGatewayAddress));
    assert_eq!(arrives(&ip(PEER, [0; 4], 50, ESP_BEEF)), Err(OuterNotGatewayAddress), "beyond the count");
}

#[test]
fn esp_leaves_with_its_own_tunnels_mark_only() {
    assert_eq!(leaves(&ip(OURS, PEER, 50, ESP_BEEF)), Ok(Outer::Esp(0xbeef)));
    assert_eq!(leaves(&ip(OURS, PEER, 50, ESP_F00D)), Err(SpiOfOtherTunnel));
    assert_eq!(leaves(&udp((OURS, 4500), (PEER, 1024), ESP_BEEF)), Ok(Outer::Esp(0xbeef)));
    assert_eq!(leaves(&udp((OURS, 4500), (PEER, 1024), ESP_F00D)), Err(SpiOfOtherTunnel));
    assert_eq!(leaves(&ip(OURS, MANAGER, 50, ESP_F00D)), Ok(Outer::Esp(0xf00d)), "same SPI at another peer");
    assert_eq!(leaves(&ip(SERVER, PEER, 50, ESP_BEEF)), Err(PlaintextToInternet));
}

#[test]
fn ike_passes_on_its_ports() {
    assert_eq!(arrives(&udp((PEER, 1024), (OURS, 500), &[1; 28])), Ok(Outer::Ike));
    assert_eq!(
        arrives(&udp((PEER, 1024), (OURS, 4500), &[0; 32])),
        Ok(Outer::Ike),
        "behind the non-ESP marker"
    );
    assert_eq!(arrives(&udp((PEER, 1024), (OURS, 4500), &[0xff])), Ok(Outer::Ike), "a keepalive");
    assert_eq!(arrives(&udp((PEER, 1024), (OURS, 4500), &[0xff, 0])), Err(OuterMalformed));
    assert_eq!(arrives(&udp((PEER, 1024), (OURS, 4500), &[0xff, 0, 0])), Err(OuterMalformed));
    assert_eq!(arrives(&udp((PEER, 1024), (OURS, 4500), &[])), Err(OuterMalformed));
    let keepalive = udp((PEER, 1024), (OURS, 4500), &[0xff]);
    assert_eq!(arrives(&with(keepalive, &[MORE])), Err(OuterMalformed), "a fragmented keepalive");
    assert_eq!(arrives(&udp((PEER, 500), (OURS, 1024), &[1; 28])), Err(OuterPortNotAllowed));
    assert_eq!(leaves(&udp((OURS, 500), (PEER, 1024), &[1; 28])), Ok(Outer::Ike));
    assert_eq!(leaves(&udp((OURS, 1024), (PEER, 500), &[1; 28])), Err(GatewayTrafficNotAllowed));
}

#[test]
fn udp_length_matches_both_headers() {
    let ike = || udp((PEER, 1024), (OURS, 500), &[1; 28]);
    for (length, expected) in [(35, Err(OuterMalformed)), (36, Ok(Outer::Ike)), (37, Err(OuterMalformed))] {
        assert_eq!(arrives(&with(ike(), &[(39, length)])), expected, "{length}");
    }
    // In a first fragment the length may exceed the frame: other fragments bring the rest.
    for (length, expected) in [(35, Err(OuterMalformed)), (37, Ok(Outer::Ike))] {
        assert_eq!(arrives(&with(ike(), &[(39, length), MORE])), expected, "{length}");
    }
    let mut padded = with(udp((PEER, 1024), (OURS, 4500), &[]), &[]);
    padded.extend(ESP_BEEF);
    assert_eq!(arrives(&padded), Err(OuterMalformed), "an SPI in the padding");
}

#[test]
fn only_later_fragments_of_esp_and_udp_pass() {
    for edit in [LATER, FAR_LATER] {
        for (proto, passes) in [(50, true), (17, true), (6, false), (1, false)] {
            let outer = with(ip(PEER, OURS, proto, &[3, 4, 0, 0]), &[edit]);
            let expected = if passes { Ok(Outer::Fragment) } else { Err(OuterProtocolNotAllowed) };
            assert_eq!(arrives(&outer), expected, "{proto}");
            let own = with(ip(OURS, PEER, proto, &[3, 4, 0, 0]), &[edit]);
            let expected = if passes { Ok(Outer::Fragment) } else { Err(GatewayTrafficNotAllowed) };
            assert_eq!(leaves(&own), expected, "{proto}");
        }
    }
}

#[test]
fn management_passes_by_its_rules() {
    let management = |from, to| arrives(&tcp((from, 1024), (OURS, to), 0x02));
    assert_eq!(management(MANAGER, 22), Ok(Outer::Management));
    assert_eq!(management(MANAGER, 23), Err(OuterPortNotAllowed), "beyond the count");
    assert_eq!(management(MANAGER, 161), Err(OuterPortNotAllowed), "port of another protocol");
    assert_eq!(management(PEER, 22), Err(OuterPortNotAllowed));
    assert_eq!(arrives(&udp((MANAGER, 1024), (OURS, 161), &[1])), Ok(Outer::Management));
    assert_eq!(arrives(&udp((MANAGER, 1024), (OURS, 22), &[1])), Err(OuterPortNotAllowed));
    let syn = || tcp((MANAGER, 1024), (OURS, 22), 0x02);
    assert_eq!(arrives(&with(syn(), &[MORE])), Err(OuterProtocolNotAllowed), "fragmented");
    assert_eq!(leaves(&tcp((OURS, 22), (MANAGER, 1024), 0x12)), Ok(Outer::Management));
    assert_eq!(leaves(&tcp((OURS, 22), (MANAGER, 1024), 0x10)), Ok(Outer::Management));
    assert_eq!(
        leaves(&tcp((OURS, 22), (MANAGER, 1024), 0x02)),
        Err(GatewayTrafficNotAllowed),
        "the gateway opens a connection"
    );
    assert_eq!(leaves(&tcp((OURS, 22), (PEER, 1024), 0x12)), Err(GatewayTrafficNotAllowed));
    assert_eq!(leaves(&tcp((OURS, 1024), (MANAGER, 22), 0x12)), Err(GatewayTrafficNotAllowed));
}

#[test]
fn only_path_mtu_errors_of_icmp_pass() {
    let quote = &ip(OURS, PEER, 50, ESP_BEEF)[14..];
    let icmp = |from, to, kind, code| ip(from, to, 1, &[&[kind, code, 0, 0, 0, 0, 5, 120], quote].concat());
    assert_eq!(arrives(&icmp(PEER, OURS, 3, 4)), Ok(Outer::PathMtu));
    for (kind, code) in [(8, 0), (0, 0), (3, 1), (3, 3), (11, 4)] {
        assert_eq!(arrives(&icmp(PEER, OURS, kind, code)), Err(OuterProtocolNotAllowed));
        assert_eq!(reaches_lan(&icmp(OUR_LAN, SERVER, kind, code)), Err(NotApprovedForLan));
    }
    assert_eq!(arrives(&with(icmp(PEER, OURS, 3, 4), &[MORE])), Err(OuterProtocolNotAllowed), "fragmented");
    assert_eq!(reaches_lan(&icmp(OUR_LAN, SERVER, 3, 4)), Ok(Outer::PathMtu));
    assert_eq!(reaches_lan(&icmp(OURS, SERVER, 3, 4)), Err(NotApprovedForLan));
    assert_eq!(reaches_lan(&udp((OUR_LAN, 3), (SERVER, 4), &[])), Err(NotApprovedForLan));
    assert_eq!(leaves(&icmp(OURS, PEER, 3, 4)), Err(GatewayTrafficNotAllowed));
}

#[test]
fn outer_packet_is_plain_whole_ipv4_or_arp() {
    let esp = || ip(PEER, OURS, 50, ESP_BEEF);
    assert_eq!(arrives(&with(esp(), &[(14, 0x46)])), Err(OuterHasIpOptions));
    assert_eq!(arrives(&with(esp(), &[(14, 0x4f)])), Err(OuterHasIpOptions));
    assert_eq!(arrives(&with(esp(), &[(14, 0x65)])), Err(OuterMalformed));
    assert_eq!(arrives(&with(esp(), &[(17, 19)])), Err(OuterMalformed));
    assert_eq!(arrives(&with(ip(PEER, OURS, 17, &[]), &[(17, 19), LATER])), Err(OuterMalformed));
    assert_eq!(arrives(&with(esp(), &[(17, 29)])), Err(OuterMalformed), "longer than the frame");
    assert_eq!(arrives(&with(esp(), &[(13, 1)])), Err(OuterNotIp));
    assert_eq!(arrives(&with(esp(), &[(13, 6)])), Ok(Outer::Neighbour));
    assert_eq!(arrives(&esp()[..33]), Err(OuterMalformed));
    assert_eq!(arrives(&[]), Err(OuterNotIp));
}

/// A path-MTU message names the outbound SA of its quoted packet, in IPv6 as in IPv4.
#[test]
fn quoted_esp_names_the_peer_and_its_spi() {
    let own = settings().internet;
    let quoted_esp = |frame: &[u8]| quoted_esp(frame, &own);
    let message = |quoted: &[u8]| ip(PEER, OURS, 1, &[&[3, 4, 0, 0, 0, 0, 5, 0], quoted].concat());
    let esp = &ip(OURS, PEER, 50, ESP_BEEF)[14..];
    let named = OutboundSpi { peer: mapped(PEER), spi: 0xbeef };
    assert_eq!(quoted_esp(&message(esp)[..]), Some(named));
    assert_eq!(quoted_esp(&message(&esp[..24])[..]), Some(named), "cut short behind the SPI");
    assert_eq!(quoted_esp(&message(&esp[..23])[..]), None);
    assert_eq!(quoted_esp(&message(&ip(OURS, PEER, 17, ESP_BEEF)[14..])[..]), None);
    assert_eq!(quoted_esp(&with(message(esp), &[(12, 0x86), (13, 0xdd)])[..]), None);

    let v6 = |from: u8, to: u8, protocol: u8, payload: &[u8]| {
        let address = |last: u8| [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last];
        let mut frame = Vec::new();
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv6(address(from), address(to), 64);
        builder.write(&mut frame, 253.into(), payload).expect("writing to a vector");
        frame[20] = protocol;
        frame
    };
    let esp = &v6(1, 9, 50, ESP_BEEF)[14..];
    let message = |quoted: &[u8]| v6(2, 1, 58, &[&[2, 0, 0, 0, 0, 0, 5, 0], quoted].concat());
    let peer = std::net::IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 9]).into();
    assert_eq!(quoted_esp(&message(esp)[..]), Some(OutboundSpi { peer, spi: 0xbeef }));
    assert_eq!(quoted_esp(&message(&esp[..43])[..]), None);
    assert_eq!(quoted_esp(&message(&v6(1, 9, 17, ESP_BEEF)[14..])[..]), None);
}

/// The rules of path-MTU messages from the internet, in both families. The closures of each family return a
/// message that announces an MTU and quotes a packet, and a packet that is quoted.
#[test]
fn path_mtu_messages_quote_esp_of_a_known_sa() {
    let udp_header = |port: u16| [&port.to_be_bytes()[..], &[4, 0, 0, 100, 0, 0]].concat();
    let in_udp = |port, body: &[u8]| [&udp_header(port), body].concat();
    let message_v4 = |mtu: u32, quote: &[u8]| {
        ip(MANAGER, OURS, 1, &[&[3, 4, 0, 0][..], &mtu.to_be_bytes(), quote].concat())
    };
    let quote_v4 = |ours: bool, to_peer: bool, protocol, body: &[u8]| {
        ip(if ours { OURS } else { SERVER }, if to_peer { PEER } else { MANAGER }, protocol, body)[14..]
            .to_vec()
    };
    let stranger = [0x20, 1, 0xd, 0xb8, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8];
    let message_v6 = |mtu: u32, quote: &[u8]| {
        ip6_between(stranger, OURS_V6, 58, 64, &[&[2, 0, 0, 0][..], &mtu.to_be_bytes(), quote].concat())
    };
    let quote_v6 = |ours: bool, to_peer: bool, protocol, body: &[u8]| {
        let (from, to) = (if ours { OURS_V6 } else { stranger }, if to_peer { PEER_V6 } else { stranger });
        ip6_between(from, to, protocol, 64, body)[14..].to_vec()
    };
    type Message<'a> = &'a dyn Fn(u32, &[u8]) -> Vec<u8>;
    type Quote<'a> = &'a dyn Fn(bool, bool, u8, &[u8]) -> Vec<u8>;
    let families: [(Message<'_>, Quote<'_>, usize); 2] =
        [(&message_v4, &quote_v4, 20), (&message_v6, &quote_v6, 40)];
    for (message, quote, header_bytes) in families {
        let passes = |quote: &[u8]| arrives(&message(1400, quote));
        let (refused, spi_end) = (Err(PathMtuOfUnknownPacket), header_bytes + 4);
        let esp = quote(true, true, 50, ESP_BEEF);
        assert_eq!(passes(&esp), Ok(Outer::PathMtu));
        assert_eq!(passes(&esp[..spi_end]), Ok(Outer::PathMtu), "cut short behind the SPI");
        assert_eq!(passes(&esp[..spi_end - 1]), refused, "cut short in the SPI");
        assert_eq!(passes(&[]), refused, "no quote");
        assert_eq!(passes(&quote(true, true, 50, &[0, 0, 0xbe, 0xee])), refused, "an unknown SPI");
        assert_eq!(passes(&quote(true, false, 50, ESP_BEEF)), refused, "the SPI of another peer");
        assert_eq!(passes(&quote(false, true, 50, ESP_BEEF)), refused, "not sent by the gateway");
        assert_eq!(passes(&quote(true, true, 6, ESP_BEEF)), refused, "TCP");
        assert_eq!(passes(&quote(true, true, 50, &[0; 8])), refused, "SPI 0");

        let nat = quote(true, true, 17, &in_udp(4500, ESP_BEEF));
        assert_eq!(passes(&nat), Ok(Outer::PathMtu));
        assert_eq!(passes(&nat[..spi_end + 8]), Ok(Outer::PathMtu), "cut short behind the SPI");
        assert_eq!(passes(&nat[..spi_end + 7]), refused, "cut short in the SPI");
        assert_eq!(passes(&nat[..header_bytes + 8]), refused, "the UDP header alone");
        assert_eq!(passes(&nat[..header_bytes + 1]), refused, "half a port");
        assert_eq!(passes(&quote(true, true, 17, &in_udp(4500, &[0; 32]))), refused, "IKE on port 4500");
        assert_eq!(passes(&quote(true, true, 17, &in_udp(500, ESP_BEEF))), refused, "IKE on port 500");
        assert_eq!(passes(&quote(true, true, 17, &in_udp(4501, ESP_BEEF))), refused, "another port");
        assert_eq!(passes(&quote(true, true, 17, &in_udp(4500, &[0, 0, 0xbe, 0xee]))), refused);

        for mtu in [0, 1, 552, 1280, MIN_PATH_MTU_BYTES - 1] {
            assert_eq!(arrives(&message(mtu, &esp)), Err(PathMtuTooSmall), "{mtu}");
            assert_eq!(arrives(&message(mtu, &nat)), Err(PathMtuTooSmall), "{mtu} in UDP");
        }
        for mtu in [MIN_PATH_MTU_BYTES, 1500, 0xffff] {
            assert_eq!(arrives(&message(mtu, &esp)), Ok(Outer::PathMtu), "{mtu}");
        }
    }
    // The upper half of the word is unused in IPv4 (RFC 1191 section 4), and part of the MTU in IPv6.
    assert_eq!(arrives(&message_v4(0x0001_0000, &quote_v4(true, true, 50, ESP_BEEF))), Err(PathMtuTooSmall));
    assert_eq!(arrives(&message_v6(0x0001_0000, &quote_v6(true, true, 50, ESP_BEEF))), Ok(Outer::PathMtu));
}

/// Returns an IPv6 frame from the peer.
fn ip6(to: [u8; 16], protocol: u8, hop_limit: u8, payload: &[u8]) -> Vec<u8> {
    ip6_between(PEER_V6, to, protocol, hop_limit, payload)
}

fn ip6_between(from: [u8; 16], to: [u8; 16], protocol: u8, hop_limit: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv6(from, to, hop_limit);
    builder.write(&mut frame, 253.into(), payload).expect("writing to a vector");
    frame[20] = protocol;
    frame
}

/// RFC 8200 section 4.5: 13 bits of offset, then M.
#[test]
fn every_bit_of_an_ipv6_fragments_offset_makes_it_a_later_one() {
    let judged = |word: u16| {
        let [high, low] = word.to_be_bytes();
        let payload = [&[50, 0, high, low, 0, 0, 0, 7], ESP_BEEF].concat();
        arrives(&ip6(OURS_V6, 44, 64, &payload))
    };
    for bit in 3..16 {
        assert_eq!(judged(1 << bit), Ok(Outer::Fragment), "bit {bit}");
    }
    for bit in 0..3 {
        assert_eq!(judged(1 << bit), Ok(Outer::Esp(0xbeef)), "bit {bit}");
    }
}

#[test]
fn udp_length_in_an_ipv6_fragment_is_at_least_the_fragments() {
    let judged = |length: u8| {
        let udp = [1, 244, 1, 244, 0, length, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1];
        arrives(&ip6(OURS_V6, 44, 64, &[&[17, 0, 0, 1, 0, 0, 0, 7][..], &udp].concat()))
    };
    assert_eq!(judged(15), Err(OuterMalformed));
    assert_eq!([judged(16), judged(17), judged(24)], [Ok(Outer::Ike); 3]);
}

#[test]
fn neighbour_discovery_is_icmpv6_to_its_groups() {
    let all_nodes: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let mut other_group = all_nodes;
    other_group[5] = 1;
    let solicitation = [135, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(arrives(&ip6(all_nodes, 58, 255, &solicitation)), Ok(Outer::Neighbour));
    assert_eq!(arrives(&ip6(other_group, 58, 255, &solicitation)), Err(OuterNotGatewayAddress));
    // A UDP port may look like a type and code.
    for protocol in [17, 6, 50, 1] {
        let frame = ip6(all_nodes, protocol, 255, &solicitation);
        assert_eq!(arrives(&frame), Err(OuterNotGatewayAddress), "protocol {protocol}");
        assert!(!is_neighbour_on_lan(&frame[..]), "protocol {protocol}");
    }
    let mut v4 = ip(PEER, OURS, 1, &solicitation);
    v4[22] = 255;
    assert_eq!(arrives(&v4), Err(OuterProtocolNotAllowed), "ICMP has no neighbour discovery");
}

/// RFC 4862 section 5.4.2: a host without an address may only ask whether one is free.
#[test]
fn unspecified_source_may_only_solicit() {
    let group: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 1];
    for (from, kind, passes) in
        [([0; 16], 135, true), ([0; 16], 136, false), ([0; 16], 133, false), (PEER_V6, 135, false)]
    {
        let frame = ip6_between(from, group, 58, 255, &[kind, 0, 0, 0, 0, 0, 0, 0]);
        let (leaving, on_lan) = (leaves(&frame), reaches_lan(&frame));
        assert_eq!(leaving, if passes { Ok(Outer::Neighbour) } else { Err(PlaintextToInternet) });
        assert_eq!(on_lan, if passes { Ok(Outer::Neighbour) } else { Err(NotApprovedForLan) });
    }
}

#[test]
fn arrival_names_its_source_and_subscriber() {
    let judged = |frame: &[u8]| {
        let arrival = classify_incoming(frame, &settings(), owner).expect("it arrives");
        (arrival.source, arrival.subscriber)
    };
    assert_eq!(judged(&ip(PEER, OURS, 50, ESP_BEEF)), (mapped(PEER), mapped(PEER)));
    let mut subscriber = PEER_V6;
    subscriber[8..].fill(0);
    let expected = (Ipv6 { octets: PEER_V6 }, Ipv6 { octets: subscriber });
    assert_eq!(judged(&ip6(OURS_V6, 50, 64, ESP_BEEF)), expected);
}

const SERVER_V6: [u8; 16] = [0xfd, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x11];
const OUR_LAN_V6: [u8; 16] = [0xfd, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const LINK_V6: [u8; 16] = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x11];
const ALL_NODES: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

/// Checks a frame from the LAN, where there is one server. Returns whether its sender is anonymous.
fn from_lan(frame: &[u8]) -> Result<bool, Reason> {
    let mut settings = settings();
    settings.lan.v6_count = 1;
    settings.lan.v6[0] = Ipv6 { octets: OUR_LAN_V6 };
    let mut anonymous = false;
    let v4 = |address| address == Ipv4 { octets: SERVER };
    let v6 = |address| address == Ipv6 { octets: SERVER_V6 };
    check_neighbour_on_lan(frame, &settings, v4, v6, &mut anonymous).map(|()| anonymous)
}

/// The frame is of a server's.
const NAMED: Result<bool, Reason> = Ok(false);
/// The frame is of a host without an address of its own.
const ANONYMOUS: Result<bool, Reason> = Ok(true);

/// Returns an ARP request from the MAC address 02:02:02:02:02:02.
fn arp(sender: [u8; 4]) -> Vec<u8> {
    let head = [&[4; 6][..], &[2; 6], &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &[2; 6]].concat();
    [&head[..], &sender, &[0; 6], &OUR_LAN].concat()
}

#[test]
fn arp_on_the_lan_comes_from_a_server_or_from_no_address() {
    assert_eq!(from_lan(&arp(SERVER)), NAMED);
    assert_eq!(from_lan(&arp([0; 4])), ANONYMOUS, "a probe (RFC 5227)");
    for other in [PEER, OUR_LAN, [10, 200, 0, 12]] {
        assert_eq!(from_lan(&arp(other)), Err(SourceNotServer));
    }
    for at in 14..20 {
        let odd = arp(SERVER)[at] ^ 2;
        assert_eq!(from_lan(&with(arp(SERVER), &[(at, odd)])), Err(InnerMalformed), "byte {at}");
    }
    assert_eq!(from_lan(&arp(SERVER)[..32]), NAMED);
    assert_eq!(from_lan(&arp(SERVER)[..31]), Err(InnerMalformed));
}

/// The kernel believes the message, and the budget is that of the frame's source.
#[test]
fn arp_names_the_mac_address_it_comes_from() {
    for sender in [SERVER, [0; 4]] {
        for at in (6..12).chain(22..28) {
            assert_eq!(from_lan(&with(arp(sender), &[(at, 3)])), Err(NeighbourContradictsFrame), "byte {at}");
        }
    }
    // Both changed alike, and the address it asks for.
    let moved: Vec<(usize, u8)> = (6..12).chain(22..28).chain(32..38).map(|at| (at, 6)).collect();
    assert_eq!(from_lan(&with(arp(SERVER), &moved)), NAMED);
}

/// Returns neighbour discovery of a kind from the MAC address 02:02:02:02:02:02, about a target.
fn discovery(from: [u8; 16], to: [u8; 16], kind: u8, target: &[u8], options: &[u8]) -> Vec<u8> {
    ip6_between(from, to, 58, 255, &[&[kind, 0, 0, 0, 0, 0, 0, 0], target, options].concat())
}

#[test]
fn neighbour_discovery_names_the_mac_address_it_comes_from() {
    const OPTIONS: usize = 14 + 40 + 24;
    for (kind, option) in [(135, 1), (136, 2)] {
        let message = |options: &[u8]| discovery(SERVER_V6, OUR_LAN_V6, kind, &SERVER_V6, options);
        let named = message(&[option, 1, 2, 2, 2, 2, 2, 2]);
        assert_eq!(from_lan(&named), NAMED);
        for at in (6..12).chain(OPTIONS + 2..OPTIONS + 8) {
            assert_eq!(
                from_lan(&with(named.clone(), &[(at, 3)])),
                Err(NeighbourContradictsFrame),
                "byte {at}"
            );
        }
        // An address of the other kind, too, and behind other options: a nonce (RFC 3971), an unknown one.
        for options in [&[3 - option, 1, 3, 3, 3, 3, 3, 3][..], &[14, 1, 3, 3, 3, 3, 3, 3], &[99, 2, 3, 3]] {
            let behind = |mac: u8| {
                let mut options = options.to_vec();
                options.resize(8 * usize::from(options[1]), 3);
                options.extend([option, 1, mac, mac, mac, mac, mac, mac]);
                from_lan(&message(&options))
            };
            let expected = if options[0] < 3 { Err(NeighbourContradictsFrame) } else { NAMED };
            assert_eq!(behind(2), expected, "{options:?}");
            assert_eq!(behind(3), Err(NeighbourContradictsFrame), "{options:?}");
        }
    }
}

/// RFC 4861 sections 4.6, 7.1.1 and 7.1.2.
#[test]
fn options_of_neighbour_discovery_fill_the_message() {
    let options = |options: &[u8]| from_lan(&discovery(SERVER_V6, OUR_LAN_V6, 135, &OUR_LAN_V6, options));
    let nonce = [14, 1, 9, 9, 9, 9, 9, 9];
    assert_eq!([options(&[]), options(&nonce), options(&nonce.repeat(4))], [NAMED; 3]);
    assert_eq!(options(&nonce.repeat(5)), Err(InnerMalformed), "more than any host sends");
    assert_eq!(options(&[14, 0, 9, 9, 9, 9, 9, 9]), Err(InnerMalformed), "no length");
    assert_eq!(options(&[14, 2, 9, 9, 9, 9, 9, 9]), Err(InnerMalformed), "longer than the message");
    for length in 1..8 {
        assert_eq!(options(&nonce[..length]), Err(InnerMalformed), "{length} bytes of an option");
    }
    let cut = discovery(SERVER_V6, OUR_LAN_V6, 135, &OUR_LAN_V6[..15], &[]);
    assert_eq!(from_lan(&cut), Err(InnerMalformed), "without a target");
}

#[test]
fn neighbour_discovery_on_the_lan_comes_from_a_server_or_the_link() {
    let message = |from, to, kind: u8, target: &[u8]| {
        ip6_between(from, to, 58, 255, &[&[kind, 0, 0, 0, 0, 0, 0, 0], target].concat())
    };
    let solicit = |from, to| from_lan(&message(from, to, 135, &OUR_LAN_V6));
    let advertise = |from, target| from_lan(&message(from, OUR_LAN_V6, 136, target));
    assert_eq!(solicit(SERVER_V6, OUR_LAN_V6), NAMED);
    assert_eq!(solicit(SERVER_V6, ALL_NODES), NAMED);
    assert_eq!(solicit(LINK_V6, OUR_LAN_V6), ANONYMOUS);
    assert_eq!(solicit([0; 16], ALL_NODES), ANONYMOUS, "duplicate address detection");
    assert_eq!(solicit(PEER_V6, OUR_LAN_V6), Err(SourceNotServer));
    assert_eq!(solicit(OUR_LAN_V6, OUR_LAN_V6), Err(SourceNotServer));
    // fe80::/10 (RFC 4291 section 2.5.6).
    for (high, low, passes) in
        [(0xfe, 0xbf, true), (0xfe, 0xc0, false), (0xfe, 0x7f, false), (0xff, 0x80, false)]
    {
        let mut from = LINK_V6;
        (from[0], from[1]) = (high, low);
        assert_eq!(solicit(from, OUR_LAN_V6).is_ok(), passes, "{high:x}{low:x}::");
    }
    for to in [OURS_V6, SERVER_V6, PEER_V6, LINK_V6] {
        assert_eq!(solicit(SERVER_V6, to), Err(ProtocolNotAllowed), "{to:x?}");
    }
    assert_eq!(advertise(SERVER_V6, &SERVER_V6), NAMED);
    assert_eq!(advertise(LINK_V6, &SERVER_V6), ANONYMOUS);
    assert_eq!(advertise(LINK_V6, &LINK_V6), ANONYMOUS);
    assert_eq!(advertise([0; 16], &SERVER_V6), Err(SourceNotServer), "from no address");
    assert_eq!(advertise(SERVER_V6, &OUR_LAN_V6), Err(SourceNotServer), "the gateway's own address");
    assert_eq!(advertise(SERVER_V6, &PEER_V6), Err(SourceNotServer));
    assert_eq!(advertise(PEER_V6, &SERVER_V6), Err(SourceNotServer));
    assert_eq!(advertise(SERVER_V6, &SERVER_V6[..15]), Err(InnerMalformed));
}

#[test]
fn listener_messages_on_the_lan_come_from_a_server_or_the_link() {
    let report = |from| {
        let options_and_report = [&[58, 0, 5, 2, 0, 0, 1, 0, 143][..], &[0; 15]].concat();
        let mut frame = ip6_between(from, ALL_NODES, 0, 1, &options_and_report);
        frame[20] = 0;
        from_lan(&frame)
    };
    assert_eq!((report(SERVER_V6), report(LINK_V6), report([0; 16])), (NAMED, ANONYMOUS, ANONYMOUS));
    assert_eq!(report(PEER_V6), Err(SourceNotServer));
}

/// IEEE 802.1Q section 9.6: priority (3 bits), drop eligible (1 bit), VLAN id (12 bits); id 0 is no VLAN.
#[test]
fn tag_without_a_vlan_counts_as_none() {
    let tagged = |tag: u16, ethertype: u16| {
        [&[4; 6][..], &[2; 6], &[0x81, 0], &tag.to_be_bytes(), &ethertype.to_be_bytes()].concat()
    };
    for ethertype in [0x0800, 0x86dd, 0x0806] {
        for tag in [0, 0x1000, 0x2000, 0xe000, 0xf000] {
            assert!(has_priority_tag(&tagged(tag, ethertype)[..]), "{tag:x} {ethertype:x}");
        }
        for bit in 0..12 {
            assert!(!has_priority_tag(&tagged(0xe000 | 1 << bit, ethertype)[..]), "VLAN {}", 1 << bit);
        }
    }
    for ethertype in [0x8100, 0x88a8, 0x88cc, 0] {
        assert!(!has_priority_tag(&tagged(0, ethertype)[..]), "{ethertype:x}");
    }
    assert!(!has_priority_tag(&tagged(0, 0x0800)[..17]), "cut short");
    assert!(!has_priority_tag(&with(tagged(0, 0x0800), &[(12, 8), (13, 0)])[..]), "IPv4");
    assert!(!has_priority_tag(&with(tagged(0, 0x0800), &[(12, 0x88), (13, 0xa8)])[..]), "a service tag");
    assert_eq!(arrives(&tagged(7, 0x0800)), Err(OuterNotIp));
}

/// linux/if_packet.h: host, broadcast, multicast, other host, outgoing.
#[test]
fn frames_for_another_host_or_vlan_are_foreign() {
    for packet_type in 0..5 {
        assert_eq!(is_foreign(packet_type, 0), packet_type == 3, "packet type {packet_type}");
        assert_eq!(is_foreign(packet_type, 0xf000), packet_type == 3, "packet type {packet_type}, priority");
        for bit in 0..12 {
            assert!(is_foreign(packet_type, 1 << bit), "VLAN {}", 1 << bit);
        }
    }
}
