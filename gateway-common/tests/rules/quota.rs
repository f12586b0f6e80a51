//! Charging new flows to their customer's quota, returning the charge, and races between CPUs.
use std::cell::Cell;

use gateway_common::{
    decide::{Decision, FamilyTables, FlowCell, NotInserted, Tables, UsageCell, from_server, from_site},
    layout::{Binding, LayoutFamily, Quota, Settings, Tunnel, Usage},
    rate::Bucket,
    reason::Reason::{self, *},
    tcp::{Flow, FlowKey},
    time::Ticks,
};

use crate::{
    frames::*,
    world::{PLENTY, World, server},
};

const SECOND_NS: u64 = 1_000_000_000;

fn world(quota: Quota) -> World {
    let mut world = World::new();
    world.tunnels[1].quota = quota;
    world
}

/// Returns the flows and half-open flows charged to customer 1.
fn charged(world: &World) -> (u32, u32) {
    let usage = world.usage.borrow()[&1];
    (usage.flows, usage.half_open)
}

/// Decides on a SYN from this port of the device, some time later.
fn syn_from(world: &World, v6: bool, port: u16, after_ns: u64) -> Decision {
    let frame = segment((device(v6), port), (server(1, v6), PORTS.1), tcp(0x02, 1000, 0));
    from_site(&frame[..], world, tunnel(1), NOW_NS + after_ns)
}

/// Returns the reasons why SYNs from this many ports, all at once, are dropped.
fn syns(world: &World, v6: bool, ports: u16) -> Vec<Option<Reason>> {
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

/// A time when every open flow has expired.
const LATER_NS: u64 = 8_000 * SECOND_NS;

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

/// Tables in which another CPU acts after this CPU's first look at the flows.
struct Race<'a> {
    world: &'a World,
    other: &'a dyn Fn(&World),
    looks: Cell<u32>,
}

impl Race<'_> {
    fn look(&self) {
        self.looks.set(self.looks.get() + 1);
        if self.looks.get() == 2 {
            (self.other)(self.world);
        }
    }
}

impl Tables for Race<'_> {
    fn settings(&self) -> Option<&Settings> {
        self.world.settings()
    }

    fn binding(&self, reqid: u32) -> Option<&Binding> {
        self.world.binding(reqid)
    }

    fn tunnel(&self, number: u32) -> Option<&Tunnel> {
        self.world.tunnel(number)
    }

    fn inbound_spi(&self, spi: u32) -> Option<u32> {
        self.world.inbound_spi(spi)
    }

    fn usage(&self, customer: u32) -> Option<impl UsageCell> {
        self.world.usage(customer)
    }
}

impl<A: LayoutFamily> FamilyTables<A> for Race<'_> {
    fn customer(&self, server: A) -> Option<u32> {
        self.world.customer(server)
    }

    fn flow(&self, key: &FlowKey<A>) -> Option<impl FlowCell> {
        self.look();
        self.world.flow(key)
    }

    fn insert_flow(&self, key: &FlowKey<A>, flow: &Flow, now: Ticks) -> Result<(), NotInserted> {
        self.look();
        self.world.insert_flow(key, flow, now)
    }
}

/// Decides on a SYN at this time while another CPU acts.
fn race(world: &World, v6: bool, after_ns: u64, other: &dyn Fn(&World)) -> Option<Reason> {
    let race = Race { world, other, looks: Cell::new(0) };
    let decision = from_site(&syn(v6)[..], &race, tunnel(1), NOW_NS + after_ns);
    assert!(race.looks.get() >= 2, "the decision looked only once");
    reason(decision)
}

#[test]
fn copies_of_a_syn_on_two_cpus_open_one_flow() {
    for v6 in FAMILIES {
        let world = World::new();
        let faster = |world: &World| assert!(from_device(world, &syn(v6)).opened);
        assert_eq!(race(&world, v6, 0, &faster), Some(FlowChanging));
        assert_eq!((charged(&world), world.flows.borrow().len()), ((1, 1), 1));
    }
}

