//! The control path as values: no kernel, no charon.
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
};

use gateway_common::{
    ids::TunnelId,
    layout::{self, Customer, OutboundSpi, Prefix, Settings, Tunnel},
    wire::{Ipv4, Ipv6},
};
use proptest::prelude::*;

use super::{
    desired::{Credentials, Desired, Links, desired, desired_of},
    follow::{Live, follow},
    mss::{self, Mss, Mtus},
    observed::Observed,
    plan::{Action, Charon, plan, plan_some},
};
use crate::{
    kernel::interface::Interface,
    policy::{self, Policy},
    registry::{Assignment, Registry},
    strongswan::{Algorithms, ChildSa, ChildState, IkeSa, IkeState, TrafficSelector},
};

const ACME_SERVERS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(10, 200, 0, 11)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x200, 0, 0, 0, 0, 0, 0x11)),
];
const BERLIN: &str = "acme.berlin";

/// The example policy of the repository.
fn example() -> Policy {
    policy::load(&PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../policies"))
        .expect("the example is valid")
}

/// With ids as on the first start.
fn wanted(policy: &Policy) -> Desired<'_> {
    let state = tempfile::tempdir().expect("a folder");
    wanted_with(policy, &Registry::open(state.path().join("ids.toml")).unwrap().assign(policy).unwrap())
}

fn interface(name: &str, index: u32, v4: [u8; 4]) -> Interface {
    let link_local = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
    Interface { name: name.into(), index, mtu: 1500, v4: vec![v4.into()], v6: vec![link_local] }
}

fn wanted_with<'p>(policy: &'p Policy, ids: &Assignment) -> Desired<'p> {
    wanted_of(policy, &policy.customers.values().collect::<Vec<_>>(), ids)
}

fn wanted_of<'p>(policy: &Policy, customers: &[&'p policy::Customer], ids: &Assignment) -> Desired<'p> {
    let (internet, lan) =
        (interface("eth_internet", 2, [203, 0, 113, 1]), interface("eth_lan", 3, [10, 200, 0, 1]));
    let credentials = Credentials {
        certificate: (*b"certificate").into(),
        private_key: b"key".into(),
        authority: (*b"ca").into(),
    };
    let links = Links { internet: &internet, lan: &lan, xdp: true };
    desired_of(policy, customers.iter().copied(), ids, links, &credentials).unwrap()
}

fn nothing() -> Observed {
    Observed {
        settings: Settings { ready: 0, ..wanted(&example()).settings },
        tunnels: BTreeMap::new(),
        customers: BTreeMap::new(),
        inbound: BTreeMap::new(),
        outbound: BTreeMap::new(),
        peers: BTreeSet::new(),
    }
}

/// What the maps and charon hold after these actions: what `apply` does, on values.
fn applied(actions: &[Action], mut observed: Observed, mut charon: Charon) -> (Observed, Charon) {
    for action in actions.iter().cloned() {
        match action {
            Action::Unload(name) => {
                charon.listed.retain(|listed| *listed != name);
                charon.loaded.remove(&name);
            }
            Action::Terminate { unique_id, .. } => charon.ike_sas.retain(|(id, _)| *id != unique_id),
            Action::RemoveCustomer(server) => drop(observed.customers.remove(&server)),
            Action::SetTunnel(id, tunnel) if tunnel.customer == 0 => drop(observed.tunnels.remove(&id)),
            Action::SetTunnel(id, tunnel) => drop(observed.tunnels.insert(id, *tunnel)),
            Action::SetInboundSpi(spi, None) => drop(observed.inbound.remove(&spi)),
            Action::SetInboundSpi(spi, Some(id)) => drop(observed.inbound.insert(spi, id.get())),
            Action::SetOutboundSpi(spi, None) => drop(observed.outbound.remove(&spi)),
            Action::SetOutboundSpi(spi, Some(id)) => drop(observed.outbound.insert(spi, id.get())),
            Action::SetCustomer(server, customer) => drop(observed.customers.insert(server, customer)),
            Action::RemovePeer(peer) => drop(observed.peers.remove(&peer)),
            // What is there is not written over: it holds budgets.
            Action::AddPeer(peer) => assert!(observed.peers.insert(peer)),
            Action::SetSettings(settings) => observed.settings = *settings,
            Action::Load(connection) => {
                charon.listed.push(connection.name.clone());
                charon.loaded.insert(connection.name.clone(), *connection);
            }
        }
    }
    (observed, charon)
}

