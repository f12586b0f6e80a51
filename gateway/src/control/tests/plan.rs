//! Tests of plans, and that no action is left after a plan was applied.
use super::*;

#[test]
fn no_action_is_left_after_a_plan_was_applied() {
    let policy = example();
    let desired = desired_state(&policy);
    let observed = settled(&desired, &Live::default());
    assert_eq!(plan_with(&desired, &observed, Some(&Live::default())), []);
    assert_eq!(plan_with(&desired, &observed, None), []);
    assert_eq!(observed.tunnels.len(), 5);
}

#[test]
fn dependent_fields_change_while_the_tunnel_is_down() {
    let mut policy = example();
    let id = tunnel(&desired_state(&policy), BERLIN);
    let live = live(&policy, &[sa(BERLINS_IDENTITY, 7)]);
    let observed = settled(&desired_state(&policy), &live);
    let steps = |desired: &Desired, observed: &Observed| -> Vec<Tunnel> {
        let actions = plan_with(desired, observed, Some(&live));
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
        [Tunnel { quota, share: policy::SiteQuota::default().resolve(&quota, 2), ..old }],
        "a quota changes in one step"
    );
    let mut other = observed.clone();
    other.tunnels.get_mut(&id).unwrap().v4.marks[0] = 9;
    assert_eq!(
        steps(&desired_state(&example()), &other),
        [old],
        "a mark changes in one step: a new CHILD_SA of a prefix drops nothing"
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
    let observed = settled(&desired_with(&policy, &registry.assign(&policy).unwrap()), &Live::default());
    policy.customers.insert(acme.name.clone(), acme);
    let after = desired_with(&policy, &registry.assign(&policy).unwrap());
    let actions = plan_with(&after, &observed, Some(&Live::default()));
    for action in &actions {
        let is_acmes = match action {
            Action::SetTunnel(id, _) => id.get() > 3,
            Action::SetCustomer(server, _) => ACME_SERVERS.contains(server),
            _ => false,
        };
        assert!(is_acmes, "{action}");
    }
    assert_eq!(actions.len(), 2 + 2);
}

/// Returns the entries of the maps under the keys of `desired`.
fn observed_of(desired: &Desired, observed: &Observed) -> Observed {
    let mut some = observed.clone();
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
    let observed = settled(&desired_with(&old, &registry.assign(&old).unwrap()), &Live::default());
    let mut new = old.clone();
    new.customers.insert(acme.name.clone(), acme);
    new.customers.get_mut(&"globex".parse().unwrap()).unwrap().port = 8080;
    let ids = registry.assign(&new).unwrap();
    let changed = new.changes(&old).unwrap();
    assert_eq!(changed.iter().map(|customer| customer.name.as_str()).collect::<Vec<_>>(), ["acme", "globex"]);
    let some = desired_for(&new, &changed, &ids);
    let actions = plan_some(&some, &observed_of(&some, &observed), None).unwrap();
    assert_eq!(actions, plan_with(&desired_with(&new, &ids), &observed, None));
    assert!(old.changes(&old).unwrap().is_empty());
}

#[test]
fn no_partial_plan_if_an_entry_is_taken_or_removed() {
    let old = example();
    let observed = settled(&desired_state(&old), &Live::default());
    let [acme, globex] = ["acme", "globex"].map(|name| name.parse().unwrap());
    let mut moved = old.clone();
    let server = moved.customers[&acme].server;
    moved.customers.get_mut(&acme).unwrap().server = [IpAddr::from([10, 200, 0, 99])].into_iter().collect();
    moved.customers.get_mut(&globex).unwrap().server = server;
    let state = tempfile::tempdir().unwrap();
    let ids = Registry::open(state.path().join("ids.toml")).unwrap().assign(&moved).unwrap();
    let some = desired_for(&moved, &moved.changes(&old).unwrap(), &ids);
    assert_eq!(plan_some(&some, &observed_of(&some, &observed), None), None);

    let mut fewer = old.clone();
    fewer.customers.get_mut(&acme).unwrap().sites.pop();
    assert_eq!(fewer.changes(&old), None);
    fewer.customers.remove(&acme);
    assert_eq!(fewer.changes(&old), None);
}

#[test]
fn removed_site_is_unbound_first() {
    let mut policy = example();
    let before = settled(&desired_state(&policy), &live(&policy, &[sa("munich.acme.example", 7)]));
    let acme = policy.customers.get_mut(&"acme".parse().unwrap()).unwrap();
    acme.sites.retain(|site| site.name.as_str() == "berlin");
    let actions = plan_with(&desired_state(&policy), &before, None);
    assert_eq!(actions[0], Action::SetBinding(reqid(7), Binding::default()));
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
        prop::collection::btree_map(1u32..20, (1u32..20, 1u32..300), 0..5),
    )
        .prop_map(|(tunnels, customers, inbound, outbound, bindings)| Observed {
            bindings: bindings
                .into_iter()
                .map(|(number, (site, mark))| (reqid(number), Binding { site, mark, ..Binding::default() }))
                .collect(),
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
    fn any_state_settles_with_one_plan(observed in any_observed(), up in any::<bool>(), known in any::<bool>()) {
        let policy = example();
        let desired = desired_state(&policy);
        let sas = if up { vec![sa(BERLINS_IDENTITY, 7)] } else { vec![] };
        let live = live(&policy, &sas);
        let live = known.then_some(&live);
        let before = observed.clone();
        let observed = applied(&plan_with(&desired, &observed, live), observed);
        prop_assert_eq!(plan_with(&desired, &observed, live), []);
        for (id, tunnel) in &observed.tunnels {
            if let Some(live) = live {
                prop_assert_eq!(tunnel.up == 1, live.sites.contains_key(id));
            }
            let others = observed.tunnels.values().filter(|other| other.customer == tunnel.customer);
            prop_assert!(others.map(|other| other.generation).all(|other| other == tunnel.generation));
        }
        for (reqid, binding) in &observed.bindings {
            let id = TunnelId::new(binding.site).unwrap();
            prop_assert!(desired.tunnels.contains_key(&id), "bound to a site that the policy does not have");
            if live.is_none() {
                prop_assert_eq!(Some(binding), before.bindings.get(reqid));
                let owner = before.tunnels.get(&id).map(|tunnel| tunnel.customer);
                prop_assert_eq!(owner, Some(desired.tunnels[&id].customer_id.get()), "another customer's number");
            }
        }
    }

    /// Flows opened for another service become invalid, whatever the maps held before.
    #[test]
    fn a_generation_in_the_maps_is_kept_for_the_same_service_only(observed in any_observed()) {
        let policy = example();
        let desired = desired_state(&policy);
        let service = |tunnel: &Tunnel| (tunnel.v4.server, tunnel.v6.server, tunnel.port);
        let after = applied(&plan_with(&desired, &observed, None), observed.clone());
        for tunnel in after.tunnels.values() {
            let same = |before: &&Tunnel| {
                before.customer == tunnel.customer && before.generation == tunnel.generation
            };
            let before: Vec<_> = observed.tunnels.values().filter(same).collect();
            prop_assert!(before.iter().all(|before| service(before) == service(tunnel)));
        }
    }
}
