//! Tests of generations: a new generation invalidates a customer's open flows.
use super::*;

/// Returns the generations by tunnel id.
fn generations(observed: &Observed) -> BTreeMap<TunnelId, u16> {
    observed.tunnels.iter().map(|(id, tunnel)| (*id, tunnel.generation)).collect()
}

#[test]
fn change_of_server_or_port_changes_the_generation_of_that_customer_only() {
    type Change = fn(&mut policy::Customer);
    let changes: [Change; 3] = [
        |customer| customer.port = 8080,
        |customer| customer.server.v4 = Some(Ipv4Addr::new(10, 200, 0, 99)),
        |customer| customer.server.v6 = Some("fd00:200::99".parse().unwrap()),
    ];
    for change in changes {
        let mut policy = example();
        let observed = settled(&desired_state(&policy), &Live::default());
        change(policy.customers.get_mut(&"acme".parse().unwrap()).unwrap());
        let desired = desired_state(&policy);
        let after = applied(&plan_with(&desired, &observed, Some(&Live::default())), observed.clone());
        for (id, generation) in generations(&after) {
            let is_acmes = desired.tunnels[&id].customer.name.as_str() == "acme";
            assert_eq!(generation != observed.tunnels[&id].generation, is_acmes, "{id}");
        }
    }
}

#[test]
fn change_of_sites_lans_quotas_or_mtus_keeps_the_generation() {
    type Change = fn(&mut policy::Customer);
    let changes: [Change; 6] = [
        |customer| customer.quota.max_flows = Some(7),
        |customer| customer.sites[0].lan.push("10.99.0.0/16".parse().unwrap()),
        |customer| customer.sites[0].path_mtu = Some(1280),
        |customer| customer.sites[0].quota.max_flows = Some(7),
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
        let observed = settled(&desired_with(&policy, &registry.assign(&policy).unwrap()), &Live::default());
        let before = generations(&observed);
        let acme = observed.tunnels.values().find(|t| t.v4.server.octets == [10, 200, 0, 11]).unwrap();
        change(policy.customers.get_mut(&"acme".parse().unwrap()).unwrap());
        let desired = desired_with(&policy, &registry.assign(&policy).unwrap());
        let actions = plan_with(&desired, &observed, Some(&Live::default()));
        assert_ne!(actions, [], "change {number} does something");
        for (id, generation) in generations(&applied(&actions, observed.clone())) {
            assert_eq!(generation, before.get(&id).copied().unwrap_or(acme.generation), "change {number}");
        }
    }
}

#[test]
fn next_generation_wraps_and_is_not_in_the_maps() {
    let mut policy = example();
    let mut observed = settled(&desired_state(&policy), &Live::default());
    let acmes: Vec<TunnelId> =
        ["acme.berlin", "acme.munich"].map(|name| tunnel(&desired_state(&policy), name)).into();
    observed.tunnels.get_mut(&acmes[0]).unwrap().generation = u16::MAX;
    observed.tunnels.get_mut(&acmes[1]).unwrap().generation = 0;
    policy.customers.get_mut(&"acme".parse().unwrap()).unwrap().port = 8080;
    let after = applied(&plan_with(&desired_state(&policy), &observed, None), observed);
    assert!(acmes.iter().all(|id| after.tunnels[id].generation == 1));
}

#[test]
fn half_changed_customer_settles_on_the_new_generation() {
    let mut policy = example();
    let observed = settled(&desired_state(&policy), &Live::default());
    policy.customers.get_mut(&"acme".parse().unwrap()).unwrap().port = 8080;
    let desired = desired_state(&policy);
    let acmes = ["acme.berlin", "acme.munich"].map(|name| tunnel(&desired, name));
    let whole = applied(&plan_with(&desired, &observed, Some(&Live::default())), observed.clone());
    // gatewayd died after writing the first of two tunnels.
    let mut half = observed;
    half.tunnels.insert(acmes[0], whole.tunnels[&acmes[0]]);
    let after = applied(&plan_with(&desired, &half, Some(&Live::default())), half);
    assert_eq!(generations(&after), generations(&whole));
}
