//! Tests of plans, and that no action is left after a plan was applied.
use super::*;

#[test]
fn no_action_is_left_after_a_plan_was_applied() {
    let policy = example();
    let desired = desired_state(&policy);
    let (observed, charon) = settled(&desired, Live::default());
    assert_eq!(plan(&desired, &observed, Some(&charon)), []);
    assert_eq!(plan(&desired, &observed, None), []);
    assert_eq!(observed.tunnels.len(), 5);
    assert_eq!(charon.loaded.len(), 5);
}

#[test]
fn sa_of_a_removed_site_is_terminated_even_if_its_connection_is_unloaded() {
    let mut policy = example();
    let (observed, mut charon) = settled(&desired_state(&policy), Live::default());
    policy.customers.remove(&"globex".parse().unwrap());
    charon.ike_sas = vec![(9, "globex.springfield".into())];
    charon.listed.retain(|name| name != "globex.springfield");
    let actions = plan(&desired_state(&policy), &observed, Some(&charon));
    assert!(actions.iter().any(|action| matches!(action, Action::Terminate { unique_id: 9, .. })));
}

#[test]
fn without_charon_tunnels_stay_as_they_are() {
    let policy = example();
    let desired = desired_state(&policy);
    let id = tunnel(&desired, BERLIN);
    let live = follow(&desired.tunnels, &[sa(BERLIN, "berlin.acme.example", id.get())]);
    let (observed, _) = settled(&desired, live);
    assert_eq!(observed.tunnels[&id].up, 1);
    assert_eq!(plan(&desired, &observed, None), []);
}

#[test]
fn dependent_fields_change_while_the_tunnel_is_down() {
    let mut policy = example();
    let id = tunnel(&desired_state(&policy), BERLIN);
    let live = follow(&desired_state(&policy).tunnels, &[sa(BERLIN, "berlin.acme.example", id.get())]);
    let (observed, charon) = settled(&desired_state(&policy), live);
    let steps = |desired: &Desired, observed: &Observed| -> Vec<Tunnel> {
        let actions = plan(desired, observed, Some(&charon));
        actions
            .into_iter()
            .filter_map(|action| match action {
                Action::SetTunnel(changed, tunnel) if changed == id => Some(*tunnel),
                _ => None,
            })
            .collect()
    };
    let old = observed.tunnels[&id];
    let acme = policy.customers.get_mut(&"acme".parse().unwrap()).unwrap();
    acme.quota.max_flows = Some(7);
    let quota = layout::Quota { flows: 7, ..acme.quota.resolve(&policy.gateway.limits) };
    assert_eq!(
        steps(&desired_state(&policy), &observed),
        [Tunnel { quota, ..old }],
        "a quota changes in one step"
    );
    let mut rekeyed = observed.clone();
    let reqid = Reqid::new(id.get()).unwrap();
    let now = observed.bindings[&reqid];
    rekeyed.bindings.get_mut(&reqid).unwrap().inbound_spis = [9, 8];
    assert_eq!(
        plan(&desired_state(&example()), &rekeyed, Some(&charon)),
        [Action::SetBinding(reqid, now)],
        "SPIs change in one step: a rekey drops nothing"
    );

    let mut policy = example();
    policy.customers.get_mut(&"acme".parse().unwrap()).unwrap().port = 8080;
    let new = Tunnel { port: 8080, generation: old.generation.wrapping_add(1), ..old };
    let down = |tunnel: Tunnel| Tunnel { up: 0, ..tunnel };
    assert_eq!(steps(&desired_state(&policy), &observed), [down(old), down(new), new]);
    // A new tunnel, and a removed one.
    let mut without = observed.clone();
    without.tunnels.remove(&id);
    let policy = example();
    let mut desired = desired_state(&policy);
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
        settled(&desired_with(&policy, &registry.assign(&policy).unwrap()), Live::default());
    policy.customers.insert(acme.name.clone(), acme);
    let after = desired_with(&policy, &registry.assign(&policy).unwrap());
    let actions = plan(&after, &observed, Some(&charon));
    for action in &actions {
        let is_acmes = match action {
            Action::SetBinding(_, binding) => binding.site > 3,
            Action::SetTunnel(id, _) => id.get() > 3,
            Action::SetCustomer(server, _) => ACME_SERVERS.contains(server),
            Action::Load(connection) => connection.name.starts_with("acme."),
            _ => false,
        };
        assert!(is_acmes, "{action}");
    }
    assert_eq!(actions.len(), 2 + 2 + 2 + 2);
}

