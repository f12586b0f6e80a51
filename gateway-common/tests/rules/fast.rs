//! The next segment of a connection, which takes the fast path, and segments that differ from it in one
//! detail. `world` checks that the fast and the full path have the same result.
use gateway_common::{
    decide::{FamilyTables, from_server_fast, from_site_fast},
    family::Family,
    layout::{LayoutFamily, Tunnel},
    packet::FastFamily,
    reason::Reason::*,
    wire::{Ipv4, Ipv6},
};

use crate::{
    frames::*,
    world::{World, from_server, from_site, mark, reqid, server},
};

/// Two bytes of padding and a timestamp.
const TIMESTAMP: [u8; 12] = [1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8];

/// Returns a world with an assured connection, whose next segment may come from either end.
fn world(v6: bool) -> World {
    let world = established(v6);
    assert_eq!(reason(from_lan(&world, &answer(v6, tcp(0x10, 5001, 1001)))), None);
    world
}

/// Returns the device's next segment, plain and with a timestamp.
fn next(v6: bool) -> [Vec<u8>; 2] {
    let plain = tcp(0x10, 1001, 5001);
    [plain, Tcp { options: &TIMESTAMP, ..plain }].map(|tcp| request(v6, tcp))
}

/// Returns the server's next segment after that, plain and with a timestamp.
fn reply(v6: bool) -> [Vec<u8>; 2] {
    let plain = tcp(0x10, 5001, 1001);
    [plain, Tcp { options: &TIMESTAMP, ..plain }].map(|tcp| answer(v6, tcp))
}

/// Returns such a world in which the server's next segment follows.
fn answerable(v6: bool) -> World {
    let world = world(v6);
    assert_eq!(reason(from_device(&world, &next(v6)[0])), None);
    world
}

/// Returns frames with one byte changed from the EtherType on, with a correct and with the old IPv4 checksum,
/// and frames cut to each length.
fn mutated(frame: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    const ETHERTYPE: usize = 12;
    let bytes = (ETHERTYPE..frame.len()).flat_map(move |at| {
        let old = frame[at];
        let values = [
            0,
            1,
            2,
            6,
            0x10,
            0x45,
            0x46,
            0x50,
            0x60,
            0x80,
            0xff,
            old ^ 1,
            old ^ 0x80,
            old.wrapping_add(1),
            old.wrapping_sub(1),
        ];
        values.into_iter().flat_map(move |value| {
            let mut raw = frame.to_vec();
            raw[at] = value;
            [with(frame.to_vec(), at, value), raw]
        })
    });
    bytes.chain((ETHERTYPE..frame.len()).map(move |end| frame[..end].to_vec()))
}

#[test]
fn fast_and_full_path_agree_on_every_changed_byte() {
    for v6 in FAMILIES {
        let (up, down) = (world(v6), answerable(v6));
        let elsewhere = segment((device(v6), PORTS.0), (server(1, v6), PORTS.1 + 1), tcp(0x02, 1, 0));
        for frame in next(v6).iter().chain([&elsewhere]).flat_map(|frame| mutated(frame)) {
            from_device(&up.clone(), &frame);
        }
        for frame in reply(v6).iter().flat_map(|frame| mutated(frame)) {
            from_lan(&down.clone(), &frame);
        }
    }
}

#[test]
fn fast_path_ignores_frames_of_the_other_family() {
    const ETHERTYPE: usize = 12;
    for v6 in FAMILIES {
        let (decided, other): (fn(&_, &_) -> [bool; 2], u16) = match v6 {
            false => (decided_fast::<Ipv4>, Ipv6::ETHERTYPE),
            true => (decided_fast::<Ipv6>, Ipv4::ETHERTYPE),
        };
        for (side, [mut frame, _]) in [next(v6), reply(v6)].into_iter().enumerate() {
            let world = [world, answerable][side];
            assert!(decided(&world(v6), &frame)[side]);
            frame[ETHERTYPE..ETHERTYPE + 2].copy_from_slice(&other.to_be_bytes());
            assert!(!decided(&world(v6), &frame)[side]);
        }
    }
}

