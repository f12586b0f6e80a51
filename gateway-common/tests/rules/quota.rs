//! Charging new flows to their customer's quota, and returning the charge.
use gateway_common::{
    decide::{Decision, from_site},
    layout::{Quota, Usage},
    rate::Bucket,
    reason::Reason::{self, *},
};

use crate::{
    frames::*,
    world::{PLENTY, World, server},
};

pub const SECOND_NS: u64 = 1_000_000_000;

pub fn world(quota: Quota) -> World {
    let mut world = World::new();
    world.tunnels[1].quota = quota;
    world
}

/// Returns the flows and half-open flows charged to customer 1.
pub fn charged(world: &World) -> (u32, u32) {
    let usage = world.usage.borrow()[&1];
    (usage.flows, usage.half_open)
}

/// Decides on a SYN from this port of the device, some time later.
pub fn syn_from(world: &World, v6: bool, port: u16, after_ns: u64) -> Decision {
    let frame = segment((device(v6), port), (server(1, v6), PORTS.1), tcp(0x02, 1000, 0));
    from_site(&frame[..], world, tunnel(1), NOW_NS + after_ns)
}

/// Returns the reasons why SYNs from this many ports, all at once, are dropped.
pub fn syns(world: &World, v6: bool, ports: u16) -> Vec<Option<Reason>> {
    (0..ports).map(|port| reason(syn_from(world, v6, 1000 + port, 0))).collect()
}

#[test]
fn each_quota_limits_new_flows() {
    for v6 in FAMILIES {
        let flows = world(Quota { flows: 2, ..PLENTY });
        assert_eq!(syns(&flows, v6, 3), [None, None, Some(FlowQuotaExceeded)]);
        assert_eq!(charged(&flows), (2, 2));
        let half_open = world(Quota { half_open: 2, ..PLENTY });
        assert_eq!(syns(&half_open, v6, 3), [None, None, Some(HalfOpenQuotaExceeded)]);
        assert_eq!(charged(&half_open), (2, 2));
        let rate = world(Quota { new_flow_interval_ns: SECOND_NS as u32, new_flow_burst: 2, ..PLENTY });
        assert_eq!(syns(&rate, v6, 3), [None, None, Some(NewFlowsOverBudget)]);
        assert_eq!(charged(&rate), (2, 2));
        assert_eq!(reason(syn_from(&rate, v6, 9, SECOND_NS - 1)), Some(NewFlowsOverBudget));
        assert_eq!(reason(syn_from(&rate, v6, 9, SECOND_NS)), None);
        assert_eq!(reason(syn_from(&rate, v6, 10, SECOND_NS)), Some(NewFlowsOverBudget));
    }
}

/// Both families share one quota.
#[test]
fn families_share_one_quota() {
    let world = world(Quota { flows: 2, ..PLENTY });
    assert_eq!(syns(&world, false, 1), [None]);
    assert_eq!(syns(&world, true, 2), [None, Some(FlowQuotaExceeded)]);
}

/// Otherwise a flood beyond the quota would use up the budget of later flows.
#[test]
fn refused_flow_is_not_charged() {
    let world = world(Quota { half_open: 1, new_flow_interval_ns: 1, new_flow_burst: 2, ..PLENTY });
    assert_eq!(syns(&world, false, 1), [None]);
    let before = world.usage.borrow()[&1];
    assert_eq!(reason(syn_from(&world, false, 2000, 0)), Some(HalfOpenQuotaExceeded));
    assert_eq!(world.usage.borrow()[&1], before);
}

#[test]
fn customer_without_usage_opens_nothing() {
    let world = World::new();
    world.usage.borrow_mut().clear();
    assert_eq!(syns(&world, false, 1), [Some(FlowQuotaExceeded)]);
}

#[test]
fn full_table_returns_the_charge() {
    for v6 in FAMILIES {
        let world = World { flow_limit: 1, ..World::new() };
        assert_eq!(syns(&world, v6, 2), [None, Some(FlowTableFull)]);
        assert_eq!(charged(&world), (1, 1));
    }
}

#[test]
fn only_segments_that_open_a_flow_are_charged() {
    for v6 in FAMILIES {
        let world = World::new();
        assert_eq!(reason(from_device(&world, &ack(v6))), Some(NoConnection));
        assert_eq!(charged(&world), (0, 0));
        assert_eq!(world.usage.borrow()[&1].new_flows, Bucket::default());
    }
}

#[test]
fn complete_handshake_returns_the_half_open_charge_once() {
    for v6 in FAMILIES {
        let world = opened(v6);
        assert_eq!(charged(&world), (1, 1));
        assert_eq!(reason(from_device(&world, &syn(v6))), None);
        assert_eq!(charged(&world), (1, 1), "a repeated SYN");
        assert_eq!(reason(from_lan(&world, &syn_ack(v6))), None);
        assert_eq!(charged(&world), (1, 1), "the server's answer proves nothing about the device");
        assert_eq!(reason(from_device(&world, &ack(v6))), None);
        assert_eq!(charged(&world), (1, 0));
        assert_eq!(reason(syn_from(&world, v6, 2000, 0)), None);
        for frame in [ack(v6), ack(v6)] {
            assert_eq!(reason(from_device(&world, &frame)), None);
            assert_eq!(charged(&world), (2, 1), "returned once");
        }
        assert_eq!(reason(from_lan(&world, &answer(v6, tcp(0x10, 5001, 1001)))), None);
        assert_eq!(charged(&world), (2, 1));
    }
}

