//! Neighbour discovery: its types, hop limit and groups.
use gateway_common::{
    outer::{Outer, classify_incoming, classify_outgoing, classify_to_lan, is_neighbour_on_lan},
    reason::Reason,
};

use crate::{
    frame::{ESP, FRAGMENT, ICMPV6, fragment, packet, udp},
    settings::{LAN, LINK, MANAGER, SPI, STRANGER, nobody_owns, owner_of, settings},
};

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