#[test]
fn flow_changed_by_another_cpu_is_not_replaced() {
    let each = |world: &World, change: fn(&mut Flow)| {
        world.flows.borrow_mut().values_mut().for_each(change);
    };
    for v6 in FAMILIES {
        for world in [opened(v6), established(v6)] {
            let before = charged(&world);
            let reopened = |world: &World| {
                assert!(from_site(&syn(v6)[..], world, tunnel(1), NOW_NS + LATER_NS).opened);
            };
            assert_eq!(race(&world, v6, LATER_NS, &reopened), Some(FlowChanging));
            assert_eq!(charged(&world), (1, 1), "{before:?}");
        }
        for world in [opened(v6), established(v6)] {
            let before = charged(&world);
            let removing = |world: &World| each(world, Flow::end);
            assert_eq!(race(&world, v6, LATER_NS, &removing), Some(FlowChanging));
            assert_eq!(charged(&world), before);
        }
        for world in [opened(v6), established(v6)] {
            let before = charged(&world);
            let gone = |world: &World| world.flows.borrow_mut().clear();
            assert_eq!(race(&world, v6, LATER_NS, &gone), Some(FlowChanging));
            assert_eq!(charged(&world), before);
        }
        // Expired, but charged differently than at the first look.
        let world = opened(v6);
        let other_charge = |world: &World| each(world, |flow| flow.last ^= 0x40);
        assert_eq!(race(&world, v6, LATER_NS, &other_charge), Some(FlowChanging));
        assert_eq!(charged(&world), (1, 1));
    }
}

/// Tables in which every flow belongs to tunnel 1 when looked up, and to its real tunnel once locked.
struct Stale<'a>(&'a World);

struct StaleCell<C>(C);

impl<C: FlowCell> FlowCell for StaleCell<C> {
    fn tunnel(&self) -> u32 {
        1
    }

    fn locked<R>(&self, change: impl FnOnce(&mut Flow) -> R) -> R {
        self.0.locked(change)
    }
}

impl Tables for Stale<'_> {
    fn settings(&self) -> Option<&Settings> {
        self.0.settings()
    }

    fn binding(&self, reqid: u32) -> Option<&Binding> {
        self.0.binding(reqid)
    }

    fn tunnel(&self, number: u32) -> Option<&Tunnel> {
        self.0.tunnel(number)
    }

    fn inbound_spi(&self, spi: u32) -> Option<u32> {
        self.0.inbound_spi(spi)
    }

    fn usage(&self, customer: u32) -> Option<impl UsageCell> {
        self.0.usage(customer)
    }
}

impl<A: LayoutFamily> FamilyTables<A> for Stale<'_> {
    fn customer(&self, server: A) -> Option<u32> {
        self.0.customer(server)
    }

    fn flow(&self, key: &FlowKey<A>) -> Option<impl FlowCell> {
        self.0.flow(key).map(StaleCell)
    }

    fn insert_flow(&self, key: &FlowKey<A>, flow: &Flow, now: Ticks) -> Result<(), NotInserted> {
        self.0.insert_flow(key, flow, now)
    }
}

#[test]
fn answer_on_a_flow_taken_by_another_tunnel_is_dropped() {
    for v6 in FAMILIES {
        let mut world = World::new();
        world.tunnels[2] = world.tunnels[1];
        assert!(from_site(&syn(v6)[..], &world, tunnel(2), NOW_NS).opened);
        let before = world.flows.borrow().clone();
        let late = from_server(&syn_ack(v6)[..], &Stale(&world), NOW_NS);
        assert_eq!(reason(late), Some(ReplyWithoutConnection));
        assert_eq!(*world.flows.borrow(), before);
        assert_eq!(reason(from_lan(&world, &syn_ack(v6))), None);
    }
}
