//! Races between CPUs for a flow: nothing is charged twice, and nobody takes another's flow.
use std::cell::Cell;

use gateway_common::{
    decide::{FamilyTables, FlowCell, NotInserted, Tables, UsageCell, from_server, from_site},
    layout::{Binding, LayoutFamily, Settings, Tunnel},
    reason::Reason::{self, *},
    tcp::{Flow, FlowKey},
    time::Ticks,
};

use crate::{
    frames::*,
    quota::{LATER_NS, charged, shared},
    world::World,
};

/// Tables in which another CPU acts before this CPU's look of this number at the flows.
struct Race<'a> {
    world: &'a World,
    other: &'a dyn Fn(&World),
    at: u32,
    looks: Cell<u32>,
}

impl Race<'_> {
    fn look(&self) {
        self.looks.set(self.looks.get() + 1);
        if self.looks.get() == self.at {
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

    fn share(&self, site: u32) -> Option<impl UsageCell> {
        self.world.share(site)
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
fn race_at(at: u32, world: &World, v6: bool, after_ns: u64, other: &dyn Fn(&World)) -> Option<Reason> {
    let race = Race { world, other, at, looks: Cell::new(0) };
    let decision = from_site(&syn(v6)[..], &race, tunnel(1), NOW_NS + after_ns);
    assert!(race.looks.get() >= at, "the decision looked only {} times", race.looks.get());
    reason(decision)
}

/// Decides likewise on a SYN in the place of a flow that is over. The other CPU acts after the charge.
fn race(world: &World, v6: bool, after_ns: u64, other: &dyn Fn(&World)) -> Option<Reason> {
    race_at(3, world, v6, after_ns, other)
}

#[test]
fn copies_of_a_syn_on_two_cpus_open_one_flow() {
    for v6 in FAMILIES {
        let world = World::new();
        let faster = |world: &World| assert!(from_device(world, &syn(v6)).opened);
        assert_eq!(race_at(2, &world, v6, 0, &faster), Some(FlowChanging));
        assert_eq!(shared(&world, 1), (1, 1, 1));
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
        // Expired, but charged to another site than at the second look.
        let world = opened(v6);
        let other_site = |world: &World| each(world, |flow| flow.tunnel = 2);
        assert_eq!(race(&world, v6, LATER_NS, &other_site), Some(FlowChanging));
        assert_eq!((charged(&world), shared(&world, 1)), ((1, 1), (1, 1, 1)));
        // Removed between the first look and the charge.
        let world = opened(v6);
        let gone = |world: &World| world.flows.borrow_mut().clear();
        assert_eq!(race_at(2, &world, v6, LATER_NS, &gone), Some(FlowChanging));
        assert_eq!((charged(&world), shared(&world, 1)), ((1, 1), (1, 1, 1)));
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

    fn share(&self, site: u32) -> Option<impl UsageCell> {
        self.0.share(site)
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
