//! The owner of a packet, and whether the policy allows it.
use std::net::IpAddr;

use gateway_common::{
    decide::{Identity, Syn},
    layout::{Addresses, Prefix, Tunnel},
    packet::Mss,
    reason::Reason::*,
    time::Ticks,
    wire::{Frame, Ipv4, Ipv6, Wire, Words},
};

use crate::{
    frames::*,
    world::{World, from_server, from_site, mark, server, spi, transport},
};

#[test]
fn reqid_mark_and_spi_name_one_tunnel_that_is_up() {
    for v6 in FAMILIES {
        let judge = |identity| reason(from_site(&syn(v6)[..], &World::new(), identity, NOW_NS));
        assert_eq!(judge(tunnel(1)), None);
        assert_eq!(judge(Identity { spi: 77, ..tunnel(1) }), None, "not known yet");
        assert_eq!(judge(Identity { mark: mark(2), ..tunnel(1) }), Some(MarkContradictsTunnel));
        assert_eq!(judge(Identity { mark: 0, ..tunnel(1) }), Some(MarkContradictsTunnel));
        assert_eq!(judge(Identity { spi: spi(2), ..tunnel(1) }), Some(SpiContradictsTunnel));
        assert_eq!(judge(tunnel(0)), Some(UnknownTunnel));
        assert_eq!(judge(tunnel(9)), Some(UnknownTunnel));
        let mut world = World::new();
        world.tunnels[1].up = 0;
        assert_eq!(reason(from_device(&world, &syn(v6))), Some(TunnelDown));
        world.tunnels[1].customer = 0;
        assert_eq!(reason(from_device(&world, &syn(v6))), Some(UnknownTunnel));
    }
}

#[test]
fn nothing_passes_before_the_settings_are_ready() {
    for v6 in FAMILIES {
        let mut world = opened(v6);
        world.settings.ready = 0;
        assert_eq!(reason(from_device(&world, &syn(v6))), Some(NotConfigured));
        assert_eq!(reason(from_lan(&world, &syn_ack(v6))), Some(NotConfigured));
    }
}

#[test]
fn hop_limit_is_at_least_2() {
    for v6 in FAMILIES {
        let at = IP + if v6 { 7 } else { 8 };
        for (hops, expected) in [(0, Some(TtlExpired)), (1, Some(TtlExpired)), (2, None)] {
            assert_eq!(refused(&with(syn(v6), at, hops)), expected, "{hops}");
            let answer = from_lan(&opened(v6), &with(syn_ack(v6), at, hops));
            assert_eq!(reason(answer), expected, "{hops}");
        }
    }
}

#[test]
fn addresses_and_port_are_those_of_the_policy() {
    let strangers = [["192.169.0.0", "10.20.0.9", "0.0.0.0"], ["fd00:192:169::", "fd00:10:20::9", "::"]];
    for v6 in FAMILIES {
        let to = |source, destination, port| {
            refused(&segment((source, PORTS.0), (destination, port), tcp(0x02, 1000, 0)))
        };
        assert_eq!(to(device(v6), server(1, v6), 80), None);
        for stranger in strangers[usize::from(v6)] {
            assert_eq!(to(address(stranger), server(1, v6), 80), Some(InnerSourceNotInSite));
        }
        assert_eq!(to(device(v6), server(2, v6), 80), Some(DestinationNotServer));
        assert_eq!(to(device(v6), server(1, v6), 81), Some(PortNotAllowed));
        assert_eq!(to(device(v6), server(1, v6), 79), Some(PortNotAllowed));
    }
}

/// All words of an address count.
#[test]
fn ipv6_addresses_are_compared_whole() {
    let to = |source, destination| {
        refused(&segment((source, PORTS.0), (destination, PORTS.1), tcp(0x02, 1000, 0)))
    };
    for (server, expected) in [
        ("fd00:200::b", None),
        ("fd01:200::b", Some(DestinationNotServer)),
        ("fd00:200:0:1::b", Some(DestinationNotServer)),
        ("fd00:200::1:0:b", Some(DestinationNotServer)),
        ("fd00:200::1:b", Some(DestinationNotServer)),
    ] {
        assert_eq!(to(device(true), address(server)), expected, "{server}");
    }
    let mut world = World::new();
    world.tunnels[1].v6.lan[0] = Prefix::new(Ipv6::from(device(true)), 128);
    for (source, expected) in [
        ("fd00:192:168::2", None),
        ("fd01:192:168::2", Some(InnerSourceNotInSite)),
        ("fd00:192:168:1::2", Some(InnerSourceNotInSite)),
        ("fd00:192:168::1:0:2", Some(InnerSourceNotInSite)),
        ("fd00:192:168::3", Some(InnerSourceNotInSite)),
    ] {
        let frame = segment((address(source), PORTS.0), (server(1, true), PORTS.1), tcp(0x02, 1000, 0));
        assert_eq!(reason(from_device(&world, &frame)), expected, "{source}");
    }
}

