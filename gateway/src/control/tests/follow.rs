//! Tests of the tunnel state derived from charon's SAs.
use super::*;

#[test]
fn a_tunnel_is_up_only_with_its_sites_identity() {
    let policy = example();
    let desired = desired_state(&policy);
    let id = tunnel(&desired, BERLIN);
    let live = follow(&desired.tunnels, &[sa(BERLIN, "berlin.acme.example", id.get())]);
    assert!(live.up.contains(&id) && live.strangers.is_empty());
    assert_eq!(live.inbound, BTreeMap::from([(0xc0de_0001, id)]));

    for stranger in [
        sa(BERLIN, "munich.acme.example", id.get()),
        sa("globex.springfield", "springfield.globex.example", id.get()),
        sa("somebody", "berlin.acme.example", id.get()),
    ] {
        let live = follow(&desired.tunnels, std::slice::from_ref(&stranger));
        assert!(live.up.is_empty() && live.inbound.is_empty(), "{stranger:?}");
        assert_eq!(live.strangers.len(), 1);
        // A stranger keeps the tunnel down even beside the right SA.
        let live = follow(&desired.tunnels, &[sa(BERLIN, "berlin.acme.example", id.get()), stranger]);
        assert!(live.up.is_empty());
    }
}

#[test]
fn sa_without_overlapping_selectors_is_down_and_terminated() {
    let policy = example();
    let desired = desired_state(&policy);
    let id = tunnel(&desired, BERLIN);
    let net = |text: &str| vec![TrafficSelector::Net(text.parse().unwrap())];
    let with = |server: &str, lan: &str| {
        let mut sa = sa(BERLIN, "berlin.acme.example", id.get());
        sa.children[0].local_ts = net(server);
        sa.children[0].remote_ts = net(lan);
        follow(&desired.tunnels, &[sa])
    };
    // A site may ask for narrower selectors, and an older policy may have allowed wider ones.
    assert!(with("10.200.0.11/32", "192.168.7.0/24").up.contains(&id));
    assert!(with("10.200.0.11/32", "192.0.0.0/8").up.contains(&id));
    for (server, lan) in [("10.200.0.99/32", "192.168.0.0/16"), ("10.200.0.11/32", "10.99.0.0/16")] {
        let live = with(server, lan);
        assert!(live.up.is_empty() && live.strangers.is_empty() && live.stale.len() == 1);
        let (observed, charon) = settled(&desired, live);
        let actions = plan(&desired, &observed, Some(&charon));
        assert!(matches!(actions[..], [Action::Terminate { unique_id: 7, .. }]), "{actions:?}");
    }
}

#[test]
fn identities_are_compared_without_case_as_strongswan_does() {
    let policy = example();
    let desired = desired_state(&policy);
    let id = tunnel(&desired, BERLIN);
    let live = follow(&desired.tunnels, &[sa(BERLIN, "Berlin.Acme.example", id.get())]);
    assert!(live.up.contains(&id) && live.strangers.is_empty());
}

#[test]
fn an_sa_without_the_tunnels_marks_is_a_stranger() {
    let policy = example();
    let desired = desired_state(&policy);
    let id = tunnel(&desired, BERLIN);
    let mut unmarked = sa(BERLIN, "berlin.acme.example", id.get());
    unmarked.children[0].mark_in = 0;
    let live = follow(&desired.tunnels, &[unmarked]);
    assert!(live.up.is_empty());
    assert_eq!(live.strangers.len(), 1);
}

#[test]
fn an_ike_sa_that_is_not_authenticated_yet_is_neither_up_nor_a_stranger() {
    let policy = example();
    let desired = desired_state(&policy);
    let id = tunnel(&desired, BERLIN);
    let mut early = sa(BERLIN, "berlin.acme.example", id.get());
    early.state = IkeState::Connecting;
    assert_eq!(follow(&desired.tunnels, &[early]), Live::default());
}

