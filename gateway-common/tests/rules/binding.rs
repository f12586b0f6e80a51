//! Reqids that charon recycles, and sites with several tunnels.
use std::net::IpAddr;

use gateway_common::{
    decide::{Decision, Identity},
    layout::{Binding, Prefix, Tunnel},
    reason::Reason::*,
    wire::{Ipv4, Ipv6},
};

use crate::{
    frames::*,
    world::{World, binding, from_server, from_site, identity, mark, reqid, server, spi},
};

/// The mark of a CHILD_SA that charon makes after all others.
const NEWEST: u32 = 1009;

/// Returns a world in which charon has given the reqid of site 1 to a new CHILD_SA of site 3.
fn recycled(inbound_spis: [u32; 2]) -> World {
    let mut world = World::new();
    world.bindings.insert(reqid(1), Binding { site: 3, mark: NEWEST, inbound_spis });
    world
}

/// Returns the SYN of the device that sites 1 and 3 both have, to a customer's server.
fn syn_to(customer: u32, v6: bool) -> Vec<u8> {
    segment((device(v6), PORTS.0), (server(customer, v6), PORTS.1), tcp(0x02, 1000, 0))
}

fn judge(world: &World, frame: &[u8], identity: Identity) -> Decision {
    from_site(frame, world, identity, NOW_NS)
}

/// The binding is late: it still names the site that had the reqid before.
#[test]
fn new_owner_of_a_reqid_is_nobody_until_it_is_bound() {
    for v6 in FAMILIES {
        let new = Identity { spi: 0xc0de_9999, mark: NEWEST, ..identity(1) };
        for customer in [1, 2] {
            let decision = judge(&World::new(), &syn_to(customer, v6), new);
            assert_eq!((reason(decision), decision.customer), (Some(MarkContradictsTunnel), 0));
        }
        let decision = judge(&recycled([0; 2]), &syn_to(2, v6), new);
        assert_eq!((decision.verdict, decision.customer, decision.tunnel), (Ok(()), 2, 3));
        assert_eq!(reason(judge(&recycled([0; 2]), &syn_to(1, v6), new)), Some(DestinationNotServer));
    }
}

/// The packet is late, or the kernel still has the SA: charon gave the reqid to another site meanwhile.
#[test]
fn former_owner_of_a_reqid_is_not_taken_for_the_new_one() {
    for v6 in FAMILIES {
        for customer in [1, 2] {
            for spis in [[0; 2], [spi(1), 0]] {
                let decision = judge(&recycled(spis), &syn_to(customer, v6), identity(1));
                assert_eq!((reason(decision), decision.customer), (Some(MarkContradictsTunnel), 0));
            }
        }
    }
}

/// A former charon's SA is still in the kernel, and the new one has given its reqid to another site.
#[test]
fn mark_of_a_former_charon_does_not_count_with_a_new_reqid() {
    for v6 in FAMILIES {
        for site in [2, 3] {
            let former = Identity { reqid: reqid(site), ..identity(1) };
            for customer in [1, 2] {
                assert_eq!(
                    reason(judge(&World::new(), &syn_to(customer, v6), former)),
                    Some(MarkContradictsTunnel)
                );
            }
        }
    }
}

/// The three numbers of a tunnel differ; none of them stands for another.
#[test]
fn reqid_mark_and_site_are_not_mixed_up() {
    for v6 in FAMILIES {
        let number = |reqid, mark| reason(judge(&World::new(), &syn(v6), Identity { reqid, spi: 77, mark }));
        assert_eq!(number(reqid(1), mark(1)), None);
        assert_eq!(number(1, mark(1)), Some(UnknownTunnel));
        assert_eq!(number(mark(1), mark(1)), Some(UnknownTunnel));
        assert_eq!(number(reqid(1), 1), Some(MarkContradictsTunnel));
        assert_eq!(number(reqid(1), reqid(1)), Some(MarkContradictsTunnel));
        for owner in [1, reqid(1)] {
            let mut world = World::new();
            world.inbound_spis.insert(spi(1), owner);
            assert_eq!(reason(judge(&world, &syn(v6), identity(1))), Some(SpiContradictsTunnel));
        }
    }
}

#[test]
fn reqid_that_is_bound_to_no_site_is_unknown() {
    for v6 in FAMILIES {
        let mut world = World::new();
        for unbound in
            [Binding::default(), Binding { site: 0, ..binding(1) }, Binding { site: 9, ..binding(1) }]
        {
            world.bindings.insert(reqid(1), unbound);
            let unmarked = Identity { mark: unbound.mark, ..identity(1) };
            assert_eq!(reason(judge(&world, &syn(v6), unmarked)), Some(UnknownTunnel), "{unbound:?}");
        }
    }
}