#[test]
fn prefix_masks_have_the_given_number_of_bits() {
    let v4 = |bits| Prefix::new(Ipv4 { octets: [255; 4] }, bits).mask.octets;
    assert_eq!([v4(0), v4(1), v4(31)], [[0; 4], [128, 0, 0, 0], [255, 255, 255, 254]]);
    assert_eq!([v4(32), v4(33), v4(255)], [[255; 4]; 3]);
    let v6 = |bits| u128::from_be_bytes(Prefix::new(Ipv6 { octets: [255; 16] }, bits).mask.octets);
    assert_eq!([v6(0), v6(1), v6(127)], [0, 1 << 127, u128::MAX - 1]);
    assert_eq!([v6(128), v6(129), v6(255)], [u128::MAX; 3]);
}

#[test]
fn bits_behind_an_ipv6_prefix_do_not_count() {
    let mut world = World::new();
    for bits in [0, 16, 31, 48, 63, 80, 95, 112, 127] {
        world.tunnels[1].v6.lan[0] = Prefix::new(Ipv6 { octets: [0xfd; 16] }, bits);
        let beside = u128::MAX.checked_shr(u32::from(bits)).unwrap_or(0);
        let inside = u128::from_be_bytes([0xfd; 16]) ^ beside;
        let source = IpAddr::from(inside.to_be_bytes());
        let frame = segment((source, PORTS.0), (server(1, true), PORTS.1), tcp(0x02, 1000, 0));
        assert_eq!(reason(from_device(&world, &frame)), None, "{source} in /{bits}");
    }
}

#[test]
fn prefixes_beyond_the_count_do_not_belong_to_the_site() {
    for v6 in FAMILIES {
        let stranger = address(if v6 { "fd00:172::1" } else { "172.16.0.1" });
        let frame = segment((stranger, PORTS.0), (server(1, v6), PORTS.1), tcp(0x02, 1000, 0));
        let mut world = World::new();
        world.tunnels[1].v4.lan[1] = Prefix::new(Ipv4 { octets: [172, 16, 0, 0] }, 12);
        world.tunnels[1].v6.lan[1] = Prefix::new(Ipv6::from(address("fd00:172::")), 32);
        (world.tunnels[1].v4.marks[1], world.tunnels[1].v6.marks[1]) = (mark(1), mark(1));
        assert_eq!(reason(from_device(&world, &frame)), Some(InnerSourceNotInSite));
        (world.tunnels[1].v4.prefix_count, world.tunnels[1].v6.prefix_count) = (2, 2);
        assert_eq!(reason(from_device(&world, &frame)), None);
        (world.tunnels[1].v4.prefix_count, world.tunnels[1].v6.prefix_count) = (0, 0);
        assert_eq!(reason(from_device(&world, &frame)), Some(InnerSourceNotInSite), "family not offered");
    }
}

#[test]
fn address_of_the_gateway_opens_nothing() {
    for v6 in FAMILIES {
        let own = |count: u32, side: fn(&mut World) -> &mut Addresses| {
            let mut world = World::new();
            let addresses = side(&mut world);
            match device(v6) {
                IpAddr::V4(device) => (addresses.v4[0], addresses.v4_count) = (device.into(), count),
                IpAddr::V6(device) => (addresses.v6[0], addresses.v6_count) = (device.into(), count),
            }
            reason(from_device(&world, &syn(v6)))
        };
        let sides: [fn(&mut World) -> &mut Addresses; 2] =
            [|world| &mut world.settings.internet, |world| &mut world.settings.lan];
        for side in sides {
            assert_eq!(own(0, side), None, "not counted");
            assert_eq!(own(1, side), Some(InnerSourceNotInSite));
        }
    }
}

