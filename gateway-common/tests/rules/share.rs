//! Sites' shares of their customer's quota: charging them, and returning the charge.
use gateway_common::{
    decide::from_site,
    layout::{Quota, Share, Tunnel},
    reason::Reason::*,
};

use crate::{
    frames::*,
    quota::{LATER_NS, SECOND_NS, charged, shared, syn_from, syns, world},
    world::{PLENTY, World, server},
};

#[test]
fn each_share_limits_new_flows_of_its_site_alone() {
    let plenty = Quota { half_open: 1 << 20, new_flow_burst: 1 << 20, ..PLENTY };
    for v6 in FAMILIES {
        let limited = |quota, share| {
            let mut world = world(quota);
            world.tunnels[1].share = share;
            world
        };
        let flows = limited(plenty, Share { flows: 2, ..Share::WHOLE });
        assert_eq!(syns(&flows, v6, 3), [None, None, Some(SiteFlowQuotaExceeded)]);
        let half_open = limited(plenty, Share { half_open: 2, ..Share::WHOLE });
        assert_eq!(syns(&half_open, v6, 3), [None, None, Some(SiteHalfOpenQuotaExceeded)]);
        for world in [flows, half_open] {
            assert_eq!((charged(&world), shared(&world, 1)), ((2, 2), (1, 2, 2)));
        }
        // Half of the half-open flows: half of the new flows a second, and a burst of as many.
        let second = SECOND_NS as u32;
        let quota = Quota { half_open: 4, new_flow_interval_ns: second / 2, new_flow_burst: 4, ..PLENTY };
        let rate = limited(quota, Share { half_open: 2, ..Share::WHOLE });
        assert_eq!(syns(&rate, v6, 2), [None, None]);
        rate.shares.borrow_mut().get_mut(&1).unwrap().give_back(0, 2);
        let spent = rate.usage.borrow()[&1].new_flows;
        assert_eq!(reason(syn_from(&rate, v6, 9, SECOND_NS - 1)), Some(SiteNewFlowsOverBudget));
        assert_eq!(rate.usage.borrow()[&1].new_flows, spent, "costs the other sites nothing");
        assert_eq!(reason(syn_from(&rate, v6, 9, SECOND_NS)), None);
    }
}

/// Drops are the customer's where its quota is what limits: a site of its own, or a share as large.
#[test]
fn share_as_large_as_the_quota_does_not_limit() {
    for share in [Share { flows: 2, half_open: 2 }, Share::WHOLE] {
        let mut world = world(Quota { flows: 2, ..PLENTY });
        world.tunnels[1].share = Share { half_open: PLENTY.half_open, ..share };
        assert_eq!(syns(&world, false, 3), [None, None, Some(FlowQuotaExceeded)]);
        world.tunnels[1].quota = Quota { half_open: 2, ..PLENTY };
        world.tunnels[1].share = Share { flows: PLENTY.flows, ..share };
        assert_eq!(reason(syn_from(&world, false, 9, 0)), Some(HalfOpenQuotaExceeded));
        assert_eq!(shared(&world, 1), (1, 2, 2), "counts all the same");
    }
}

#[test]
fn share_of_nothing_opens_nothing() {
    let mut world = world(Quota { new_flow_interval_ns: 1, ..PLENTY });
    world.tunnels[1].share = Share::default();
    assert_eq!(syns(&world, false, 1), [Some(SiteFlowQuotaExceeded)]);
    world.tunnels[1].share.flows = u32::MAX;
    assert_eq!(syns(&world, false, 1), [Some(SiteHalfOpenQuotaExceeded)]);
    assert_eq!((charged(&world), shared(&world, 1)), ((0, 0), (1, 0, 0)));
}

#[test]
fn site_without_usage_opens_nothing() {
    let world = World::new();
    world.shares.borrow_mut().clear();
    assert_eq!(syns(&world, false, 1), [Some(SiteFlowQuotaExceeded)]);
    assert_eq!(charged(&world), (0, 0));
}

#[test]
fn refused_or_full_returns_the_share() {
    let refused = world(Quota { flows: 1, ..PLENTY });
    assert_eq!(syns(&refused, false, 2), [None, Some(FlowQuotaExceeded)]);
    let full = World { flow_limit: 1, ..World::new() };
    assert_eq!(syns(&full, false, 2), [None, Some(FlowTableFull)]);
    for world in [refused, full] {
        assert_eq!(shared(&world, 1), (1, 1, 1));
    }
}

#[test]
fn complete_handshake_returns_the_half_open_share() {
    for v6 in FAMILIES {
        let world = established(v6);
        assert_eq!(shared(&world, 1), (1, 1, 0));
    }
}

/// The prefix of site 1 is site 2's now.
#[test]
fn flow_in_place_of_another_sites_moves_its_charge() {
    for v6 in FAMILIES {
        for (mut world, half_open) in [(opened(v6), 1), (established(v6), 0)] {
            assert_eq!(shared(&world, 1), (1, 1, half_open));
            world.tunnels[2] = Tunnel { share: Share { flows: 0, ..Share::WHOLE }, ..world.tunnels[1] };
            let again = |world: &World| reason(from_site(&syn(v6)[..], world, tunnel(2), NOW_NS + LATER_NS));
            assert_eq!(again(&world), Some(SiteFlowQuotaExceeded), "charged as a whole");
            assert_eq!((shared(&world, 1), shared(&world, 2)), ((1, 1, half_open), (1, 0, 0)));
            world.tunnels[2].share = Share::WHOLE;
            assert_eq!(again(&world), None);
            assert_eq!((shared(&world, 1), shared(&world, 2)), ((1, 0, 0), (1, 1, 1)));
            assert_eq!(charged(&world), (1, 1));
        }
    }
}

/// Site 1 is removed while it has a flow, and its number becomes another customer's.
#[test]
fn number_of_a_removed_site_starts_anew_with_another_customer() {
    let mut world = opened(false);
    world.tunnels[1] = Tunnel { share: Share { flows: 1, half_open: 1 }, ..world.tunnels[4] };
    // Site 1 had spent its budget for new flows.
    world.shares.get_mut().get_mut(&1).unwrap().new_flows.full_at_ns = NOW_NS + 1_000 * SECOND_NS;
    let frame = segment((address("10.30.7.9"), 1), (server(3, false), PORTS.1), tcp(0x02, 1000, 0));
    assert_eq!(reason(from_site(&frame[..], &world, tunnel(1), NOW_NS)), None);
    assert_eq!(shared(&world, 1), (3, 1, 1));
    // The former owner's flow ends.
    let usage = &mut world.shares.borrow_mut();
    let share = usage.get_mut(&1).unwrap();
    share.give_back_share(1, 1, 1);
    assert_eq!((share.flows, share.half_open), (1, 1));
    share.give_back_share(3, 1, 1);
    assert_eq!((share.flows, share.half_open), (0, 0));
}
