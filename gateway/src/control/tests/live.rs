//! Tests of what follows from charon's SAs for the maps.
use gateway_common::layout::NO_PREFIX;

use super::*;

#[test]
fn site_with_an_sa_is_up_and_the_others_stay_as_they_are() {
    let policy = example();
    let desired = desired_state(&policy);
    let id = tunnel(&desired, BERLIN);
    let before = settled(&desired, &Live::default());
    let live = live(&policy, &[sa(BERLINS_IDENTITY, 7)]);
    let after = applied(&plan_with(&desired, &before, Some(&live)), before.clone());
    let binding = Binding { site: id.get(), mark: 107, inbound_spis: [0xc0de_0007, 0] };
    assert_eq!(after.bindings, BTreeMap::from([(reqid(7), binding)]));
    let marks = after.tunnels[&id].v4.marks;
    assert_eq!((after.tunnels[&id].up, marks[0], marks[1]), (1, 107, 0));
    assert_eq!(after.inbound, BTreeMap::from([(0xc0de_0007, 107)]));
    assert_eq!(after.outbound.into_values().collect::<Vec<_>>(), [107]);
    for (other, entry) in after.tunnels.iter().filter(|(other, _)| **other != id) {
        assert_eq!(*entry, before.tunnels[other]);
    }
    assert_eq!(
        plan_with(&desired, &applied(&plan_with(&desired, &before, Some(&live)), before), Some(&live)),
        []
    );
}

#[test]
fn rekeyed_sa_changes_spis_only() {
    let policy = example();
    let desired = desired_state(&policy);
    let mut ike = sa(BERLINS_IDENTITY, 7);
    let before = settled(&desired, &live(&policy, &[ike.clone()]));
    let new = ChildSa { unique_id: 8, spi_in: Some(9), spi_out: Some(10), ..ike.children[0].clone() };
    ike.children[0].state = ChildState::Rekeyed;
    ike.children.push(new);
    let actions = plan_with(&desired, &before, Some(&live(&policy, &[ike])));
    let spis = |action: &Action| matches!(action, Action::SetInboundSpi(9, _) | Action::SetOutboundSpi(..));
    let (spis, others): (Vec<_>, Vec<_>) = actions.into_iter().partition(spis);
    assert_eq!(spis.len(), 2);
    let inbound_spis = [9, 0xc0de_0007];
    assert_eq!(
        others,
        [Action::SetBinding(reqid(7), Binding { inbound_spis, ..before.bindings[&reqid(7)] })]
    );
}

#[test]
fn negotiated_selectors_narrow_what_the_site_may_use() {
    let policy = example();
    let desired = desired_state(&policy);
    let id = tunnel(&desired, BERLIN);
    let mut ike = sa(BERLINS_IDENTITY, 7);
    ike.children[0].remote_ts = vec![TrafficSelector::Net("192.168.7.0/24".parse().unwrap())];
    let entry = settled(&desired, &live(&policy, &[ike])).tunnels[&id];
    let address = |text: &str| Ipv4::from(text.parse::<Ipv4Addr>().unwrap());
    assert_eq!(entry.v4.mark_of(address("192.168.7.9")), 107);
    assert_eq!(entry.v4.mark_of(address("192.168.8.9")), 0, "of the policy, but not negotiated");
    assert_eq!(entry.v4.mark_of(address("10.9.9.9")), NO_PREFIX);
}

#[test]
fn newest_of_two_sas_of_a_prefix_gets_the_answers() {
    let policy = example();
    let desired = desired_state(&policy);
    let id = tunnel(&desired, BERLIN);
    let mut ike = sa(BERLINS_IDENTITY, 7);
    let mut narrow = sa(BERLINS_IDENTITY, 8).children.remove(0);
    narrow.remote_ts = vec![TrafficSelector::Net("192.168.7.0/24".parse().unwrap())];
    ike.children.push(narrow);
    let entry = settled(&desired, &live(&policy, &[ike])).tunnels[&id];
    let address = |text: &str| Ipv4::from(text.parse::<Ipv4Addr>().unwrap());
    assert_eq!(entry.v4.mark_of(address("192.168.7.9")), 108);
    assert_eq!(entry.v4.mark_of(address("192.168.8.9")), 107);
}

/// The maps of an earlier gatewayd, which nobody has compared with charon's SAs yet.
#[test]
fn before_charon_is_known_bindings_stay_as_far_as_the_policy_has_their_sites() {
    let policy = example();
    let desired = desired_state(&policy);
    let (berlin, munich) = (tunnel(&desired, BERLIN), tunnel(&desired, "acme.munich"));
    let before = settled(&desired, &live(&policy, &[sa(BERLINS_IDENTITY, 7), sa("munich.acme.example", 8)]));
    assert_eq!(plan_with(&desired, &before, None), []);

    let mut without = desired.clone();
    without.tunnels.remove(&munich);
    let after = applied(&plan_with(&without, &before, None), before.clone());
    assert_eq!(after.bindings.keys().copied().collect::<Vec<_>>(), [reqid(7)]);
    assert_eq!((after.tunnels[&berlin].up, after.tunnels.get(&munich)), (1, None));

    // A site number that is another customer's now.
    let mut moved = desired.clone();
    let globex = moved.tunnels.values().find(|t| t.customer.name.as_str() == "globex").copied().unwrap();
    moved.tunnels.insert(munich, globex);
    let actions = plan_with(&moved, &before, None);
    assert_eq!(
        actions[0],
        Action::SetBinding(reqid(8), Binding::default()),
        "it is unbound before anything else"
    );
    let after = applied(&actions, before.clone());
    assert_eq!((after.bindings.contains_key(&reqid(8)), after.tunnels[&munich].up), (false, 0));

    // A narrower LAN.
    let mut policy = policy.clone();
    policy.customers.get_mut(&"acme".parse().unwrap()).unwrap().sites[0].lan =
        vec!["192.168.7.0/24".parse().unwrap()];
    let after = applied(&plan_with(&desired_state(&policy), &before, None), before);
    let entry = after.tunnels[&berlin];
    assert_eq!((entry.up, entry.v4.prefix_count, entry.v4.marks[0]), (1, 1, 107));
    assert_eq!(entry.v4.mark_of(Ipv4Addr::new(192, 168, 8, 9).into()), NO_PREFIX);
}