#[test]
fn flow_belongs_to_its_tunnel_until_it_expires() {
    for v6 in FAMILIES {
        let mut world = opened(v6);
        // The same site in another tunnel of the customer.
        world.tunnels[2] = world.tunnels[1];
        let other = |now_ns| from_site(&syn(v6)[..], &world, tunnel(2), now_ns);
        assert_eq!(reason(other(NOW_NS)), Some(FlowOwnedByOtherTunnel));
        let end = world.flows.borrow().values().next().expect("the flow").expires.as_ns();
        assert_eq!(reason(other(end - 1)), Some(FlowOwnedByOtherTunnel));
        let late = from_server(&syn_ack(v6)[..], &world, end);
        assert_eq!(reason(late), Some(ReplyWithoutConnection));
        assert!(other(end).opened);
        assert_eq!(from_server(&syn_ack(v6)[..], &world, end).tunnel, 2);
    }
}

#[test]
fn flow_lives_in_its_own_generation_only() {
    for v6 in FAMILIES {
        let mut world = established(v6);
        world.tunnels[1].generation = 2;
        assert_eq!(reason(from_lan(&world, &answer(v6, tcp(0x10, 5001, 1001)))), Some(FlowNoLongerAllowed));
        assert_eq!(reason(from_device(&world, &ack(v6))), Some(NoConnection));
        assert!(from_device(&world, &syn(v6)).opened);
        assert_eq!(reason(from_lan(&world, &syn_ack(v6))), None);
        let flow = *world.flows.borrow().values().next().expect("the flow");
        assert_eq!((flow.generation, world.flows.borrow().len()), (2, 1));
    }
}

/// Removal marks a flow first; until the flow is gone, nothing passes and nothing takes its place.
#[test]
fn flow_that_is_being_removed_is_gone() {
    for v6 in FAMILIES {
        let mut world = established(v6);
        // A budget that shows any charge.
        world.tunnels[1].quota.new_flow_interval_ns = 1;
        world.flows.borrow_mut().values_mut().for_each(|flow| flow.end());
        assert_eq!(reason(from_device(&world, &ack(v6))), Some(NoConnection));
        let before = world.usage.borrow()[&1];
        assert_eq!(reason(from_device(&world, &syn(v6))), Some(FlowChanging));
        assert_eq!(world.usage.borrow()[&1], before, "a SYN that opens nothing is not charged");
        assert_eq!(reason(from_lan(&world, &syn_ack(v6))), Some(ReplyWithoutConnection));
    }
}

#[test]
fn tick_has_come_from_its_own_instant_on() {
    let at = Ticks { ticks: 7 };
    assert!(at.has_come(at) && !at.has_come(Ticks { ticks: 6 }) && at.has_come(Ticks { ticks: 8 }));
}

#[test]
fn server_answers_on_a_connection_that_policy_still_allows() {
    for v6 in FAMILIES {
        let answer = |world: &World| reason(from_lan(world, &syn_ack(v6)));
        assert_eq!(answer(&opened(v6)), None);
        assert_eq!(answer(&World::new()), Some(ReplyWithoutConnection));
        let changed = |change: fn(&mut Tunnel)| {
            let mut world = opened(v6);
            change(&mut world.tunnels[1]);
            answer(&world)
        };
        assert_eq!(changed(|tunnel| tunnel.up = 0), Some(TunnelDown));
        assert_eq!(changed(|tunnel| tunnel.customer = 2), Some(UnknownTunnel));
        assert_eq!(changed(|tunnel| tunnel.port = 81), Some(ReplyWithoutConnection));
        let moved = |tunnel: &mut Tunnel| {
            tunnel.v4.server.octets[3] += 1;
            tunnel.v6.server.octets[15] += 1;
        };
        assert_eq!(changed(moved), Some(FlowNoLongerAllowed));
        let renumbered = |tunnel: &mut Tunnel| {
            tunnel.v4.lan[0] = Prefix::new(Ipv4 { octets: [10, 9, 0, 0] }, 16);
            tunnel.v6.lan[0] = Prefix::new(Ipv6::from(address("fd00:9::")), 32);
        };
        assert_eq!(changed(renumbered), Some(FlowNoLongerAllowed));
        let mut world = opened(v6);
        world.customers.remove(&server(1, v6));
        assert_eq!(answer(&world), Some(SourceNotServer));
    }
}

/// A flow belongs to the customer of the answering server, even if another customer has a device with the
/// same address.
#[test]
fn another_customers_server_does_not_answer() {
    for v6 in FAMILIES {
        let frame = segment((server(2, v6), PORTS.1), (device(v6), PORTS.0), tcp(0x12, 5000, 1001));
        assert_eq!(reason(from_lan(&opened(v6), &frame)), Some(ReplyWithoutConnection));
    }
}

