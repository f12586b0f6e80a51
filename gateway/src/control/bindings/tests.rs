//! Tests of the bindings, alone and against a model of charon.
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    path::Path,
};

use gateway_common::{ids::TunnelId, layout::OutboundSpi, wire::Ipv6};
use proptest::prelude::*;

use super::*;
use crate::{
    control::follow::{Audit, Follower},
    policy,
    registry::Registry,
    strongswan::{Algorithms, ChildState},
};

const BERLIN: &str = "berlin.acme.example";
const MUNICH: &str = "munich.acme.example";
const IDENTITIES: [&str; 4] = [BERLIN, MUNICH, "springfield.globex.example", "stranger.example"];

fn sites_of(policy: &policy::Policy) -> Sites {
    let state = tempfile::tempdir().unwrap();
    let ids = Registry::open(state.path().join("ids.toml")).unwrap().assign(policy).unwrap();
    Sites::new(policy, &ids)
}

fn sites() -> Sites {
    sites_of(&policy::load(Path::new("../policies")).unwrap())
}

fn bindings() -> Bindings {
    Bindings::new(sites())
}

fn mark(number: u32) -> Mark {
    Mark::new(number).unwrap()
}

fn net(text: &str) -> Vec<TrafficSelector> {
    vec![TrafficSelector::Net(text.parse().unwrap())]
}

fn child(number: u32, reqid: u32, mark: u32) -> ChildSa {
    ChildSa {
        name: CONNECTION.into(),
        unique_id: number,
        reqid,
        state: ChildState::Installed,
        spi_in: Some(0xc000_0000 + number),
        spi_out: Some(0xb000_0000 + number),
        mark_in: mark,
        mark_out: mark,
        encap: false,
        algorithms: Algorithms::default(),
        bytes_in: 0,
        packets_in: 0,
        bytes_out: 0,
        packets_out: 0,
        local_ts: net("0.0.0.0/0"),
        remote_ts: net("0.0.0.0/0"),
    }
}

fn ike(number: u32, identity: &str, children: Vec<ChildSa>) -> IkeSa {
    IkeSa {
        name: CONNECTION.into(),
        unique_id: number,
        state: IkeState::Established,
        local_host: Ipv4Addr::new(203, 0, 113, 1).into(),
        local_port: 500,
        local_id: "gateway.example".into(),
        remote_host: Ipv4Addr::new(198, 51, 100, 5).into(),
        remote_port: 500,
        remote_id: identity.into(),
        initiator: false,
        nat_local: false,
        nat_remote: false,
        algorithms: Algorithms::default(),
        established: None,
        children,
    }
}

fn event(kind: EventKind, ike: &IkeSa, children: Vec<ChildSa>) -> Event {
    let sa = Some(Box::new(IkeSa { children: Vec::new(), ..ike.clone() }));
    Event { kind, ike: ike.name.clone(), unique_id: Some(ike.unique_id), replaced: None, sa, children }
}

fn site(bindings: &Bindings, identity: &str) -> TunnelId {
    bindings.sites.by_identity(identity).unwrap()
}

/// Returns site numbers and marks by reqid.
fn bound(bindings: &Bindings) -> BTreeMap<u32, (u32, u32)> {
    let bindings = bindings.live().bindings.iter();
    bindings.map(|(reqid, binding)| (reqid.get(), (binding.site, binding.mark))).collect()
}

#[test]
fn child_sa_is_bound_with_its_sites_authenticated_identity_only() {
    let mut bindings = bindings();
    let berlin = ike(1, "Berlin.ACME.example", vec![]);
    assert_eq!(bindings.apply(&event(EventKind::ChildUp, &berlin, vec![child(1, 1, 1)])), []);
    let number = site(&bindings, BERLIN).get();
    assert_eq!(bound(&bindings), BTreeMap::from([(1, (number, 1))]));

    let claimed = IkeSa { state: IkeState::Connecting, ..ike(2, MUNICH, vec![]) };
    assert_eq!(bindings.apply(&event(EventKind::ChildUp, &claimed, vec![child(2, 2, 2)])), []);
    assert_eq!(bound(&bindings), BTreeMap::from([(1, (number, 1))]));
}