#[test]
fn tunnel_stays_up_with_both_spis_during_a_rekey() {
    let policy = example();
    let desired = desired_state(&policy);
    let id = tunnel(&desired, BERLIN);
    let mut rekeyed = sa(BERLIN, "berlin.acme.example", id.get());
    let new =
        ChildSa { spi_in: Some(0xc0de_0002), spi_out: Some(0xbeef_0002), ..rekeyed.children[0].clone() };
    rekeyed.children[0].state = ChildState::Rekeyed;
    rekeyed.children.push(new);
    let live = follow(&desired.tunnels, &[rekeyed]);
    assert_eq!(live.up.len(), 1);
    assert_eq!(live.inbound.len(), 2);
    assert_eq!(live.outbound.len(), 2);
}

#[test]
fn outbound_spi_shared_by_two_tunnels_identifies_neither() {
    let policy = example();
    let desired = desired_state(&policy);
    let (berlin, munich) = (tunnel(&desired, BERLIN), tunnel(&desired, "acme.munich"));
    // Two peers behind one NAT have the same outer address, and by chance the same SPI.
    let mut other = sa("acme.munich", "munich.acme.example", munich.get());
    other.children[0].spi_in = Some(0xc0de_0009);
    let live = follow(&desired.tunnels, &[sa(BERLIN, "berlin.acme.example", berlin.get()), other]);
    assert_eq!(live.up.len(), 2);
    assert_eq!(live.outbound, BTreeMap::new());
    assert_eq!(live.inbound.len(), 2);
}

#[test]
fn a_stranger_is_terminated() {
    let policy = example();
    let desired = desired_state(&policy);
    let id = tunnel(&desired, BERLIN);
    let live = follow(&desired.tunnels, &[sa(BERLIN, "munich.acme.example", id.get())]);
    let (observed, charon) = settled(&desired, live);
    let actions = plan(&desired, &observed, Some(&charon));
    assert!(matches!(actions[..], [Action::Terminate { unique_id: 7, .. }]), "{actions:?}");
}

#[test]
fn peers_are_outer_addresses_of_authenticated_sites_and_stay_without_charon() {
    let policy = example();
    let desired = desired_state(&policy);
    let id = tunnel(&desired, BERLIN);
    let at = |address: &str, name: &str, identity: &str, unique_id| {
        let mut sa = sa(name, identity, id.get());
        (sa.remote_host, sa.unique_id) = (address.parse().unwrap(), unique_id);
        sa
    };
    let mut connecting = at("198.51.100.9", BERLIN, "berlin.acme.example", 4);
    connecting.state = IkeState::Connecting;
    let sas = [
        at("198.51.100.5", BERLIN, "berlin.acme.example", 1),
        at("198.51.100.6", BERLIN, "berlin.acme.example", 2),
        at("2001:db8::7", BERLIN, "Berlin.acme.example", 3),
        connecting,
        at("198.51.100.8", BERLIN, "munich.acme.example", 5),
        at("198.51.100.8", "somebody", "berlin.acme.example", 6),
    ];
    let live = follow(&desired.tunnels, &sas);
    // The site's two newest: the map has room for two peers a tunnel.
    let mapped = |text: &str| Ipv6::from(text.parse::<IpAddr>().unwrap());
    assert_eq!(live.peers, BTreeSet::from([mapped("198.51.100.6"), mapped("2001:db8::7")]));

    let (observed, charon) = settled(&desired, live.clone());
    assert_eq!(observed.peers, live.peers);
    assert_eq!(plan(&desired, &observed, None), [], "charon is away");
    let gone = Charon { live: Live::default(), ..charon };
    let mut actions = plan(&desired, &observed, Some(&gone));
    actions.retain(|action| matches!(action, Action::AddPeer(_) | Action::RemovePeer(_)));
    let removed: Vec<_> = live.peers.iter().copied().map(Action::RemovePeer).collect();
    assert_eq!(actions, removed);
}