#[test]
fn server_opens_nothing() {
    for v6 in FAMILIES {
        let to = |flags| reason(from_lan(&World::new(), &answer(v6, tcp(flags, 5000, 0))));
        assert_eq!(to(0x02), Some(NewFromServer));
        assert_eq!(to(0x12), Some(ReplyWithoutConnection));
        assert_eq!(to(0x10), Some(ReplyWithoutConnection));
    }
}

#[test]
fn mss_of_a_handshake_is_lowered_and_never_raised() {
    for (v6, most) in [(false, 1356u16), (true, 1336)] {
        let lowered = |flags: u8, options: &[u8]| {
            let decision = match flags {
                0x02 => from_device(&World::new(), &request(v6, Tcp { options, ..tcp(flags, 1000, 0) })),
                _ => from_lan(&opened(v6), &answer(v6, Tcp { options, ..tcp(flags, 5000, 1001) })),
            };
            assert_eq!(reason(decision), None);
            decision.syn()
        };
        let option = |bytes: u16| [2, 4, (bytes >> 8) as u8, bytes as u8];
        let transport = transport(device(v6)) as u8;
        let over = Syn { mss: most, offered: Mss { at: 2, bytes: most + 1 }, transport };
        assert_eq!(lowered(0x02, &option(most + 1)), Some(over));
        assert_eq!(lowered(0x12, &option(most + 1)), Some(over));
        assert_eq!(lowered(0x02, &option(most)), None);
        assert_eq!(lowered(0x02, &option(536)), None);
        assert_eq!(lowered(0x02, &[1, 1, 1, 2]), None);

        // The same option in an ACK.
        let world = opened(v6);
        assert_eq!(reason(from_lan(&world, &syn_ack(v6))), None);
        let ack = request(v6, Tcp { options: &option(1460), ..tcp(0x10, 1001, 5001) });
        let decision = from_device(&world, &ack);
        assert_eq!((reason(decision), decision.syn()), (None, None));
    }
}

#[test]
fn passing_packet_is_described_for_its_counters() {
    for (v6, headers, bytes) in [(false, 40, 40), (true, 60, 60)] {
        let world = World::new();
        let decision = from_device(&world, &syn(v6));
        assert_eq!((decision.v6, decision.header_bytes, decision.bytes), (v6, headers, bytes));
        assert_eq!((decision.customer, decision.tunnel, decision.opened), (1, 1, true));
        let options = &[2, 4, 2, 0];
        let decision = from_lan(&world, &answer(v6, Tcp { options, ..tcp(0x12, 5000, 1001) }));
        assert_eq!((decision.v6, decision.header_bytes, decision.bytes), (v6, headers + 4, bytes + 4));
        assert_eq!((decision.verdict, decision.tunnel), (Ok(()), 1));
        assert!(!decision.opened);
    }
}

/// A packet merged by GRO from segments with this much payload.
struct Merged {
    frame: Vec<u8>,
    segment_bytes: u32,
}

impl Frame for Merged {
    fn read<T: Wire>(&self, offset: usize) -> Option<T> {
        self.frame[..].read(offset)
    }

    fn words<const N: usize>(&self, offset: usize) -> Option<impl Words> {
        self.frame[..].words::<N>(offset)
    }

    fn length(&self) -> usize {
        self.frame.len()
    }

    fn segment_bytes(&self) -> u32 {
        self.segment_bytes
    }
}

#[test]
fn packet_for_the_lan_fits_its_mtu() {
    for (v6, bytes) in [(false, 40), (true, 60)] {
        let mut world = World::new();
        for (mtu, expected) in [(bytes - 1, Some(TooBigForLan)), (bytes, None), (bytes + 1, None)] {
            world.settings.lan_mtu = mtu;
            assert_eq!(reason(from_device(&world, &syn(v6))), expected, "MTU {mtu}");
        }
        // Sent in segments, each with both headers.
        world.settings.lan_mtu = bytes + 100;
        let whole = [syn(v6), vec![0; 1000]].concat();
        let [high, low] = (bytes as u16 - if v6 { 40 } else { 0 } + 1000).to_be_bytes();
        let length_at = IP + if v6 { 4 } else { 2 };
        let frame = with(with(whole, length_at, high), length_at + 1, low);
        for (segment_bytes, expected) in [(0, Some(TooBigForLan)), (100, None), (101, Some(TooBigForLan))] {
            let merged = Merged { frame: frame.clone(), segment_bytes };
            let decision = from_site(&merged, &world.clone(), tunnel(1), NOW_NS);
            assert_eq!(reason(decision), expected, "segments of {segment_bytes}");
        }
    }
}