#[test]
fn peers_stay_without_charon_and_go_with_their_sas() {
    let policy = example();
    let desired = desired_state(&policy);
    let live = live(&policy, &[sa(BERLINS_IDENTITY, 7)]);
    let observed = settled(&desired, &live);
    assert_eq!(observed.peers, live.peers);
    let mut actions = plan_with(&desired, &observed, Some(&Live::default()));
    actions.retain(|action| matches!(action, Action::AddPeer(_) | Action::RemovePeer(_)));
    let removed: Vec<_> = live.peers.iter().copied().map(Action::RemovePeer).collect();
    assert_eq!(actions, removed);
}

#[test]
fn mss_is_the_worst_case_until_the_sa_is_known() {
    let policy = example();
    let desired = desired_state(&policy);
    let id = tunnel(&desired, BERLIN);
    let down = settled(&desired, &Live::default());
    assert_eq!((down.tunnels[&id].v4.mss, down.tunnels[&id].v6.mss), (1350, 1330));

    let mut ike = sa(BERLINS_IDENTITY, 7);
    ike.children[0].algorithms.encryption = Some("AES_GCM_16".into());
    let with_gcm = live(&policy, &[ike.clone()]);
    let up = settled(&desired, &with_gcm);
    assert_eq!((up.tunnels[&id].v4.mss, up.tunnels[&id].v6.mss), (1406, 1386));
    assert_eq!(plan_with(&desired, &up, None), [], "the MSS stays while charon is away");

    // A smaller interface MTU limits it: 1300 - 20 - 8 - 8 - 16 = 1248, - 2 - 40.
    let mut narrow = desired.clone();
    narrow.tunnels.get_mut(&id).unwrap().mtus.path = 1300;
    let actions = plan_with(&narrow, &up, None);
    let [Action::SetTunnel(_, entry)] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!((entry.up, entry.v4.mss, entry.v6.mss), (1, 1206, 1186));

    // The kernel learns a smaller path MTU: 1400 - 52 = 1348, - 2 - 40. A forged message may have lowered it further
    // before the programs ran: it counts as the least allowed.
    for learnt in [1400, 0, 552, 1399] {
        let learnt = BTreeMap::from([(ike.remote_host, learnt)]);
        let actions = plan(&desired, &up, Some(Followed { live: &with_gcm, learnt: &learnt }));
        let [Action::SetTunnel(changed, entry)] = &actions[..] else { panic!("{actions:?}") };
        let mut before = up.tunnels[&id];
        (before.v4.mss, before.v6.mss) = (1306, 1286);
        assert_eq!((*changed, **entry), (id, before));
    }

    // With two ciphers, the one with the larger overhead counts.
    let mut other = sa(BERLINS_IDENTITY, 8).children.remove(0);
    other.algorithms.encryption = None;
    ike.children.push(other);
    let entry = settled(&desired, &live(&policy, &[ike])).tunnels[&id];
    assert_eq!((entry.v4.mss, entry.v6.mss), (1382, 1362));
}

/// An event's plan reads and writes the entries that it touches only.
#[test]
fn plan_of_an_event_equals_the_whole_plan() {
    let policy = example();
    let ids = first_ids(&policy);
    let desired = desired_state(&policy);
    let before = settled(&desired, &Live::default());
    let mut bindings = Bindings::new(Sites::new(&policy, &ids));
    bindings.audit(&[]);
    bindings.take_touched();
    let ike = sa(BERLINS_IDENTITY, 7);
    let event = Event {
        kind: EventKind::ChildUp,
        ike: ike.name.clone(),
        unique_id: Some(ike.unique_id),
        replaced: None,
        sa: Some(Box::new(IkeSa { children: Vec::new(), ..ike.clone() })),
        children: ike.children.clone(),
    };
    assert_eq!(bindings.apply(&event), []);
    let keys = bindings.take_touched();
    let mut part = before.clone();
    part.tunnels.retain(|id, _| keys.sites.contains(id));
    (part.customers, part.peers) = Default::default();
    let learnt = BTreeMap::new();
    let followed = Followed { live: bindings.live(), learnt: &learnt };
    let actions = plan_live(&keys, &part, followed, |id| desired.tunnels.get(&id).copied());
    assert_eq!(actions, plan_with(&desired, &before, Some(bindings.live())));
    assert_eq!(bindings.live(), &live(&policy, &[ike]));
}