/// Whoever runs the full path cuts padding off. The stack does so for what servers send.
#[test]
fn padded_packet_of_a_site_takes_the_full_path() {
    for v6 in FAMILIES {
        let decided: fn(&World, &[u8]) -> [bool; 2] = match v6 {
            false => decided_fast::<Ipv4>,
            true => decided_fast::<Ipv6>,
        };
        let to = (server(1, v6), PORTS.1 + 1);
        let other_port = segment((device(v6), PORTS.0), to, tcp(0x10, 1001, 5001));
        for (padding, expected) in [(0, true), (1, false), (6, false), (1000, false)] {
            let padded = |mut frame: Vec<u8>| {
                frame.resize(frame.len() + padding, 0);
                frame
            };
            let [plain, _] = next(v6);
            assert_eq!(decided(&world(v6), &padded(plain))[0], expected, "{padding} bytes");
            assert_eq!(decided(&world(v6), &padded(other_port.clone()))[0], expected, "{padding} bytes");
            let [plain, _] = reply(v6);
            assert!(decided(&answerable(v6), &padded(plain))[1], "{padding} bytes");
        }
    }
}

/// Returns whether the fast path decides a frame as a site's, and as a server's.
fn decided_fast<A: LayoutFamily + FastFamily>(world: &World, frame: &[u8]) -> [bool; 2]
where
    World: FamilyTables<A>,
{
    let settings = &world.settings;
    let up = from_site_fast::<A, _, _>(frame, world, settings, tunnel(1), NOW_NS);
    let down = from_server_fast::<A, _, _>(frame, world, settings, NOW_NS);
    [up.is_some(), down.is_some()]
}

#[test]
fn next_segment_from_another_tunnel_is_dropped() {
    for v6 in FAMILIES {
        let mut world = world(v6);
        world.tunnels[2] = world.tunnels[1];
        let frame = &next(v6)[0][..];
        assert_eq!(reason(from_site(frame, &world, tunnel(2), NOW_NS)), Some(FlowOwnedByOtherTunnel));
        assert_eq!(reason(from_site(frame, &world, tunnel(1), NOW_NS)), None);
    }
}

#[test]
fn next_segment_after_a_change_or_the_end_is_dropped() {
    for v6 in FAMILIES {
        let frame = &next(v6)[0][..];
        let changed = |change: fn(&mut Tunnel)| {
            let mut world = world(v6);
            change(&mut world.tunnels[1]);
            reason(from_device(&world, frame))
        };
        assert_eq!(changed(|tunnel| tunnel.generation = 2), Some(NoConnection));
        assert_eq!(changed(|tunnel| tunnel.up = 0), Some(TunnelDown));
        assert_eq!(changed(|tunnel| tunnel.port = 81), Some(PortNotAllowed));
        let world = world(v6);
        let end = world.flows.borrow().values().next().expect("the flow").expires.as_ns();
        assert_eq!(reason(from_site(frame, &world, tunnel(1), end)), Some(NoConnection));
        assert_eq!(reason(from_server(&reply(v6)[0][..], &world, end)), Some(ReplyWithoutConnection));
    }
}

#[test]
fn next_segment_to_another_port_is_not_allowed() {
    for v6 in FAMILIES {
        let to_port = |port, flags| {
            let to = (server(1, v6), port);
            reason(from_device(&world(v6), &segment((device(v6), PORTS.0), to, tcp(flags, 1001, 5001))))
        };
        assert_eq!([to_port(PORTS.1, 0x10), to_port(PORTS.1 + 1, 0x10)], [None, Some(PortNotAllowed)]);
        assert_eq!(
            [to_port(PORTS.1 + 1, 0x02), to_port(PORTS.1 + 1, 0x03)],
            [Some(PortNotAllowed), Some(TcpFlagsInvalid)]
        );
    }
}

#[test]
fn spis_in_the_binding_need_no_lookup() {
    for v6 in FAMILIES {
        let mut world = world(v6);
        let spi = tunnel(1).spi;
        world.inbound_spis.clear();
        world.inbound_spis.insert(spi, mark(2));
        assert_eq!(reason(from_device(&world, &next(v6)[0])), Some(SpiContradictsTunnel));
        for spis in [[spi, 0], [0, spi]] {
            let mut world = world.clone();
            world.bindings.get_mut(&reqid(1)).unwrap().inbound_spis = spis;
            assert_eq!(reason(from_device(&world, &next(v6)[0])), None);
        }
    }
}
