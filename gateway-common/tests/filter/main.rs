//! The outer filter of the internet side, rule by rule: one packet of each kind that passes, and variants
//! that differ in one detail.
mod fragment;
mod frames;
mod neighbour;
mod path_mtu;

use fragment::{LATER, MORE};
use frames::*;
use gateway_common::{
    outer::{Outer, classify_incoming},
    reason::Reason::*,
    wire::{Ipv6, has_priority_tag, is_foreign},
};

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