/// Gives site 1 a second LAN, and each prefix the tunnel with this mark; 0 for none.
fn two_lans(world: &mut World, marks: [u32; 2]) {
    let Tunnel { v4, v6, .. } = &mut world.tunnels[1];
    v4.lan[1] = Prefix::new(Ipv4 { octets: [172, 16, 0, 0] }, 12);
    v6.lan[1] = Prefix::new(Ipv6::from(address("fd00:172::")), 32);
    (v4.prefix_count, v6.prefix_count) = (2, 2);
    v4.marks[..2].copy_from_slice(&marks);
    v6.marks[..2].copy_from_slice(&marks);
}

/// Returns a device in each LAN of [`two_lans`].
fn two_devices(v6: bool) -> [IpAddr; 2] {
    [device(v6), address(if v6 { "fd00:172::1" } else { "172.16.0.1" })]
}

fn syn_of(device: IpAddr, v6: bool) -> Vec<u8> {
    segment((device, PORTS.0), (server(1, v6), PORTS.1), tcp(0x02, 1000, 0))
}

fn answer_to(device: IpAddr, v6: bool) -> Vec<u8> {
    segment((server(1, v6), PORTS.1), (device, PORTS.0), tcp(0x12, 5000, 1001))
}

#[test]
fn answer_takes_the_tunnel_of_the_devices_prefix() {
    for v6 in FAMILIES {
        let mut world = World::new();
        two_lans(&mut world, [mark(1), NEWEST]);
        world.bindings.insert(30, Binding { site: 1, mark: NEWEST, inbound_spis: [0; 2] });
        let second = Identity { reqid: 30, spi: 77, mark: NEWEST };
        // Either tunnel brings packets of both LANs: the selectors of one site are the policy's business.
        for (device, expected) in two_devices(v6).into_iter().zip([mark(1), NEWEST]) {
            let opened = judge(&world, &syn_of(device, v6), second);
            assert_eq!((opened.verdict, opened.tunnel, opened.mark), (Ok(()), 1, 0));
            let answer = from_server(&answer_to(device, v6)[..], &world, NOW_NS);
            assert_eq!((answer.verdict, answer.tunnel, answer.mark), (Ok(()), 1, expected));
        }
    }
}

#[test]
fn first_prefix_that_holds_the_device_wins() {
    for v6 in FAMILIES {
        let mut world = World::new();
        two_lans(&mut world, [NEWEST, mark(1)]);
        let Tunnel { v4, v6: access6, .. } = &mut world.tunnels[1];
        (v4.lan[1], access6.lan[1]) = (v4.lan[0], access6.lan[0]);
        assert_eq!(reason(from_device(&world, &syn(v6))), None);
        assert_eq!(from_lan(&world, &syn_ack(v6)).mark, NEWEST);
    }
}

/// A connection's answers go on through the next tunnel of its site.
#[test]
fn answer_follows_its_site_into_a_new_tunnel() {
    for v6 in FAMILIES {
        let mut world = established(v6);
        let data = answer(v6, tcp(0x10, 5001, 1001));
        assert_eq!(from_lan(&world, &data).mark, mark(1));
        world.bindings.clear();
        world.bindings.insert(30, Binding { site: 1, mark: NEWEST, inbound_spis: [0; 2] });
        two_lans(&mut world, [NEWEST; 2]);
        let decision = from_lan(&world, &data);
        assert_eq!((decision.verdict, decision.mark), (Ok(()), NEWEST));
        let moved = Identity { reqid: 30, spi: 77, mark: NEWEST };
        assert_eq!(judge(&world, &request(v6, tcp(0x10, 1001, 5001)), moved).verdict, Ok(()));
        assert_eq!(
            reason(judge(&world, &request(v6, tcp(0x10, 1001, 5001)), identity(1))),
            Some(UnknownTunnel)
        );
    }
}

#[test]
fn prefix_that_no_tunnel_has_is_down() {
    for v6 in FAMILIES {
        let mut world = World::new();
        two_lans(&mut world, [mark(1), NEWEST]);
        let [first, second] = two_devices(v6);
        for device in [first, second] {
            assert_eq!(reason(judge(&world, &syn_of(device, v6), identity(1))), None);
        }
        two_lans(&mut world, [mark(1), 0]);
        let answered = |device| reason(from_server(&answer_to(device, v6)[..], &world, NOW_NS));
        assert_eq!([first, second].map(answered), [None, Some(TunnelDown)]);
        let sent = |device| reason(judge(&world, &syn_of(device, v6), identity(1)));
        assert_eq!([first, second].map(sent), [None, Some(TunnelDown)]);
    }
}
