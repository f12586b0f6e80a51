//! Path-MTU messages: they pass only for an existing connection, and change nothing.
use std::net::IpAddr;

use etherparse::IpNumber;
use gateway_common::{
    decide::Decision,
    reason::Reason::{self, *},
};

use crate::{
    frames::*,
    world::{World, from_server, from_site, ip, server, transport},
};

/// Bytes of the quoted packet's transport header.
const QUOTED: usize = 4;

fn too_big(v6: bool) -> [u8; 2] {
    if v6 { [2, 0] } else { [3, 4] }
}

/// Returns a message of this type and code that quotes these bytes.
fn message(from: IpAddr, to: IpAddr, head: [u8; 2], quote: &[u8]) -> Vec<u8> {
    let protocol = if from.is_ipv6() { IpNumber::IPV6_ICMP } else { IpNumber::ICMP };
    let mut frame = Vec::new();
    let body = [&head, &[0; 6][..], quote].concat();
    ip(from, to, 64).write(&mut frame, protocol, &body).expect("writing to a vector");
    frame
}

/// Returns a packet between these ends, cut off behind its ports.
fn quote(from: (IpAddr, u16), to: (IpAddr, u16)) -> Vec<u8> {
    let mut frame = segment(from, to, tcp(0x10, 1, 1));
    frame.truncate(transport(from.0) + QUOTED);
    frame.split_off(IP)
}

/// Returns the server's quoted packet to the device.
fn answer_quote(v6: bool) -> Vec<u8> {
    quote((server(1, v6), PORTS.1), (device(v6), PORTS.0))
}

/// Returns the device's quoted packet to the server.
fn request_quote(v6: bool) -> Vec<u8> {
    quote((device(v6), PORTS.0), (server(1, v6), PORTS.1))
}

/// Returns a router of the site: any address of its LAN.
fn router(v6: bool) -> IpAddr {
    address(if v6 { "fd00:192:168::1" } else { "192.168.0.1" })
}

/// Decides on a message from the site with this quote.
fn from_router(world: &World, v6: bool, quote: &[u8]) -> Decision {
    let before = world.flows.borrow().clone();
    let decision = from_device(world, &message(router(v6), server(1, v6), too_big(v6), quote));
    assert_eq!(*world.flows.borrow(), before);
    assert!(!decision.opened && decision.syn().is_none());
    decision
}

/// Decides on a message from the server with this quote.
fn from_servers(world: &World, v6: bool, quote: &[u8]) -> Decision {
    let before = world.flows.borrow().clone();
    let decision = from_lan(world, &message(server(1, v6), device(v6), too_big(v6), quote));
    assert_eq!(*world.flows.borrow(), before);
    assert!(!decision.opened && decision.syn().is_none());
    decision
}

#[test]
fn message_about_a_connection_passes_both_ways_and_changes_nothing() {
    for v6 in FAMILIES {
        for world in [opened(v6), established(v6)] {
            let up = from_router(&world, v6, &answer_quote(v6));
            assert_eq!((up.verdict, up.tunnel), (Ok(()), 1), "{up:?}");
            let down = from_servers(&world, v6, &request_quote(v6));
            assert_eq!((down.verdict, down.tunnel), (Ok(()), 1), "{down:?}");
            let header = if v6 { 40 } else { 20 };
            for decision in [up, down] {
                assert_eq!((decision.customer, decision.tunnel, decision.v6), (1, 1, v6));
                assert_eq!((decision.header_bytes, decision.bytes), (header, u32::from(header) * 2 + 12));
            }
        }
    }
}

#[test]
fn message_of_the_site_quotes_its_servers_packet_to_a_device_with_a_connection() {
    for v6 in FAMILIES {
        let world = opened(v6);
        let refused = |quote: Vec<u8>| reason(from_router(&world, v6, &quote));
        let (server_at, device_at) = ((server(1, v6), PORTS.1), (device(v6), PORTS.0));
        assert_eq!(refused(quote(server_at, device_at)), None);
        for (from, to) in [
            ((server(2, v6), PORTS.1), device_at),
            ((server_at.0, PORTS.1 + 1), device_at),
            (server_at, (router(v6), PORTS.0)),
            (server_at, (device_at.0, PORTS.0 + 1)),
            (device_at, server_at),
        ] {
            assert_eq!(refused(quote(from, to)), Some(NoConnection), "{from:?} {to:?}");
        }
        assert_eq!(reason(from_router(&World::new(), v6, &answer_quote(v6))), Some(NoConnection));
    }
}

#[test]
fn message_of_the_site_is_about_a_live_connection_of_its_own_tunnel() {
    for v6 in FAMILIES {
        let mut world = opened(v6);
        let frame = message(router(v6), server(1, v6), too_big(v6), &answer_quote(v6));
        let end = world.flows.borrow().values().next().expect("the flow").expires.as_ns();
        let at = |now_ns| reason(from_site(&frame[..], &world, tunnel(1), now_ns));
        assert_eq!((at(end - 1), at(end)), (None, Some(NoConnection)));
        // The same site in another tunnel of the customer.
        world.tunnels[2] = world.tunnels[1];
        assert_eq!(reason(from_site(&frame[..], &world, tunnel(2), NOW_NS)), Some(NoConnection));
        world.tunnels[1].generation += 1;
        assert_eq!(reason(from_device(&world, &frame)), Some(NoConnection));
        world.tunnels[1].generation -= 1;
        world.flows.borrow_mut().values_mut().for_each(|flow| flow.end());
        assert_eq!(reason(from_device(&world, &frame)), Some(NoConnection));
    }
}

