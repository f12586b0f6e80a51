//! The control path as values: no kernel, no charon.
use std::{collections::BTreeMap, fs, net::Ipv4Addr, path::PathBuf};

use gateway_common::{
    ids::TunnelId,
    layout::{Customer, OutboundSpi, Settings, Tunnel},
};
use proptest::prelude::*;

use super::{
    desired::{Credentials, Desired, desired},
    follow::{Live, follow},
    observed::Observed,
    plan::{Action, Charon, plan},
};
use crate::{
    kernel::interface::Interface,
    policy::{self, Policy},
    registry::{Assignment, Registry},
    strongswan::{Algorithms, ChildSa, ChildState, IkeSa, IkeState, TrafficSelector},
};

const BERLIN: &str = "acme.berlin";

/// The example policy of the repository.
fn example() -> Policy {
    policy::load(&PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../policies"))
        .expect("the example is valid")
}

/// With ids as on the first start.
fn wanted(policy: &Policy) -> Desired {
    let state = tempfile::tempdir().expect("a folder");
    wanted_with(policy, &Registry::open(state.path().join("ids.toml")).unwrap().assign(policy).unwrap())
}

fn wanted_with(policy: &Policy, ids: &Assignment) -> Desired {
    let interface = |name: &str, index, address: [u8; 4]| Interface {
        name: name.into(),
        index,
        addresses: vec![Ipv4Addr::from(address)],
    };
    let credentials = Credentials {
        certificate: b"certificate".into(),
        private_key: b"key".into(),
        authority: b"ca".into(),
    };
    let (internet, lan) =
        (interface("eth_internet", 2, [203, 0, 113, 1]), interface("eth_lan", 3, [10, 200, 0, 1]));
    desired(policy, ids, &internet, &lan, &credentials).unwrap()
}

fn nothing() -> Observed {
    Observed {
        settings: Settings { ready: 0, ..wanted(&example()).settings },
        tunnels: BTreeMap::new(),
        customers: BTreeMap::new(),
        inbound: BTreeMap::new(),
        outbound: BTreeMap::new(),
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
            Action::SetTunnel(id, tunnel) => drop(observed.tunnels.insert(id, tunnel)),
            Action::SetInboundSpi(spi, None) => drop(observed.inbound.remove(&spi)),
            Action::SetInboundSpi(spi, Some(id)) => drop(observed.inbound.insert(spi, id.get())),
            Action::SetOutboundSpi(spi, None) => drop(observed.outbound.remove(&spi)),
            Action::SetOutboundSpi(spi, Some(id)) => drop(observed.outbound.insert(spi, id.get())),
            Action::SetCustomer(server, customer) => drop(observed.customers.insert(server, customer)),
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
    *desired.tunnels.iter().find(|(_, t)| t.connection == connection).expect("the example has it").0
}

#[test]
fn nothing_is_left_to_do_after_a_plan_was_applied() {
    let desired = wanted(&example());
    let (observed, charon) = settled(&desired, Live::default());
    assert_eq!(plan(&desired, &observed, Some(&charon)), []);
    assert_eq!(plan(&desired, &observed, None), []);
    assert_eq!(observed.tunnels.len(), 4);
    assert_eq!(charon.loaded.len(), 4);
}

#[test]
fn a_tunnel_is_up_only_with_its_sites_identity() {
    let desired = wanted(&example());
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
    let desired = wanted(&example());
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
fn a_moved_lan_makes_the_sites_sa_anew_and_no_other() {
    let mut policy = example();
    let (observed, mut charon) = settled(&wanted(&policy), Live::default());
    charon.ike_sas = vec![(7, BERLIN.into()), (8, "acme.munich".into()), (9, "globex.springfield".into())];
    let acme = policy.customers.get_mut(&"acme".parse().unwrap()).unwrap();
    let mut terminated = |lan: &str| -> Vec<u32> {
        acme.sites[0].lan = vec![lan.parse().unwrap()];
        let mut policy = example();
        policy.customers.insert(acme.name.clone(), acme.clone());
        let actions = plan(&wanted(&policy), &observed, Some(&charon));
        let ids = actions.iter().filter_map(|action| match action {
            Action::Terminate { unique_id, .. } => Some(*unique_id),
            _ => None,
        });
        ids.collect()
    };
    // What it has no selectors for, and not what it merely has too many for.
    assert_eq!(terminated("172.16.0.0/12"), [7]);
    assert!(terminated("192.168.0.0/17").is_empty());
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
    let desired = wanted(&example());
    let id = tunnel(&desired, BERLIN);
    let live = follow(&desired.tunnels, &[sa(BERLIN, "Berlin.Acme.example", id.get())]);
    assert!(live.up.contains(&id) && live.strangers.is_empty());
}

#[test]
fn an_sa_without_the_tunnels_marks_is_a_stranger() {
    let desired = wanted(&example());
    let id = tunnel(&desired, BERLIN);
    let mut unmarked = sa(BERLIN, "berlin.acme.example", id.get());
    unmarked.children[0].mark_in = 0;
    let live = follow(&desired.tunnels, &[unmarked]);
    assert!(live.up.is_empty());
    assert_eq!(live.strangers.len(), 1);
}

#[test]
fn an_ike_sa_that_is_not_authenticated_yet_is_neither_up_nor_a_stranger() {
    let desired = wanted(&example());
    let id = tunnel(&desired, BERLIN);
    let mut early = sa(BERLIN, "berlin.acme.example", id.get());
    early.state = IkeState::Connecting;
    assert_eq!(follow(&desired.tunnels, &[early]), Live::default());
}

#[test]
fn during_a_rekey_both_spis_are_the_tunnels_and_it_stays_up() {
    let desired = wanted(&example());
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
    let desired = wanted(&example());
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
    let desired = wanted(&example());
    let id = tunnel(&desired, BERLIN);
    let live = follow(&desired.tunnels, &[sa(BERLIN, "munich.acme.example", id.get())]);
    let (observed, charon) = settled(&desired, live);
    let actions = plan(&desired, &observed, Some(&charon));
    assert!(matches!(actions[..], [Action::Terminate { unique_id: 7, .. }]), "{actions:?}");
}

#[test]
fn without_charon_tunnels_stay_as_they_are() {
    let desired = wanted(&example());
    let id = tunnel(&desired, BERLIN);
    let live = follow(&desired.tunnels, &[sa(BERLIN, "berlin.acme.example", id.get())]);
    let (observed, _) = settled(&desired, live);
    assert_eq!(observed.tunnels[&id].up, 1);
    assert_eq!(plan(&desired, &observed, None), []);
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
            Action::SetTunnel(id, tunnel) => id.get() > 2 && tunnel.generation == 1,
            Action::SetCustomer(server, _) => *server == Ipv4Addr::new(10, 200, 0, 11),
            Action::Load(connection) => connection.name.starts_with("acme."),
            _ => false,
        };
        assert!(is_acmes, "{action}");
    }
    assert_eq!(actions.len(), 2 + 1 + 2);
}

#[test]
fn a_change_of_policy_bumps_the_generation_of_that_customer_alone() {
    let mut policy = example();
    let (observed, charon) = settled(&wanted(&policy), Live::default());
    policy.customers.get_mut(&"acme".parse().unwrap()).unwrap().port = 8080;
    let actions = plan(&wanted(&policy), &observed, Some(&charon));
    let generations = |actions: &[Action]| -> Vec<(u32, u32)> {
        let tunnels = actions.iter().filter_map(|action| match action {
            Action::SetTunnel(_, tunnel) => Some((tunnel.customer, tunnel.generation)),
            Action::SetCustomer(_, customer) => Some((customer.id, customer.generation)),
            _ => None,
        });
        tunnels.collect()
    };
    assert_eq!(generations(&actions), [(1, 2), (1, 2), (1, 2)]);
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
    let tunnel = (1u32..20, 0u32..5, 0u8..2, any::<u32>(), any::<u16>());
    let customer = (0u8..20, 1u32..5, any::<u32>(), any::<u16>());
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
                .map(|(last, id, generation, port)| {
                    (Ipv4Addr::new(10, 200, 0, last), Customer { id, generation, port, _reserved: 0 })
                })
                .collect(),
            inbound: inbound.into_iter().collect(),
            outbound: outbound
                .into_iter()
                .map(|(spi, id)| (OutboundSpi { peer: Ipv4Addr::new(198, 51, 100, 5).into(), spi }, id))
                .collect(),
            ..nothing()
        })
}