#[test]
fn identity_that_a_stranger_chose_is_escaped_and_shortened() {
    let mut bindings = bindings();
    let hostile = format!("\u{202e}\u{1b}[2J\n{}", "é".repeat(400));
    let orders = bindings.apply(&event(EventKind::IkeUp, &ike(5, &hostile, vec![]), vec![]));
    let [Order::TerminateIke { reason, .. }] = &orders[..] else { panic!("{orders:?}") };
    for text in bindings.strangers().chain([reason.as_str()]) {
        assert!(text.contains("\\u{202e}\\u{1b}[2J\\né"), "{text}");
        assert!(text.chars().count() < 250 && !text.contains('\n'), "{text}");
    }
}

#[test]
fn flood_of_strangers_is_counted_and_named_within_bounds() {
    let mut bindings = bindings();
    for number in 1..=10_000 {
        bindings.apply(&event(EventKind::IkeUp, &ike(number, "stranger.example", vec![]), vec![]));
    }
    assert_eq!((bindings.refused(), bindings.strangers().count()), (10_000, 64));
}

#[test]
fn unknown_identity_and_foreign_connection_are_ended_counted_and_named() {
    let mut bindings = bindings();
    let stranger = ike(5, "stranger.example", vec![child(5, 5, 5)]);
    let foreign = IkeSa { name: "theirs".into(), ..ike(6, BERLIN, vec![child(6, 6, 6)]) };
    let mut ended = Vec::new();
    ended.extend(bindings.apply(&event(EventKind::IkeUp, &stranger, vec![])));
    ended.extend(bindings.audit(&[stranger.clone(), foreign.clone()]));
    let ids: Vec<u32> = ended
        .iter()
        .map(|order| match order {
            Order::TerminateIke { unique_id, .. } => *unique_id,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(ids, [5, 5, 6]);
    assert_eq!((bound(&bindings), bindings.refused()), (BTreeMap::new(), 2));
    assert!(bindings.strangers().any(|line| line.contains("stranger.example")));
    bindings.apply(&event(EventKind::IkeDown, &stranger, vec![]));
    assert_eq!(bindings.strangers().count(), 1);
}

#[test]
fn child_sa_without_a_mark_of_its_own_is_ended_alone() {
    for (mark_in, mark_out) in [(0, 0), (7, 8), (0, 7), (0x8000_0001, 0x8000_0001)] {
        let mut bindings = bindings();
        let bad = ChildSa { mark_in, mark_out, ..child(1, 1, 1) };
        let orders = bindings.audit(&[ike(1, BERLIN, vec![bad, child(2, 2, 2)])]);
        let marks_count = gateway_common::ids::Mark::new(mark_in).is_none() || mark_in != mark_out;
        if marks_count {
            assert!(matches!(orders[..], [Order::TerminateChild { unique_id: 1, .. }]), "{orders:?}");
            assert_eq!(bound(&bindings).len(), 1);
        }
    }
}

#[test]
fn mark_of_another_sites_child_sa_is_refused() {
    let mut bindings = bindings();
    let orders =
        bindings.audit(&[ike(1, BERLIN, vec![child(1, 1, 9)]), ike(2, MUNICH, vec![child(2, 2, 9)])]);
    assert!(matches!(orders[..], [Order::TerminateChild { unique_id: 2, .. }]), "{orders:?}");
    assert_eq!(bound(&bindings), BTreeMap::from([(1, (site(&bindings, BERLIN).get(), 9))]));
}

#[test]
fn selectors_without_overlap_end_that_child_sa_alone() {
    let mut bindings = bindings();
    let berlin = ike(1, BERLIN, vec![]);
    bindings.apply(&event(EventKind::ChildUp, &berlin, vec![child(1, 1, 1)]));
    let other = ChildSa { remote_ts: net("10.99.0.0/16"), ..child(2, 2, 2) };
    let orders = bindings.apply(&event(EventKind::ChildUp, &berlin, vec![other]));
    assert!(matches!(orders[..], [Order::TerminateChild { unique_id: 2, .. }]), "{orders:?}");
    assert_eq!(bound(&bindings).keys().copied().collect::<Vec<_>>(), [1]);
}

#[test]
fn site_with_16_child_sas_keeps_its_first_8_and_takes_no_room_of_others() {
    let mut bindings = bindings();
    let (berlin, munich) = (ike(1, BERLIN, vec![]), ike(2, MUNICH, vec![]));
    let mut ended = BTreeSet::new();
    for number in 1..=16 {
        for order in bindings.apply(&event(EventKind::ChildUp, &berlin, vec![child(number, number, number)]))
        {
            let Order::TerminateChild { unique_id, .. } = order else { panic!("{order:?}") };
            ended.insert(unique_id);
        }
    }
    assert_eq!(ended, (9..=16).collect());
    bindings.apply(&event(EventKind::ChildUp, &munich, vec![child(65, 65, 65)]));
    let bound_reqids: Vec<u32> = bound(&bindings).into_keys().collect();
    assert_eq!(bound_reqids, [1, 2, 3, 4, 5, 6, 7, 8, 65]);
    assert_eq!((bindings.live().inbound.len(), bindings.live().outbound.len()), (9, 9));

    // The list of all SAs says the same, and its order does not matter.
    let mut children: Vec<_> = (1..=16).map(|number| child(number, number, number)).collect();
    children.reverse();
    bindings.audit(&[ike(1, BERLIN, children), ike(2, MUNICH, vec![child(65, 65, 65)])]);
    assert_eq!(bound(&bindings).into_keys().collect::<Vec<_>>(), bound_reqids);
}

/// The peer need not answer the DELETEs, and every CHILD_SA has a reqid.
#[test]
fn site_with_64_child_sas_loses_its_ike_sa_and_others_lose_nothing() {
    let many = |count: u32| (1..=count).map(|number| child(number, number, number)).collect::<Vec<_>>();
    let others = ike(2, MUNICH, vec![child(65, 65, 65)]);
    let ends_ike = |orders: &[Order]| {
        orders.iter().any(|order| matches!(order, Order::TerminateIke { unique_id: 1, .. }))
    };
    let mut followed = bindings();
    followed.audit(std::slice::from_ref(&others));
    let berlin = ike(1, BERLIN, vec![]);
    let at = many(64)
        .into_iter()
        .position(|child| ends_ike(&followed.apply(&event(EventKind::ChildUp, &berlin, vec![child]))));
    assert_eq!(at, Some(16));
    assert_eq!(bound(&followed).into_keys().collect::<Vec<_>>(), [65]);

    let mut listed = bindings();
    assert!(ends_ike(&listed.audit(&[ike(1, BERLIN, many(64)), others])));
    assert_eq!(bound(&listed).into_keys().collect::<Vec<_>>(), [65]);
}

#[test]
fn site_with_8_child_sas_loses_nothing_when_all_are_rekeyed() {
    let mut bindings = bindings();
    let berlin = ike(1, BERLIN, vec![]);
    for number in 1..=8 {
        assert_eq!(
            bindings.apply(&event(EventKind::ChildUp, &berlin, vec![child(number, number, number)])),
            []
        );
    }
    let before = bound(&bindings);
    for number in 1..=8 {
        let pair = vec![child(number, number, number), child(number + 8, number, number)];
        assert_eq!(bindings.apply(&event(EventKind::ChildRekey, &berlin, pair)), []);
    }
    assert_eq!(bound(&bindings), before);
    let spis = bindings.live().bindings[&Reqid::new(3).unwrap()].inbound_spis;
    assert_eq!(spis, [0xc000_000b, 0xc000_0003], "the new SPI and the old one");
    assert_eq!(bindings.live().inbound.len(), 16);
    for number in 1..=8 {
        bindings.apply(&event(EventKind::ChildDown, &berlin, vec![child(number, number, number)]));
    }
    assert_eq!((bound(&bindings), bindings.live().inbound.len()), (before, 8));
}

#[test]
fn late_report_about_a_recycled_reqid_does_not_displace_its_new_owner() {
    let mut bindings = bindings();
    let (berlin, munich) = (ike(1, BERLIN, vec![]), ike(2, MUNICH, vec![]));
    bindings.apply(&event(EventKind::ChildUp, &munich, vec![child(2, 1, 2)]));
    bindings.apply(&event(EventKind::ChildUp, &berlin, vec![child(1, 1, 1)]));
    let munichs = (site(&bindings, MUNICH).get(), 2);
    assert_eq!(bound(&bindings), BTreeMap::from([(1, munichs)]));
    assert_eq!(bindings.live().sites.keys().copied().collect::<Vec<_>>(), [site(&bindings, MUNICH)]);
    bindings.apply(&event(EventKind::ChildDown, &berlin, vec![child(1, 1, 1)]));
    assert_eq!(bound(&bindings), BTreeMap::from([(1, munichs)]));
}

#[test]
fn ike_rekey_moves_child_sas_and_the_old_ike_sas_end_takes_none_along() {
    let mut bindings = bindings();
    let (old, new) = (ike(1, BERLIN, vec![]), ike(2, BERLIN, vec![]));
    bindings.apply(&event(EventKind::ChildUp, &old, vec![child(1, 1, 1)]));
    let live = bindings.live().clone();
    bindings.apply(&Event { replaced: Some(1), ..event(EventKind::IkeRekey, &new, vec![]) });
    bindings.apply(&event(EventKind::IkeDown, &old, vec![]));
    assert_eq!(*bindings.live(), live);
    bindings.apply(&event(EventKind::IkeDown, &new, vec![]));
    assert_eq!(*bindings.live(), Live::default());
    assert!(bindings.ikes.is_empty() && bindings.sas.is_empty() && bindings.of_sites.is_empty());
}

#[test]
fn new_outer_address_moves_peer_and_outbound_spi() {
    let mut bindings = bindings();
    let mut berlin = ike(1, BERLIN, vec![]);
    bindings.apply(&event(EventKind::ChildUp, &berlin, vec![child(1, 1, 1)]));
    berlin.remote_host = "198.51.100.99".parse().unwrap();
    let updating = ChildSa { spi_in: None, spi_out: None, state: ChildState::Updating, ..child(1, 1, 1) };
    bindings.apply(&event(EventKind::IkeUpdate, &berlin, vec![updating]));
    let peer = Ipv6::from(berlin.remote_host);
    assert_eq!(bindings.live().peers, BTreeSet::from([peer]));
    assert_eq!(bindings.live().outbound, BTreeMap::from([(OutboundSpi { peer, spi: 0xb000_0001 }, mark(1))]));
    assert_eq!(bound(&bindings).len(), 1);
}

#[test]
fn spi_that_two_child_sas_share_identifies_neither() {
    let mut bindings = bindings();
    // Two peers behind one NAT have the same outer address, and by chance the same SPI.
    let other = ChildSa { spi_out: Some(0xb000_0001), ..child(2, 2, 2) };
    bindings.audit(&[ike(1, BERLIN, vec![child(1, 1, 1)]), ike(2, MUNICH, vec![other.clone()])]);
    assert_eq!((bindings.live().inbound.len(), bindings.live().outbound.len()), (2, 0));
    bindings.apply(&event(EventKind::ChildDown, &ike(2, MUNICH, vec![]), vec![other]));
    assert_eq!(bindings.live().outbound.len(), 1);
}

#[test]
fn peers_are_those_of_a_sites_two_newest_ike_sas() {
    let mut bindings = bindings();
    let at =
        |number: u32, host: &str| IkeSa { remote_host: host.parse().unwrap(), ..ike(number, BERLIN, vec![]) };
    bindings.audit(&[at(1, "198.51.100.5"), at(2, "198.51.100.6"), at(3, "2001:db8::7")]);
    let peers = ["198.51.100.6", "2001:db8::7"].map(|peer| Ipv6::from(peer.parse::<IpAddr>().unwrap()));
    assert_eq!(bindings.live().peers, BTreeSet::from(peers));
}

#[test]
fn changed_identity_is_unbound_and_ended_at_once() {
    let mut policy = policy::load(Path::new("../policies")).unwrap();
    let mut bindings = Bindings::new(sites_of(&policy));
    bindings.audit(&[ike(1, BERLIN, vec![child(1, 1, 1)]), ike(2, MUNICH, vec![child(2, 2, 2)])]);
    policy.customers.get_mut(&"acme".parse().unwrap()).unwrap().sites[0].identity =
        "other.example".parse().unwrap();
    let orders = bindings.set_sites(sites_of(&policy));
    assert!(matches!(orders[..], [Order::TerminateIke { unique_id: 1, .. }]), "{orders:?}");
    assert_eq!(bound(&bindings).into_keys().collect::<Vec<_>>(), [2]);
}

#[test]
fn changed_lan_narrows_or_ends_a_child_sa() {
    let mut policy = policy::load(Path::new("../policies")).unwrap();
    let mut bindings = Bindings::new(sites_of(&policy));
    let narrow = ChildSa { remote_ts: net("192.168.0.0/17"), ..child(1, 1, 1) };
    bindings.audit(&[ike(1, BERLIN, vec![narrow, child(2, 2, 2)])]);
    let lan = |policy: &mut policy::Policy, net: &str| {
        let acme = policy.customers.get_mut(&"acme".parse().unwrap()).unwrap();
        acme.sites[0].lan = vec![net.parse().unwrap()];
    };
    lan(&mut policy, "192.168.7.0/24");
    assert_eq!(bindings.set_sites(sites_of(&policy)), []);
    let prefixes = |bindings: &Bindings| bindings.live().sites[&site(bindings, BERLIN)].prefixes.clone();
    assert_eq!(prefixes(&bindings), [("192.168.7.0/24".parse().unwrap(), mark(2))]);
    lan(&mut policy, "192.168.200.0/24");
    let orders = bindings.set_sites(sites_of(&policy));
    assert!(matches!(orders[..], [Order::TerminateChild { unique_id: 1, .. }]), "{orders:?}");
    assert_eq!(prefixes(&bindings), [("192.168.200.0/24".parse().unwrap(), mark(2))]);
}

#[test]
fn reqid_beyond_the_table_is_refused() {
    let mut bindings = bindings();
    let reqid = bindings.sites.reqid_limit() + 1;
    let orders = bindings.audit(&[ike(1, BERLIN, vec![child(1, reqid, 1)])]);
    assert!(matches!(orders[..], [Order::TerminateChild { unique_id: 1, .. }]), "{orders:?}");
    assert_eq!(bound(&bindings), BTreeMap::new());
}

/// charon as far as its reports tell: reqids are recycled, marks are not.
#[derive(Default)]
struct Model {
    ikes: BTreeMap<u32, IkeSa>,
    numbers: u32,
    marks: u32,
    /// Sites' identities by mark.
    owners: BTreeMap<u32, &'static str>,
    events: Vec<Event>,
}

/// A change: its kind, and numbers that select what changes.
type Step = (u8, usize, usize);

impl Model {
    fn number(&mut self) -> u32 {
        self.numbers += 1;
        self.numbers
    }

    fn emit(&mut self, event: Event) {
        self.events.push(event);
    }

    fn step(&mut self, (kind, one, other): Step) {
        let Some(id) = self.ikes.keys().copied().nth(one % self.ikes.len().max(1)) else {
            return self.connect(one);
        };
        let ike = self.ikes[&id].clone();
        let child = ike.children.get(other % ike.children.len().max(1)).cloned();
        match (kind, child) {
            (0, _) => self.connect(one),
            (1 | 2, _) => self.create(id),
            (3, Some(child)) => self.rekey(id, &child),
            (4, _) => self.rekey_ike(id),
            (5, Some(child)) => self.delete(id, child.unique_id),
            (6, _) => self.disconnect(id),
            (7, _) => self.relocate(id, other as u8),
            _ => {}
        }
    }

    fn connect(&mut self, one: usize) {
        let number = self.number();
        let ike = ike(number, IDENTITIES[one % IDENTITIES.len()], vec![]);
        self.emit(event(EventKind::IkeUp, &ike, vec![]));
        self.ikes.insert(number, ike);
    }

    fn create(&mut self, id: u32) {
        let used: BTreeSet<u32> =
            self.ikes.values().flat_map(|ike| &ike.children).map(|child| child.reqid).collect();
        let reqid = (1..).find(|reqid| !used.contains(reqid)).unwrap();
        self.marks += 1;
        let child = child(self.number(), reqid, self.marks);
        let ike = self.ikes.get_mut(&id).unwrap();
        let identity = IDENTITIES.into_iter().find(|identity| *identity == ike.remote_id).unwrap();
        self.owners.insert(self.marks, identity);
        ike.children.push(child.clone());
        let event = event(EventKind::ChildUp, ike, vec![child]);
        self.emit(event);
    }

    fn rekey(&mut self, id: u32, old: &ChildSa) {
        let new = child(self.number(), old.reqid, old.mark_in);
        let ike = self.ikes.get_mut(&id).unwrap();
        ike.children.retain(|child| child.unique_id != old.unique_id);
        ike.children.push(new.clone());
        let event = event(EventKind::ChildRekey, ike, vec![old.clone(), new]);
        self.emit(event);
    }

    fn rekey_ike(&mut self, id: u32) {
        let mut ike = self.ikes.remove(&id).unwrap();
        ike.unique_id = self.number();
        self.emit(Event { replaced: Some(id), ..event(EventKind::IkeRekey, &ike, vec![]) });
        self.ikes.insert(ike.unique_id, ike);
    }

    fn delete(&mut self, id: u32, child: u32) {
        let ike = self.ikes.get_mut(&id).unwrap();
        let (gone, left) = ike.children.drain(..).partition(|other: &ChildSa| other.unique_id == child);
        ike.children = left;
        let event = event(EventKind::ChildDown, ike, gone);
        self.emit(event);
    }

    fn disconnect(&mut self, id: u32) {
        let ike = self.ikes.remove(&id).unwrap();
        self.emit(event(EventKind::IkeDown, &ike, vec![]));
    }

    fn relocate(&mut self, id: u32, last: u8) {
        let ike = self.ikes.get_mut(&id).unwrap();
        ike.remote_host = Ipv4Addr::new(198, 51, 100, last).into();
        let event = event(EventKind::IkeUpdate, ike, vec![]);
        self.emit(event);
    }

    fn obey(&mut self, orders: &[Order]) {
        for order in orders {
            match order {
                Order::TerminateIke { unique_id, .. } if self.ikes.contains_key(unique_id) => {
                    self.disconnect(*unique_id);
                }
                Order::TerminateChild { unique_id, .. } => {
                    let has =
                        |(_, ike): &(&u32, &IkeSa)| ike.children.iter().any(|c| c.unique_id == *unique_id);
                    if let Some(id) = self.ikes.iter().find(has).map(|(id, _)| *id) {
                        self.delete(id, *unique_id);
                    }
                }
                _ => {}
            }
        }
    }

    fn list(&self) -> Vec<IkeSa> {
        self.ikes.values().cloned().collect()
    }
}

/// Checks that every binding is its owner's.
fn no_wrong_site(bindings: &Bindings, model: &Model) -> Result<(), TestCaseError> {
    for binding in bindings.live().bindings.values() {
        let owner = bindings.sites.by_identity(model.owners[&binding.mark]);
        prop_assert_eq!(owner.map(TunnelId::get), Some(binding.site));
    }
    for (site, live) in &bindings.live().sites {
        for (_, mark) in &live.prefixes {
            prop_assert_eq!(bindings.sites.by_identity(model.owners[&mark.get()]), Some(*site));
        }
    }
    for mark in bindings.live().inbound.values().chain(bindings.live().outbound.values()) {
        prop_assert!(bindings.sites.by_identity(model.owners[&mark.get()]).is_some());
    }
    Ok(())
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec((0u8..8, 0usize..16, 0usize..16), 0..60)
}

proptest! {
    /// Following every event leads to what the list of all SAs says.
    #[test]
    fn events_in_order_equal_the_list_of_all_sas(steps in steps()) {
        let (mut model, mut bindings) = (Model::default(), bindings());
        for step in steps {
            model.step(step);
            while !model.events.is_empty() {
                let event = model.events.remove(0);
                let orders = bindings.apply(&event);
                model.obey(&orders);
                no_wrong_site(&bindings, &model)?;
            }
        }
        let mut audited = Bindings::new(sites());
        prop_assert_eq!(audited.audit(&model.list()), []);
        prop_assert_eq!(bound(&bindings), bound(&audited));
        prop_assert_eq!(&bindings.live().sites, &audited.live().sites);
        prop_assert_eq!(&bindings.live().peers, &audited.live().peers);
        for (spi, mark) in &audited.live().inbound {
            prop_assert_eq!(bindings.live().inbound.get(spi), Some(mark));
        }
        for (spi, mark) in &audited.live().outbound {
            prop_assert_eq!(bindings.live().outbound.get(spi), Some(mark));
        }
    }

    /// Lost, late and repeated events bind nothing to a wrong site, and the next list sets everything right.
    #[test]
    fn any_interleaving_of_events_then_the_list_equals_the_list_alone(
        steps in steps(),
        order in prop::collection::vec(any::<prop::sample::Index>(), 0..100),
    ) {
        let mut model = Model::default();
        steps.into_iter().for_each(|step| model.step(step));
        let mut bindings = bindings();
        for index in order.iter().filter(|_| !model.events.is_empty()) {
            bindings.apply(index.get(&model.events));
            no_wrong_site(&bindings, &model)?;
        }
        let mut alone = Bindings::new(sites());
        prop_assert_eq!(bindings.audit(&model.list()), alone.audit(&model.list()));
        prop_assert_eq!(bindings.live(), alone.live());
    }

    /// Events that come while charon builds the list are not undone by it.
    #[test]
    fn list_that_is_older_than_events_undoes_none(before in steps(), meanwhile in steps()) {
        let mut model = Model::default();
        before.into_iter().for_each(|step| model.step(step));
        model.events.clear();
        let mut follower = Follower::new(bindings());
        follower.begin_audit();
        let list = model.list();
        meanwhile.into_iter().for_each(|step| model.step(step));
        let events = std::mem::take(&mut model.events);
        events.into_iter().for_each(|event| drop(follower.event(event)));
        let Audit::Done(orders) = follower.end_audit(&list) else { panic!("nothing was known") };
        model.obey(&orders);
        std::mem::take(&mut model.events).into_iter().for_each(|event| drop(follower.event(event)));
        let mut audited = Bindings::new(sites());
        let refused = audited.audit(&model.list());
        // More than a site may have: which of them stay depends on the order of their ends.
        if refused.is_empty() {
            prop_assert_eq!(bound(follower.bindings()), bound(&audited));
            prop_assert_eq!(&follower.bindings().live().peers, &audited.live().peers);
        }
    }
}
