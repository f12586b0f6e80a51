//! One packet of each kind, from the manager to the gateway.
use gateway_common::{
    outer::{Outer, classify_incoming},
    reason::Reason,
};

use crate::{
    frame::{ESP, FRAGMENT, ICMPV6, fragment, packet, tcp, too_big, udp},
    settings::{INTERNET, MANAGER, SPI, nobody_owns, owner_of, settings},
};

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

/// RFC 4942 section 2.2: such a source would pass for the manager, and for an IPv4 peer.
#[test]
fn ipv4_mapped_source_is_malformed() {
    for (protocol, payload) in [(6, tcp(9, 22, 2)), (17, udp(500, 500, &[1; 28])), (ESP, vec![1; 8])] {
        let mapped = packet("::ffff:198.51.100.7", INTERNET[1], protocol, 64, &payload);
        assert_eq!(classify_incoming(&mapped[..], &settings(), nobody_owns), Err(Reason::OuterMalformed));
    }
}