/// Returns the entries of the maps under the keys of `desired`.
fn observed_of(desired: &Desired, observed: &Observed) -> Observed {
    let mut some = observed.clone();
    some.bindings
        .retain(|reqid, _| TunnelId::new(reqid.get()).is_some_and(|id| desired.tunnels.contains_key(&id)));
    some.tunnels.retain(|id, _| desired.tunnels.contains_key(id));
    some.customers.retain(|server, _| desired.customers.contains_key(server));
    some
}

#[test]
fn plan_for_changed_customers_equals_the_plan_for_all() {
    let state = tempfile::tempdir().unwrap();
    let mut registry = Registry::open(state.path().join("ids.toml")).unwrap();
    let mut old = example();
    let acme = old.customers.remove(&"acme".parse().unwrap()).unwrap();
    let (observed, _) = settled(&desired_with(&old, &registry.assign(&old).unwrap()), Live::default());
    let mut new = old.clone();
    new.customers.insert(acme.name.clone(), acme);
    new.customers.get_mut(&"globex".parse().unwrap()).unwrap().port = 8080;
    let ids = registry.assign(&new).unwrap();
    let changed = new.changes(&old).unwrap();
    assert_eq!(changed.iter().map(|customer| customer.name.as_str()).collect::<Vec<_>>(), ["acme", "globex"]);
    let some = desired_for(&new, &changed, &ids);
    let actions = plan_some(&some, &observed_of(&some, &observed)).unwrap();
    assert_eq!(actions, plan(&desired_with(&new, &ids), &observed, None));
    assert!(old.changes(&old).unwrap().is_empty());
}

#[test]
fn no_partial_plan_if_an_entry_is_taken_or_removed() {
    let old = example();
    let (observed, _) = settled(&desired_state(&old), Live::default());
    let [acme, globex] = ["acme", "globex"].map(|name| name.parse().unwrap());
    let mut moved = old.clone();
    let server = moved.customers[&acme].server;
    moved.customers.get_mut(&acme).unwrap().server = [IpAddr::from([10, 200, 0, 99])].into_iter().collect();
    moved.customers.get_mut(&globex).unwrap().server = server;
    let state = tempfile::tempdir().unwrap();
    let ids = Registry::open(state.path().join("ids.toml")).unwrap().assign(&moved).unwrap();
    let some = desired_for(&moved, &moved.changes(&old).unwrap(), &ids);
    assert_eq!(plan_some(&some, &observed_of(&some, &observed)), None);

    let mut fewer = old.clone();
    fewer.customers.get_mut(&acme).unwrap().sites.pop();
    assert_eq!(fewer.changes(&old), None);
    fewer.customers.remove(&acme);
    assert_eq!(fewer.changes(&old), None);
}

#[test]
fn a_removed_site_is_unloaded_and_its_sa_terminated() {
    let mut policy = example();
    let (observed, mut charon) = settled(&desired_state(&policy), Live::default());
    charon.ike_sas = vec![(7, "acme.munich".into()), (8, BERLIN.into()), (9, "somebody-elses".into())];
    let acme = policy.customers.get_mut(&"acme".parse().unwrap()).unwrap();
    acme.sites.retain(|site| site.name.as_str() == "berlin");
    let actions = plan(&desired_state(&policy), &observed, Some(&charon));
    assert!(actions.contains(&Action::Unload("acme.munich".into())));
    let terminated: Vec<_> =
        actions.iter().filter(|a| matches!(a, Action::Terminate { unique_id: 7, .. })).collect();
    assert_eq!(terminated.len(), 1);
    assert!(!actions.iter().any(|a| matches!(a, Action::Terminate { unique_id: 8 | 9, .. })));
    let gone = actions.iter().filter(|a| matches!(a, Action::SetTunnel(_, t) if t.customer == 0)).count();
    assert_eq!(gone, 1);
}

/// Generates contents of the maps as left by a crash at any moment or by another version of the policy.
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
            ..empty()
        })
}

proptest! {
    #[test]
    fn any_state_settles_with_one_plan(observed in any_observed(), up in any::<bool>()) {
        let policy = example();
        let desired = desired_state(&policy);
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

    /// Flows opened for another service become invalid, whatever the maps held before.
    #[test]
    fn a_generation_in_the_maps_is_kept_for_the_same_service_only(observed in any_observed()) {
        let policy = example();
        let desired = desired_state(&policy);
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
