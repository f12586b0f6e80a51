//! What a new flow takes of its customer's quota, when it is given back, and races between CPUs.
use std::cell::Cell;

use gateway_common::{
    decide::{Decision, FamilyTables, FlowCell, NotInserted, Tables, UsageCell, from_server, from_site},
    layout::{LayoutFamily, Quota, Settings, Tunnel, Usage},
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

/// Flows and half-open flows that customer 1 is charged for.
fn taken(world: &World) -> (u32, u32) {
    let usage = world.usage.borrow()[&1];
    (usage.flows, usage.half_open)
}

/// A SYN from this port of the device, some time later.
fn syn_from(world: &World, v6: bool, port: u16, after_ns: u64) -> Decision {
    let frame = segment((device(v6), port), (server(1, v6), PORTS.1), tcp(0x02, 1000, 0));
    from_site(&frame[..], world, tunnel(1), NOW_NS + after_ns)
}

/// Why SYNs from so many ports do not open a flow each, at once.
fn syns(world: &World, v6: bool, ports: u16) -> Vec<Option<Reason>> {
    (0..ports).map(|port| reason(syn_from(world, v6, 1000 + port, 0))).collect()
}

#[test]
fn as_many_flows_are_opened_as_each_quota_says() {
    for v6 in FAMILIES {
        let flows = world(Quota { flows: 2, ..PLENTY });
        assert_eq!(syns(&flows, v6, 3), [None, None, Some(FlowQuotaExceeded)]);
        assert_eq!(taken(&flows), (2, 2));
        let half_open = world(Quota { half_open: 2, ..PLENTY });
        assert_eq!(syns(&half_open, v6, 3), [None, None, Some(HalfOpenQuotaExceeded)]);
        assert_eq!(taken(&half_open), (2, 2));
        let rate = world(Quota { new_flow_interval_ns: SECOND_NS as u32, new_flow_burst: 2, ..PLENTY });
        assert_eq!(syns(&rate, v6, 3), [None, None, Some(NewFlowsOverBudget)]);
        assert_eq!(taken(&rate), (2, 2));
        assert_eq!(reason(syn_from(&rate, v6, 9, SECOND_NS - 1)), Some(NewFlowsOverBudget));
        assert_eq!(reason(syn_from(&rate, v6, 9, SECOND_NS)), None);
        assert_eq!(reason(syn_from(&rate, v6, 10, SECOND_NS)), Some(NewFlowsOverBudget));
    }
}

/// Both families are of one quota.
#[test]
fn quota_is_of_both_families_together() {
    let world = world(Quota { flows: 2, ..PLENTY });
    assert_eq!(syns(&world, false, 1), [None]);
    assert_eq!(syns(&world, true, 2), [None, Some(FlowQuotaExceeded)]);
}

/// Or a flood beyond the quota would use up the budget of the flows that come after it.
#[test]
fn refused_flow_takes_nothing() {
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
fn full_table_gives_back_what_was_taken() {
    for v6 in FAMILIES {
        let world = World { flow_limit: 1, ..World::new() };
        assert_eq!(syns(&world, v6, 2), [None, Some(FlowTableFull)]);
        assert_eq!(taken(&world), (1, 1));
    }
}

#[test]
fn only_segments_that_open_a_flow_are_charged() {
    for v6 in FAMILIES {
        let world = World::new();
        assert_eq!(reason(from_device(&world, &ack(v6))), Some(NoConnection));
        assert_eq!(taken(&world), (0, 0));
        assert_eq!(world.usage.borrow()[&1].new_flows, Bucket::default());
    }
}

#[test]
fn complete_handshake_is_half_open_no_more_and_only_once() {
    for v6 in FAMILIES {
        let world = opened(v6);
        assert_eq!(taken(&world), (1, 1));
        assert_eq!(reason(from_device(&world, &syn(v6))), None);
        assert_eq!(taken(&world), (1, 1), "the SYN came again");
        assert_eq!(reason(from_lan(&world, &syn_ack(v6))), None);
        assert_eq!(taken(&world), (1, 1), "the server alone proves nothing of the device");
        assert_eq!(reason(from_device(&world, &ack(v6))), None);
        assert_eq!(taken(&world), (1, 0));
        assert_eq!(reason(syn_from(&world, v6, 2000, 0)), None);
        for frame in [ack(v6), ack(v6)] {
            assert_eq!(reason(from_device(&world, &frame)), None);
            assert_eq!(taken(&world), (2, 1), "given back once");
        }
        assert_eq!(reason(from_lan(&world, &answer(v6, tcp(0x10, 5001, 1001)))), None);
        assert_eq!(taken(&world), (2, 1));
    }
}

#[test]
fn adopted_connection_is_half_open_until_the_server_answers() {
    for v6 in FAMILIES {
        let mut world = World::new();
        world.settings.adopt_midstream = 1;
        for _ in 0..3 {
            assert_eq!(reason(from_device(&world, &ack(v6))), None);
            assert_eq!(taken(&world), (1, 1));
        }
        assert_eq!(reason(from_lan(&world, &answer(v6, tcp(0x10, 5001, 1001)))), None);
        assert_eq!(taken(&world), (1, 0));
    }
}

#[test]
fn flow_in_the_place_of_another_has_nothing_of_it() {
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
fn handshake_that_the_server_refuses_is_half_open_no_more() {
    for v6 in FAMILIES {
        let world = opened(v6);
        assert_eq!(reason(from_lan(&world, &syn_ack(v6))), None);
        let reset = answer(v6, tcp(0x14, 5001, 1001));
        for _ in 0..2 {
            assert_eq!(reason(from_lan(&world, &reset)), None);
            assert_eq!(taken(&world), (1, 0));
        }
    }
}

/// A time when every flow that was opened is over.
const LATER_NS: u64 = 8_000 * SECOND_NS;

#[test]
fn flow_in_the_place_of_another_takes_what_that_did_not() {
    for v6 in FAMILIES {
        let again = |world: &mut World, quota| {
            world.tunnels[1].quota = quota;
            reason(syn_from(world, v6, PORTS.0, LATER_NS))
        };
        let full = Quota { flows: 1, half_open: 1, ..PLENTY };
        let (mut half_open, mut whole) = (opened(v6), established(v6));
        assert_eq!(again(&mut half_open, full), None);
        assert_eq!(taken(&half_open), (1, 1));
        let none = Quota { half_open: 0, ..full };
        assert_eq!(again(&mut whole, none), Some(HalfOpenQuotaExceeded));
        assert_eq!(taken(&whole), (1, 0));
        assert_eq!(again(&mut whole, full), None);
        assert_eq!(taken(&whole), (1, 1));
    }
}

#[test]
fn more_is_never_given_back_than_was_taken() {
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

/// Tables in which another CPU does something after this one's first look at the flows.
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

/// What becomes of a SYN at this time, if another CPU does this meanwhile.
fn race(world: &World, v6: bool, after_ns: u64, other: &dyn Fn(&World)) -> Option<Reason> {
    let race = Race { world, other, looks: Cell::new(0) };
    let decision = from_site(&syn(v6)[..], &race, tunnel(1), NOW_NS + after_ns);
    assert!(race.looks.get() >= 2, "nothing to race for");
    reason(decision)
}

#[test]
fn copies_of_a_syn_on_two_cpus_open_one_flow() {
    for v6 in FAMILIES {
        let world = World::new();
        let faster = |world: &World| assert!(from_device(world, &syn(v6)).opened);
        assert_eq!(race(&world, v6, 0, &faster), Some(FlowChanging));
        assert_eq!((taken(&world), world.flows.borrow().len()), ((1, 1), 1));
    }
}

#[test]
fn flow_that_another_cpu_changed_meanwhile_is_not_replaced() {
    let each = |world: &World, change: fn(&mut Flow)| {
        world.flows.borrow_mut().values_mut().for_each(change);
    };
    for v6 in FAMILIES {
        for world in [opened(v6), established(v6)] {
            let before = taken(&world);
            let reopened = |world: &World| {
                assert!(from_site(&syn(v6)[..], world, tunnel(1), NOW_NS + LATER_NS).opened);
            };
            assert_eq!(race(&world, v6, LATER_NS, &reopened), Some(FlowChanging));
            assert_eq!(taken(&world), (1, 1), "{before:?}");
        }
        for world in [opened(v6), established(v6)] {
            let before = taken(&world);
            let removing = |world: &World| each(world, Flow::end);
            assert_eq!(race(&world, v6, LATER_NS, &removing), Some(FlowChanging));
            assert_eq!(taken(&world), before);
        }
        for world in [opened(v6), established(v6)] {
            let before = taken(&world);
            let gone = |world: &World| world.flows.borrow_mut().clear();
            assert_eq!(race(&world, v6, LATER_NS, &gone), Some(FlowChanging));
            assert_eq!(taken(&world), before);
        }
        // Over, but charged otherwise than it was when it was looked at.
        let world = opened(v6);
        let other_charge = |world: &World| each(world, |flow| flow.last ^= 0x40);
        assert_eq!(race(&world, v6, LATER_NS, &other_charge), Some(FlowChanging));
        assert_eq!(taken(&world), (1, 1));
    }
}

/// Tables in which every flow was tunnel 1's when it was looked up, and is what it is by the time it is locked.
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
fn answer_on_a_flow_that_another_tunnel_took_meanwhile_is_dropped() {
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