#[test]
fn message_of_the_server_quotes_a_packet_of_the_device_it_goes_to() {
    for v6 in FAMILIES {
        let world = opened(v6);
        let refused = |quote: Vec<u8>| reason(from_servers(&world, v6, &quote));
        let (server_at, device_at) = ((server(1, v6), PORTS.1), (device(v6), PORTS.0));
        assert_eq!(refused(quote(device_at, server_at)), None);
        for (from, to, expected) in [
            ((router(v6), PORTS.0), server_at, ReplyWithoutConnection),
            ((device_at.0, PORTS.0 + 1), server_at, ReplyWithoutConnection),
            (device_at, (server(2, v6), PORTS.1), ReplyWithoutConnection),
            (device_at, (server_at.0, PORTS.1 + 1), ReplyWithoutConnection),
            (server_at, device_at, ReplyWithoutConnection),
        ] {
            assert_eq!(refused(quote(from, to)), Some(expected), "{from:?} {to:?}");
        }
        // To a device other than the quoted one, which has a connection too.
        let frame = message(server(1, v6), router(v6), too_big(v6), &request_quote(v6));
        let second = segment((router(v6), PORTS.0), server_at, tcp(0x02, 1000, 0));
        assert!(from_device(&world, &second).opened);
        assert_eq!(reason(from_lan(&world, &frame)), Some(ReplyWithoutConnection));
        assert_eq!(reason(from_servers(&World::new(), v6, &request_quote(v6))), Some(ReplyWithoutConnection));
    }
}

#[test]
fn message_of_the_server_is_about_a_live_connection() {
    for v6 in FAMILIES {
        let mut world = opened(v6);
        let frame = message(server(1, v6), device(v6), too_big(v6), &request_quote(v6));
        let end = world.flows.borrow().values().next().expect("the flow").expires.as_ns();
        let at = |now_ns| reason(from_server(&frame[..], &world, now_ns));
        assert_eq!((at(end - 1), at(end)), (None, Some(ReplyWithoutConnection)));
        world.tunnels[1].generation += 1;
        assert_eq!(reason(from_lan(&world, &frame)), Some(FlowNoLongerAllowed));
        world.tunnels[1].up = 0;
        assert_eq!(reason(from_lan(&world, &frame)), Some(TunnelDown));
    }
}

#[test]
fn message_is_bound_by_the_rules_for_every_packet() {
    for v6 in FAMILIES {
        let world = opened(v6);
        let site = |from, to| reason(from_device(&world, &message(from, to, too_big(v6), &answer_quote(v6))));
        let stranger = address(if v6 { "fd00:192:169::1" } else { "192.169.0.1" });
        assert_eq!(site(stranger, server(1, v6)), Some(InnerSourceNotInSite));
        assert_eq!(site(router(v6), server(2, v6)), Some(DestinationNotServer));
        let frame = message(stranger, device(v6), too_big(v6), &request_quote(v6));
        assert_eq!(reason(from_lan(&world, &frame)), Some(SourceNotServer));
    }
}

#[test]
fn no_other_icmp_passes() {
    for v6 in FAMILIES {
        let (world, other) = (established(v6), too_big(!v6));
        for head in
            [other, [8, 0], [128, 0], [0, 0], [3, 3], [3, 0], [2, 4], [2, 1], [11, 4], [5, 0], [137, 0]]
        {
            let up = message(router(v6), server(1, v6), head, &answer_quote(v6));
            let down = message(server(1, v6), device(v6), head, &request_quote(v6));
            let both = [reason(from_device(&world, &up)), reason(from_lan(&world, &down))];
            assert_eq!(both, [Some(ProtocolNotAllowed); 2], "{head:?}");
        }
    }
}

#[test]
fn quote_is_a_plain_tcp_packet_with_its_ports() {
    for (v6, header, protocol_at) in [(false, 20, 9), (true, 40, 6)] {
        let world = opened(v6);
        let both = |change: &dyn Fn(&mut Vec<u8>)| -> [Option<Reason>; 2] {
            let (mut up, mut down) = (answer_quote(v6), request_quote(v6));
            change(&mut up);
            change(&mut down);
            [reason(from_router(&world, v6, &up)), reason(from_servers(&world, v6, &down))]
        };
        assert_eq!(both(&|_| ()), [None; 2]);
        assert_eq!(both(&|quote| quote[protocol_at] = 17), [Some(ProtocolNotAllowed); 2]);
        let versions = if v6 { [0x00, 0x45, 0x70] } else { [0x00, 0x46, 0x65] };
        for version in versions {
            assert_eq!(both(&|quote| quote[0] = version), [Some(InnerMalformed); 2], "{version:#x}");
        }
        // The length may be any: it is the packet's length before it was cut.
        assert_eq!(both(&|quote| quote[2 + usize::from(v6) * 2] = 0xff), [None; 2]);
        for kept in 0..header + QUOTED {
            assert_eq!(both(&|quote| quote.truncate(kept)), [Some(InnerMalformed); 2], "{kept} bytes");
        }
    }
    let world = opened(false);
    for (fragment, expected) in [([0x40, 0], None), ([0x20, 0], None), ([0, 1], Some(InnerMalformed))] {
        let mut quote = answer_quote(false);
        quote[6..8].copy_from_slice(&fragment);
        assert_eq!(reason(from_router(&world, false, &quote)), expected, "{fragment:?}");
    }
}

/// Bytes behind the packet in its frame are padding.
#[test]
fn quoted_ports_do_not_lie_in_the_padding() {
    for v6 in FAMILIES {
        let world = opened(v6);
        let mut cut = answer_quote(v6);
        let ports = cut.split_off(cut.len() - QUOTED);
        let mut frame = message(router(v6), server(1, v6), too_big(v6), &cut);
        frame.extend(ports);
        assert_eq!(reason(from_device(&world, &frame)), Some(InnerMalformed));
    }
}