/// A gateway on which the policy has been applied, with these tunnels up.
fn settled(desired: &Desired, live: Live) -> (Observed, Charon) {
    let charon = Charon { live, ..Charon::default() };
    applied(&plan(desired, &nothing(), Some(&charon)), nothing(), charon)
}

fn sa(name: &str, identity: &str, reqid: u32) -> IkeSa {
    let algorithms = Algorithms::default;
    IkeSa {
        name: name.into(),
        unique_id: 7,
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
        algorithms: algorithms(),
        established: None,
        children: vec![ChildSa {
            name: name.into(),
            unique_id: 9,
            reqid,
            state: ChildState::Installed,
            spi_in: Some(0xc0de_0001),
            spi_out: Some(0xbeef_0001),
            mark_in: reqid,
            mark_out: reqid,
            encap: false,
            algorithms: algorithms(),
            bytes_in: 0,
            packets_in: 0,
            bytes_out: 0,
            packets_out: 0,
            local_ts: vec![],
            remote_ts: vec![],
        }],
    }
}

fn tunnel(desired: &Desired, connection: &str) -> TunnelId {
    *desired.tunnels.iter().find(|(_, t)| t.connection() == connection).expect("the example has it").0
}

#[test]
fn nothing_is_left_to_do_after_a_plan_was_applied() {
    let policy = example();
    let desired = wanted(&policy);
    let (observed, charon) = settled(&desired, Live::default());
    assert_eq!(plan(&desired, &observed, Some(&charon)), []);
    assert_eq!(plan(&desired, &observed, None), []);
    assert_eq!(observed.tunnels.len(), 5);
    assert_eq!(charon.loaded.len(), 5);
}

#[test]
fn a_tunnel_is_up_only_with_its_sites_identity() {
    let policy = example();
    let desired = wanted(&policy);
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
        // Even beside the right one.
        let live = follow(&desired.tunnels, &[sa(BERLIN, "berlin.acme.example", id.get()), stranger]);
        assert!(live.up.is_empty());
    }
}

