//! ARP and neighbour discovery, on the internet and on the LAN.
use gateway_common::{
    outer::{Outer, check_neighbour_on_lan, is_neighbour_on_lan},
    reason::Reason::{self, *},
    wire::{Ipv4, Ipv6},
};

use crate::frames::*;

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