proptest! {
    #[test]
    fn any_state_settles_with_one_plan(observed in any_observed(), up in any::<bool>()) {
        let desired = wanted(&example());
        let id = tunnel(&desired, BERLIN);
        let sas = if up { vec![sa(BERLIN, "berlin.acme.example", id.get())] } else { vec![] };
        let charon = Charon { live: follow(&desired.tunnels, &sas), ..Charon::default() };
        let (observed, charon) = applied(&plan(&desired, &observed, Some(&charon)), observed, charon);
        prop_assert_eq!(plan(&desired, &observed, Some(&charon)), []);
        for (id, tunnel) in &observed.tunnels {
            prop_assert_eq!(tunnel.up == 1, charon.live.up.contains(id));
            let customer = observed.customers.values().find(|c| c.id == tunnel.customer);
            prop_assert_eq!(customer.map(|c| c.generation), Some(tunnel.generation));
        }
    }

    /// What was allowed under an older policy must be decided again, whatever the maps said before.
    #[test]
    fn generations_never_go_back(observed in any_observed()) {
        let desired = wanted(&example());
        let newest = |o: &Observed, id: u32| {
            let tunnels = o.tunnels.values().filter(|t| t.customer == id).map(|t| t.generation);
            tunnels.chain(o.customers.values().filter(|c| c.id == id).map(|c| c.generation)).max()
        };
        let (after, _) = applied(&plan(&desired, &observed, None), observed.clone(), Charon::default());
        for customer in desired.customers.values() {
            let (before, after) = (newest(&observed, customer.id), newest(&after, customer.id));
            prop_assert!(before.is_none_or(|before| before == u32::MAX || after > Some(before)));
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