#[test]
fn mss_is_the_worst_case_until_the_sa_is_known() {
    let policy = example();
    let desired = desired_state(&policy);
    let id = tunnel(&desired, BERLIN);
    let (down, _) = settled(&desired, Live::default());
    assert_eq!((down.tunnels[&id].v4.mss, down.tunnels[&id].v6.mss), (1350, 1330));

    let mut sas = vec![sa(BERLIN, "berlin.acme.example", id.get())];
    sas[0].children[0].algorithms.encryption = Some("AES_GCM_16".into());
    let live = follow(&desired.tunnels, &sas);
    let mss_of = |sas: &[IkeSa], learnt: &[(IpAddr, u32)]| {
        mss_of_sas(&desired.tunnels, sas, &learnt.iter().copied().collect())
    };
    let mut charon = Charon { live, mss: mss_of(&sas, &[]), ..Charon::default() };
    let (up, settled) = applied(&plan(&desired, &down, Some(&charon)), down, charon.clone());
    assert_eq!((up.tunnels[&id].v4.mss, up.tunnels[&id].v6.mss), (1406, 1386));
    assert_eq!(plan(&desired, &up, None), [], "the MSS stays while charon is away");

    // A smaller interface MTU limits it: 1300 - 20 - 8 - 8 - 16 = 1248, - 2 - 40.
    let mut narrow = desired.clone();
    narrow.tunnels.get_mut(&id).unwrap().mtus.path = 1300;
    let actions = plan(&narrow, &up, None);
    let [Action::SetTunnel(_, entry)] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!((entry.up, entry.v4.mss, entry.v6.mss), (1, 1206, 1186));

    // The kernel learns a smaller path MTU: 1400 - 52 = 1348, - 2 - 40.
    let peer = sas[0].remote_host;
    charon = Charon { mss: mss_of(&sas, &[(peer, 1400)]), ..settled };
    let actions = plan(&desired, &up, Some(&charon));
    let [Action::SetTunnel(changed, entry)] = &actions[..] else { panic!("{actions:?}") };
    let mut before = up.tunnels[&id];
    assert_eq!((*changed, entry.v4.mss, entry.v6.mss), (id, 1306, 1286));
    (before.v4.mss, before.v6.mss) = (1306, 1286);
    assert_eq!(**entry, before);

    // A forged message may have lowered it further before the programs ran: it counts as the least allowed.
    for learnt in [0, 552, 1399] {
        assert_eq!(mss_of(&sas, &[(peer, learnt)]), mss_of(&sas, &[(peer, 1400)]), "{learnt}");
    }

    // During a rekey, the cipher with the larger overhead counts.
    let mut new = sas[0].children[0].clone();
    new.algorithms.encryption = None;
    sas[0].children.push(new);
    assert_eq!(mss_of(&sas, &[]), BTreeMap::from([(id, Mss { v4: 1382, v6: 1362 })]));
    // A stranger's SA does not count.
    sas[0].remote_id = "munich.acme.example".into();
    assert_eq!(mss_of(&sas, &[]), BTreeMap::new());
}

#[test]
fn path_mtu_of_the_policy_limits_the_mtu_of_the_interface() {
    let mut policy = example();
    let berlin = &mut policy.customers.get_mut(&"acme".parse().unwrap()).unwrap().sites[0];
    berlin.path_mtu = Some(1400);
    let desired = desired_state(&policy);
    let id = tunnel(&desired, BERLIN);
    assert_eq!(desired.tunnels[&id].mtus, Mtus { path: 1400, lan: 1500 });
    let munich = tunnel(&desired, "acme.munich");
    assert_eq!(desired.tunnels[&munich].mtus, Mtus { path: 1500, lan: 1500 });
}

#[test]
fn missing_tunnel_counts_as_lost_unless_a_stranger_keeps_it_down() {
    let policy = example();
    let desired = desired_state(&policy);
    let id = tunnel(&desired, BERLIN);
    let listed = |sas: &[IkeSa]| follow(&desired.tunnels, sas);
    let whole = sa(BERLIN, "berlin.acme.example", id.get());
    // charon lists this while the CHILD_SA moves to a new IKE_SA.
    let moved = IkeSa { state: IkeState::Rekeyed, children: vec![], ..whole.clone() };
    assert!(listed(std::slice::from_ref(&moved)).lost_any([id]));
    assert!(!listed(&[moved, whole.clone()]).lost_any([id]));
    assert!(!listed(&[]).lost_any([]));
    let stranger = sa("initech.austin", "austin.initech.example", id.get());
    assert!(!listed(&[whole, stranger]).lost_any([id]));
}