#[test]
fn an_sa_that_selects_nothing_of_the_policy_is_not_up_and_is_made_anew() {
    let policy = example();
    let desired = wanted(&policy);
    let id = tunnel(&desired, BERLIN);
    let net = |text: &str| vec![TrafficSelector::Net(text.parse().unwrap())];
    let with = |server: &str, lan: &str| {
        let mut sa = sa(BERLIN, "berlin.acme.example", id.get());
        sa.children[0].local_ts = net(server);
        sa.children[0].remote_ts = net(lan);
        follow(&desired.tunnels, &[sa])
    };
    // A site may ask for less, and an older policy may have had more.
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
fn a_removed_sites_sa_is_terminated_even_if_its_connection_is_unloaded_already() {
    let mut policy = example();
    let (observed, mut charon) = settled(&wanted(&policy), Live::default());
    policy.customers.remove(&"globex".parse().unwrap());
    charon.ike_sas = vec![(9, "globex.springfield".into())];
    charon.listed.retain(|name| name != "globex.springfield");
    let actions = plan(&wanted(&policy), &observed, Some(&charon));
    assert!(actions.iter().any(|action| matches!(action, Action::Terminate { unique_id: 9, .. })));
}

#[test]
fn identities_are_compared_without_case_as_strongswan_does() {
    let policy = example();
    let desired = wanted(&policy);
    let id = tunnel(&desired, BERLIN);
    let live = follow(&desired.tunnels, &[sa(BERLIN, "Berlin.Acme.example", id.get())]);
    assert!(live.up.contains(&id) && live.strangers.is_empty());
}

#[test]
fn an_sa_without_the_tunnels_marks_is_a_stranger() {
    let policy = example();
    let desired = wanted(&policy);
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
    let desired = wanted(&policy);
    let id = tunnel(&desired, BERLIN);
    let mut early = sa(BERLIN, "berlin.acme.example", id.get());
    early.state = IkeState::Connecting;
    assert_eq!(follow(&desired.tunnels, &[early]), Live::default());
}

#[test]
fn during_a_rekey_both_spis_are_the_tunnels_and_it_stays_up() {
    let policy = example();
    let desired = wanted(&policy);
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
fn an_outbound_spi_that_two_tunnels_share_names_neither() {
    let policy = example();
    let desired = wanted(&policy);
    let (berlin, munich) = (tunnel(&desired, BERLIN), tunnel(&desired, "acme.munich"));
    // Behind one NAT: same outer address, and by chance the same SPI.
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
    let desired = wanted(&policy);
    let id = tunnel(&desired, BERLIN);
    let live = follow(&desired.tunnels, &[sa(BERLIN, "munich.acme.example", id.get())]);
    let (observed, charon) = settled(&desired, live);
    let actions = plan(&desired, &observed, Some(&charon));
    assert!(matches!(actions[..], [Action::Terminate { unique_id: 7, .. }]), "{actions:?}");
}

#[test]
fn without_charon_tunnels_stay_as_they_are() {
    let policy = example();
    let desired = wanted(&policy);
    let id = tunnel(&desired, BERLIN);
    let live = follow(&desired.tunnels, &[sa(BERLIN, "berlin.acme.example", id.get())]);
    let (observed, _) = settled(&desired, live);
    assert_eq!(observed.tunnels[&id].up, 1);
    assert_eq!(plan(&desired, &observed, None), []);
}

#[test]
fn what_must_fit_together_changes_while_the_tunnel_is_down() {
    let mut policy = example();
    let id = tunnel(&wanted(&policy), BERLIN);
    let live = follow(&wanted(&policy).tunnels, &[sa(BERLIN, "berlin.acme.example", id.get())]);
    let (observed, charon) = settled(&wanted(&policy), live);
    let steps = |desired: &Desired, observed: &Observed| -> Vec<Tunnel> {
        let actions = plan(desired, observed, Some(&charon));
        actions
            .into_iter()
            .filter_map(|action| match action {
                Action::SetTunnel(of, tunnel) if of == id => Some(*tunnel),
                _ => None,
            })
            .collect()
    };
    let old = observed.tunnels[&id];
    let acme = policy.customers.get_mut(&"acme".parse().unwrap()).unwrap();
    acme.quota.max_flows = Some(7);
    let quota = layout::Quota { flows: 7, ..acme.quota.resolve(&policy.gateway.limits) };
    assert_eq!(steps(&wanted(&policy), &observed), [Tunnel { quota, ..old }], "read by itself");
    let mut rekeyed = observed.clone();
    rekeyed.tunnels.get_mut(&id).unwrap().inbound_spis = [9, 8];
    assert_eq!(steps(&wanted(&example()), &rekeyed), [old], "each SPI too: a rekeying drops nothing");

    let mut policy = example();
    policy.customers.get_mut(&"acme".parse().unwrap()).unwrap().port = 8080;
    let new = Tunnel { port: 8080, generation: old.generation.wrapping_add(1), ..old };
    let down = |tunnel: Tunnel| Tunnel { up: 0, ..tunnel };
    assert_eq!(steps(&wanted(&policy), &observed), [down(old), down(new), new]);
    // A tunnel that is new, and one that is gone.
    let mut without = observed.clone();
    without.tunnels.remove(&id);
    let policy = example();
    let mut desired = wanted(&policy);
    assert_eq!(steps(&desired, &without), [down(old), old]);
    desired.tunnels.remove(&id);
    assert_eq!(steps(&desired, &observed), [down(old), Tunnel::default()]);
}

#[test]
fn adding_a_customer_touches_no_other() {
    let state = tempfile::tempdir().unwrap();
    let mut registry = Registry::open(state.path().join("ids.toml")).unwrap();
    let mut policy = example();
    let acme = policy.customers.remove(&"acme".parse().unwrap()).unwrap();
    let (observed, charon) =
        settled(&wanted_with(&policy, &registry.assign(&policy).unwrap()), Live::default());
    policy.customers.insert(acme.name.clone(), acme);
    let after = wanted_with(&policy, &registry.assign(&policy).unwrap());
    let actions = plan(&after, &observed, Some(&charon));
    for action in &actions {
        let is_acmes = match action {
            Action::SetTunnel(id, _) => id.get() > 3,
            Action::SetCustomer(server, _) => ACME_SERVERS.contains(server),
            Action::Load(connection) => connection.name.starts_with("acme."),
            _ => false,
        };
        assert!(is_acmes, "{action}");
    }
    assert_eq!(actions.len(), 2 + 2 + 2);
}

/// What the maps hold where some customers' entries belong.
fn observed_of(desired: &Desired, observed: &Observed) -> Observed {
    let mut some = observed.clone();
    some.tunnels.retain(|id, _| desired.tunnels.contains_key(id));
    some.customers.retain(|server, _| desired.customers.contains_key(server));
    some
}

#[test]
fn a_plan_for_what_changed_does_what_the_plan_for_all_does_to_maps() {
    let state = tempfile::tempdir().unwrap();
    let mut registry = Registry::open(state.path().join("ids.toml")).unwrap();
    let mut old = example();
    let acme = old.customers.remove(&"acme".parse().unwrap()).unwrap();
    let (observed, _) = settled(&wanted_with(&old, &registry.assign(&old).unwrap()), Live::default());
    let mut new = old.clone();
    new.customers.insert(acme.name.clone(), acme);
    new.customers.get_mut(&"globex".parse().unwrap()).unwrap().port = 8080;
    let ids = registry.assign(&new).unwrap();
    let changed = new.changes(&old).unwrap();
    assert_eq!(changed.iter().map(|customer| customer.name.as_str()).collect::<Vec<_>>(), ["acme", "globex"]);
    let some = wanted_of(&new, &changed, &ids);
    let actions = plan_some(&some, &observed_of(&some, &observed)).unwrap();
    assert_eq!(actions, plan(&wanted_with(&new, &ids), &observed, None));
    assert!(old.changes(&old).unwrap().is_empty());
}

#[test]
fn where_anothers_entries_stand_or_something_is_gone_only_the_whole_is_planned() {
    let old = example();
    let (observed, _) = settled(&wanted(&old), Live::default());
    let [acme, globex] = ["acme", "globex"].map(|name| name.parse().unwrap());
    let mut moved = old.clone();
    let server = moved.customers[&acme].server;
    moved.customers.get_mut(&acme).unwrap().server = [IpAddr::from([10, 200, 0, 99])].into_iter().collect();
    moved.customers.get_mut(&globex).unwrap().server = server;
    let state = tempfile::tempdir().unwrap();
    let ids = Registry::open(state.path().join("ids.toml")).unwrap().assign(&moved).unwrap();
    let some = wanted_of(&moved, &moved.changes(&old).unwrap(), &ids);
    assert_eq!(plan_some(&some, &observed_of(&some, &observed)), None);

    let mut fewer = old.clone();
    fewer.customers.get_mut(&acme).unwrap().sites.pop();
    assert_eq!(fewer.changes(&old), None);
    fewer.customers.remove(&acme);
    assert_eq!(fewer.changes(&old), None);
}

/// Generations by tunnel id.
fn generations(observed: &Observed) -> BTreeMap<TunnelId, u16> {
    observed.tunnels.iter().map(|(id, tunnel)| (*id, tunnel.generation)).collect()
}

#[test]
fn a_change_of_server_or_port_makes_another_generation_of_that_customer_alone() {
    type Change = fn(&mut policy::Customer);
    let changes: [Change; 3] = [
        |customer| customer.port = 8080,
        |customer| customer.server.v4 = Some(Ipv4Addr::new(10, 200, 0, 99)),
        |customer| customer.server.v6 = Some("fd00:200::99".parse().unwrap()),
    ];
    for change in changes {
        let mut policy = example();
        let (observed, charon) = settled(&wanted(&policy), Live::default());
        change(policy.customers.get_mut(&"acme".parse().unwrap()).unwrap());
        let desired = wanted(&policy);
        let (after, _) = applied(&plan(&desired, &observed, Some(&charon)), observed.clone(), charon.clone());
        for (id, generation) in generations(&after) {
            let is_acmes = desired.tunnels[&id].customer.name.as_str() == "acme";
            assert_eq!(generation != observed.tunnels[&id].generation, is_acmes, "{id}");
        }
    }
}

#[test]
fn sites_lans_quotas_and_mtus_leave_the_generation_as_it_is() {
    type Change = fn(&mut policy::Customer);
    let changes: [Change; 5] = [
        |customer| customer.quota.max_flows = Some(7),
        |customer| customer.sites[0].lan.push("10.99.0.0/16".parse().unwrap()),
        |customer| customer.sites[0].path_mtu = Some(1280),
        |customer| customer.sites.truncate(1),
        |customer| {
            let site = policy::Site { name: "bonn".parse().unwrap(), ..customer.sites[0].clone() };
            customer.sites.push(site);
        },
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let state = tempfile::tempdir().unwrap();
        let mut registry = Registry::open(state.path().join("ids.toml")).unwrap();
        let mut policy = example();
        let (observed, charon) =
            settled(&wanted_with(&policy, &registry.assign(&policy).unwrap()), Live::default());
        let before = generations(&observed);
        let acme = observed.tunnels.values().find(|t| t.v4.server.octets == [10, 200, 0, 11]).unwrap();
        change(policy.customers.get_mut(&"acme".parse().unwrap()).unwrap());
        let desired = wanted_with(&policy, &registry.assign(&policy).unwrap());
        let actions = plan(&desired, &observed, Some(&charon));
        assert_ne!(actions, [], "change {number} does something");
        for (id, generation) in generations(&applied(&actions, observed.clone(), charon).0) {
            assert_eq!(generation, before.get(&id).copied().unwrap_or(acme.generation), "change {number}");
        }
    }
}

#[test]
fn a_generation_wraps_and_is_never_one_that_is_in_the_maps() {
    let mut policy = example();
    let (mut observed, charon) = settled(&wanted(&policy), Live::default());
    let acmes: Vec<TunnelId> =
        ["acme.berlin", "acme.munich"].map(|name| tunnel(&wanted(&policy), name)).into();
    observed.tunnels.get_mut(&acmes[0]).unwrap().generation = u16::MAX;
    observed.tunnels.get_mut(&acmes[1]).unwrap().generation = 0;
    policy.customers.get_mut(&"acme".parse().unwrap()).unwrap().port = 8080;
    let (after, _) = applied(&plan(&wanted(&policy), &observed, None), observed, charon);
    assert!(acmes.iter().all(|id| after.tunnels[id].generation == 1));
}

#[test]
fn a_customer_that_was_changed_by_half_settles_on_the_new_generation() {
    let mut policy = example();
    let (observed, charon) = settled(&wanted(&policy), Live::default());
    policy.customers.get_mut(&"acme".parse().unwrap()).unwrap().port = 8080;
    let desired = wanted(&policy);
    let acmes = ["acme.berlin", "acme.munich"].map(|name| tunnel(&desired, name));
    let (whole, _) = applied(&plan(&desired, &observed, Some(&charon)), observed.clone(), charon.clone());
    // gatewayd died after the first of two tunnels.
    let mut half = observed;
    half.tunnels.insert(acmes[0], whole.tunnels[&acmes[0]]);
    let (after, _) = applied(&plan(&desired, &half, Some(&charon)), half, charon);
    assert_eq!(generations(&after), generations(&whole));
}

#[test]
fn peers_are_the_outer_addresses_of_authenticated_sites_and_stay_without_charon() {
    let policy = example();
    let desired = wanted(&policy);
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
    // The two newest of the site, as there is room for.
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
fn the_mss_is_the_worst_until_the_sa_is_known_and_changes_nothing_else() {
    let policy = example();
    let desired = wanted(&policy);
    let id = tunnel(&desired, BERLIN);
    let (down, _) = settled(&desired, Live::default());
    assert_eq!((down.tunnels[&id].v4.mss, down.tunnels[&id].v6.mss), (1350, 1330));

    let mut sas = vec![sa(BERLIN, "berlin.acme.example", id.get())];
    sas[0].children[0].algorithms.encryption = Some("AES_GCM_16".into());
    let live = follow(&desired.tunnels, &sas);
    let of = |sas: &[IkeSa], learnt: &[(IpAddr, u32)]| {
        mss::of_sas(&desired.tunnels, sas, &learnt.iter().copied().collect())
    };
    let mut charon = Charon { live, mss: of(&sas, &[]), ..Charon::default() };
    let (up, settled) = applied(&plan(&desired, &down, Some(&charon)), down, charon.clone());
    assert_eq!((up.tunnels[&id].v4.mss, up.tunnels[&id].v6.mss), (1406, 1386));
    assert_eq!(plan(&desired, &up, None), [], "it stays while charon is away");

    // But a narrower interface bounds it: 1300 - 20 - 8 - 8 - 16 = 1248, - 2 - 40.
    let mut narrow = desired.clone();
    narrow.tunnels.get_mut(&id).unwrap().mtus.path = 1300;
    let actions = plan(&narrow, &up, None);
    let [Action::SetTunnel(_, entry)] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!((entry.up, entry.v4.mss, entry.v6.mss), (1, 1206, 1186));

    // The kernel learns that the path is narrower: 1400 - 52 = 1348, - 2 - 40.
    let peer = sas[0].remote_host;
    charon = Charon { mss: of(&sas, &[(peer, 1400)]), ..settled };
    let actions = plan(&desired, &up, Some(&charon));
    let [Action::SetTunnel(changed, entry)] = &actions[..] else { panic!("{actions:?}") };
    let mut before = up.tunnels[&id];
    assert_eq!((*changed, entry.v4.mss, entry.v6.mss), (id, 1306, 1286));
    (before.v4.mss, before.v6.mss) = (1306, 1286);
    assert_eq!(**entry, before);

    // During a rekey to a worse cipher both count.
    let mut new = sas[0].children[0].clone();
    new.algorithms.encryption = None;
    sas[0].children.push(new);
    assert_eq!(of(&sas, &[]), BTreeMap::from([(id, Mss { v4: 1382, v6: 1362 })]));
    // A stranger's SA says nothing.
    sas[0].remote_id = "munich.acme.example".into();
    assert_eq!(of(&sas, &[]), BTreeMap::new());
}

#[test]
fn a_path_mtu_of_the_policy_bounds_what_the_kernel_says() {
    let mut policy = example();
    let berlin = &mut policy.customers.get_mut(&"acme".parse().unwrap()).unwrap().sites[0];
    berlin.path_mtu = Some(1400);
    let desired = wanted(&policy);
    let id = tunnel(&desired, BERLIN);
    assert_eq!(desired.tunnels[&id].mtus, Mtus { path: 1400, lan: 1500 });
    let munich = tunnel(&desired, "acme.munich");
    assert_eq!(desired.tunnels[&munich].mtus, Mtus { path: 1500, lan: 1500 });
}

/// acme with servers and LANs of both families.
fn both_families() -> Policy {
    let mut policy = example();
    let acme = policy.customers.get_mut(&"acme".parse().unwrap()).unwrap();
    acme.server.v6 = Some("fd00:200::11".parse().unwrap());
    acme.sites[0].lan.truncate(1);
    acme.sites[0].lan.push("fd00:1::/64".parse().unwrap());
    policy
}

#[test]
fn a_server_of_both_families_is_a_customer_by_either_address() {
    let policy = both_families();
    let desired = wanted(&policy);
    let ids: Vec<u32> = ["10.200.0.11", "fd00:200::11"]
        .map(|server| desired.customers[&server.parse::<IpAddr>().unwrap()].id)
        .into();
    assert_eq!(ids[0], ids[1]);
    let (berlin, munich) = (tunnel(&desired, BERLIN), tunnel(&desired, "acme.munich"));
    let entry = desired.tunnels[&berlin].entry();
    assert_eq!((entry.v4.prefix_count, entry.v6.prefix_count), (1, 1));
    assert_eq!(entry.v6.server, "fd00:200::11".parse::<Ipv6Addr>().unwrap().into());
    assert_eq!(entry.v6.lan[0], Prefix::new("fd00:1::".parse::<Ipv6Addr>().unwrap().into(), 64));
    // A site without a LAN of a family is allowed nothing in it, and selects nothing of it.
    assert_eq!(desired.tunnels[&munich].entry().v6.prefix_count, 0);
    let nets = |nets: &[&str]| nets.iter().map(|net| net.parse().unwrap()).collect::<Vec<ipnet::IpNet>>();
    let child = |id: TunnelId| {
        let children = desired.connection(id, &desired.tunnels[&id]).children;
        let [child] = &children[..] else { panic!("{children:?}") };
        child.clone()
    };
    assert_eq!(child(munich).local_ts, nets(&["10.200.0.11/32"]));
    let child = child(berlin);
    assert_eq!(child.local_ts, nets(&["10.200.0.11/32", "fd00:200::11/128"]));
    assert_eq!(child.remote_ts, nets(&["192.168.0.0/16", "fd00:1::/64"]));
    assert_eq!((child.reqid, child.mark), (Some(berlin.get()), Some(berlin.get())));
}

#[test]
fn settings_hold_addresses_of_both_families_and_mapped_prefixes() {
    let mut policy = example();
    policy.gateway.midstream = policy::Midstream::Adopt;
    let v6 =
        policy::Management { from: "2001:db8::/32".parse().unwrap(), ..policy.gateway.management[0].clone() };
    policy.gateway.management.push(v6);
    let Settings { internet, lan, lan_mtu, xdp, adopt_midstream, management, management_count, .. } =
        wanted(&policy).settings;
    assert_eq!((lan_mtu, xdp, adopt_midstream, management_count), (1500, 1, 1, 2));
    assert!(internet.have(Ipv4 { octets: [203, 0, 113, 1] }) && !internet.have(Ipv4::default()));
    assert!(lan.have(Ipv6::from("fe80::1".parse::<Ipv6Addr>().unwrap())) && !lan.have(Ipv6::default()));
    let from = |rule: usize, address: &str| {
        management[rule].from.contains(Ipv6::from(address.parse::<IpAddr>().unwrap()))
    };
    assert!(from(0, "198.51.100.7") && !from(0, "198.51.101.7") && !from(0, "::c633:6407"));
    assert!(from(1, "2001:db8:7::1") && !from(1, "2001:db9::1"));
}

#[test]
fn interfaces_without_or_with_too_many_addresses_are_refused() {
    let policy = example();
    let state = tempfile::tempdir().unwrap();
    let ids = Registry::open(state.path().join("ids.toml")).unwrap().assign(&policy).unwrap();
    let credentials =
        Credentials { certificate: (*b"c").into(), private_key: b"k".into(), authority: (*b"a").into() };
    let good = interface("eth_lan", 3, [10, 200, 0, 1]);
    let with = |internet: &Interface| {
        let links = Links { internet, lan: &good, xdp: true };
        desired(&policy, &ids, links, &credentials).map(drop).map_err(|error| error.to_string())
    };
    let mut bad = interface("eth_internet", 2, [203, 0, 113, 1]);
    assert_eq!(with(&bad), Ok(()));
    bad.v4.clear();
    assert!(with(&bad).unwrap_err().contains("no IP address but link-local ones"));
    bad.v6 = (0..9).map(|last| Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last)).collect();
    assert!(with(&bad).unwrap_err().contains("more than 8 IPv6 addresses"));
}

#[test]
fn a_removed_site_is_unloaded_and_its_sa_terminated() {
    let mut policy = example();
    let (observed, mut charon) = settled(&wanted(&policy), Live::default());
    charon.ike_sas = vec![(7, "acme.munich".into()), (8, BERLIN.into()), (9, "somebody-elses".into())];
    let acme = policy.customers.get_mut(&"acme".parse().unwrap()).unwrap();
    acme.sites.retain(|site| site.name.as_str() == "berlin");
    let actions = plan(&wanted(&policy), &observed, Some(&charon));
    assert!(actions.contains(&Action::Unload("acme.munich".into())));
    let terminated: Vec<_> =
        actions.iter().filter(|a| matches!(a, Action::Terminate { unique_id: 7, .. })).collect();
    assert_eq!(terminated.len(), 1);
    assert!(!actions.iter().any(|a| matches!(a, Action::Terminate { unique_id: 8 | 9, .. })));
    let gone = actions.iter().filter(|a| matches!(a, Action::SetTunnel(_, t) if t.customer == 0)).count();
    assert_eq!(gone, 1);
}

/// Something the maps may hold after a crash at any moment, or another version of the policy.
fn any_observed() -> impl Strategy<Value = Observed> {
    let tunnel = (1u32..20, 0u32..5, 0u8..2, any::<u16>(), any::<u16>());
    let customer = (0u8..20, 1u32..5, any::<bool>());
    let spi = (any::<u32>(), 1u32..20);
    (
        prop::collection::vec(tunnel, 0..8),
        prop::collection::vec(customer, 0..5),
        prop::collection::vec(spi.clone(), 0..5),
        prop::collection::vec(spi, 0..5),
    )
        .prop_map(|(tunnels, customers, inbound, outbound)| Observed {
            tunnels: tunnels
                .into_iter()
                .filter(|(_, customer, ..)| *customer != 0)
                .map(|(id, customer, up, generation, port)| {
                    let entry = Tunnel { customer, up, generation, port, ..Tunnel::default() };
                    (TunnelId::new(id).unwrap(), entry)
                })
                .collect(),
            customers: customers
                .into_iter()
                .map(|(last, id, v4)| {
                    let server = if v4 {
                        IpAddr::from([10, 200, 0, last])
                    } else {
                        IpAddr::from([0xfd00, 0x200, 0, 0, 0, 0, 0, u16::from(last)])
                    };
                    (server, Customer { id })
                })
                .collect(),
            inbound: inbound.into_iter().collect(),
            outbound: outbound
                .into_iter()
                .map(|(spi, id)| (OutboundSpi { peer: IpAddr::from([198, 51, 100, 5]).into(), spi }, id))
                .collect(),
            ..nothing()
        })
}

proptest! {
    #[test]
    fn any_state_settles_with_one_plan(observed in any_observed(), up in any::<bool>()) {
        let policy = example();
        let desired = wanted(&policy);
        let id = tunnel(&desired, BERLIN);
        let sas = if up { vec![sa(BERLIN, "berlin.acme.example", id.get())] } else { vec![] };
        let charon = Charon { live: follow(&desired.tunnels, &sas), ..Charon::default() };
        let (observed, charon) = applied(&plan(&desired, &observed, Some(&charon)), observed, charon);
        prop_assert_eq!(plan(&desired, &observed, Some(&charon)), []);
        for (id, tunnel) in &observed.tunnels {
            prop_assert_eq!(tunnel.up == 1, charon.live.up.contains(id));
            let others = observed.tunnels.values().filter(|other| other.customer == tunnel.customer);
            prop_assert!(others.map(|other| other.generation).all(|other| other == tunnel.generation));
        }
    }

    /// What was opened for another service is over, whatever the maps said before.
    #[test]
    fn a_generation_in_the_maps_is_kept_for_the_same_service_only(observed in any_observed()) {
        let policy = example();
        let desired = wanted(&policy);
        let service = |tunnel: &Tunnel| (tunnel.v4.server, tunnel.v6.server, tunnel.port);
        let (after, _) = applied(&plan(&desired, &observed, None), observed.clone(), Charon::default());
        for tunnel in after.tunnels.values() {
            let same = |before: &&Tunnel| {
                before.customer == tunnel.customer && before.generation == tunnel.generation
            };
            let before: Vec<_> = observed.tunnels.values().filter(same).collect();
            prop_assert!(before.iter().all(|before| service(before) == service(tunnel)));
        }
    }
}

#[test]
fn policies_may_be_read_again_from_disk() {
    // The example in a folder of its own, as an operator has it.
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("customers")).unwrap();
    let example = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../policies");
    for file in ["gateway.toml", "customers/acme.toml"] {
        fs::copy(example.join(file), folder.path().join(file)).unwrap();
    }
    assert_eq!(wanted(&policy::load(folder.path()).unwrap()).tunnels.len(), 2);
}