#[test]
fn adopted_connection_is_half_open_until_the_server_answers() {
    for v6 in FAMILIES {
        let mut world = World::new();
        world.settings.adopt_midstream = 1;
        for _ in 0..3 {
            assert_eq!(reason(from_device(&world, &ack(v6))), None);
            assert_eq!(charged(&world), (1, 1));
        }
        assert_eq!(reason(from_lan(&world, &answer(v6, tcp(0x10, 5001, 1001)))), None);
        assert_eq!(charged(&world), (1, 0));
    }
}

#[test]
fn replacing_flow_inherits_nothing() {
    for v6 in FAMILIES {
        let options = &[3, 3, 7, 4, 2, 0, 0, 0];
        let world = World::new();
        let first = request(v6, Tcp { options, ..tcp(0x02, 77_000, 0) });
        assert_eq!(reason(from_device(&world, &first)), None);
        let answered = answer(v6, Tcp { options, ..tcp(0x12, 5000, 77_001) });
        assert_eq!(reason(from_lan(&world, &answered)), None);
        assert_eq!(reason(from_device(&world, &request(v6, tcp(0x10, 77_001, 5001)))), None);
        let anew = World::new();
        for world in [&world, &anew] {
            assert!(syn_from(world, v6, PORTS.0, LATER_NS).opened);
        }
        assert_eq!(*world.flows.borrow(), *anew.flows.borrow());
    }
}

#[test]
fn refused_handshake_returns_the_half_open_charge() {
    for v6 in FAMILIES {
        let world = opened(v6);
        assert_eq!(reason(from_lan(&world, &syn_ack(v6))), None);
        let reset = answer(v6, tcp(0x14, 5001, 1001));
        for _ in 0..2 {
            assert_eq!(reason(from_lan(&world, &reset)), None);
            assert_eq!(charged(&world), (1, 0));
        }
    }
}

/// A server that is not up answers each SYN with a RST. The flow takes its place in the table until it is removed,
/// but is no handshake.
#[test]
fn reset_in_answer_to_a_syn_returns_the_half_open_charge() {
    for v6 in FAMILIES {
        let resets = |world: &World, from_server: bool| match from_server {
            true => from_lan(world, &answer(v6, tcp(0x14, 0, 1001))),
            false => from_device(world, &request(v6, tcp(0x04, 1001, 0))),
        };
        for from_server in [true, false] {
            let world = opened(v6);
            assert_eq!(reason(resets(&world, from_server)), None);
            // The server may have dropped the device's: it waits for the handshake all the same.
            let half_open = u32::from(!from_server);
            assert_eq!((charged(&world), shared(&world, 1)), ((1, half_open), (1, 1, half_open)));
            // Over at once: the same ports open anew, as a handshake.
            assert!(from_device(&world, &syn(v6)).opened);
            assert_eq!((charged(&world), shared(&world, 1)), ((1, 1), (1, 1, 1)));
        }
    }
}

/// A time when every open flow has expired.
pub const LATER_NS: u64 = 8_000 * SECOND_NS;

#[test]
fn replacing_flow_is_charged_the_difference() {
    for v6 in FAMILIES {
        let again = |world: &mut World, quota| {
            world.tunnels[1].quota = quota;
            reason(syn_from(world, v6, PORTS.0, LATER_NS))
        };
        let full = Quota { flows: 1, half_open: 1, ..PLENTY };
        let (mut half_open, mut whole) = (opened(v6), established(v6));
        assert_eq!(again(&mut half_open, full), None);
        assert_eq!(charged(&half_open), (1, 1));
        let none = Quota { half_open: 0, ..full };
        assert_eq!(again(&mut whole, none), Some(HalfOpenQuotaExceeded));
        assert_eq!(charged(&whole), (1, 0));
        assert_eq!(again(&mut whole, full), None);
        assert_eq!(charged(&whole), (1, 1));
    }
}

#[test]
fn usage_never_returns_more_than_charged() {
    let usage = |flows, half_open| Usage { flows, half_open, ..Usage::default() };
    for (mut before, (flows, half_open), after) in [
        (usage(0, 0), (1, 1), usage(0, 0)),
        (usage(2, 1), (1, 0), usage(1, 1)),
        (usage(2, 1), (1, 1), usage(1, 0)),
        (usage(2, 1), (0, 1), usage(2, 0)),
    ] {
        before.give_back(flows, half_open);
        assert_eq!(before, after);
    }
}

/// Returns the customer, the flows and the half-open flows charged to a site's share.
pub fn shared(world: &World, site: u32) -> (u32, u32, u32) {
    let usage = world.shares.borrow()[&site];
    (usage.customer, usage.flows, usage.half_open)
}
