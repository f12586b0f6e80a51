//! Tests of the desired state derived from a policy.
use gateway_common::layout::LayoutFamily;

use super::*;

/// Returns the example in which acme has servers and LANs of both families.
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
    let desired = desired_state(&policy);
    let ids: Vec<u32> = ["10.200.0.11", "fd00:200::11"]
        .map(|server| desired.customers[&server.parse::<IpAddr>().unwrap()].id)
        .into();
    assert_eq!(ids[0], ids[1]);
    let (berlin, munich) = (tunnel(&desired, BERLIN), tunnel(&desired, "acme.munich"));
    let entry = desired.tunnels[&berlin].entry();
    assert_eq!((entry.v4.prefix_count, entry.v6.prefix_count), (1, 1));
    assert_eq!(entry.v6.server, "fd00:200::11".parse::<Ipv6Addr>().unwrap().into());
    assert_eq!(entry.v6.lan[0], Prefix::new("fd00:1::".parse::<Ipv6Addr>().unwrap().into(), 64));
    // A site without a LAN in a family gets no access in that family.
    assert_eq!(desired.tunnels[&munich].entry().v6.prefix_count, 0);
}

#[test]
fn one_connection_serves_every_site() {
    let mut policy = example();
    let all = connection(&policy.gateway, &credentials());
    assert_eq!(all.remote.identity, PeerIdentity::Any);
    let [child] = &all.children[..] else { panic!("{all:?}") };
    assert_eq!((child.marks, child.reqid), (Marks::Unique, None));
    let any: Vec<ipnet::IpNet> = ["0.0.0.0/0", "::/0"].map(|net| net.parse().unwrap()).into();
    assert_eq!((&child.local_ts, &child.remote_ts), (&any, &any));
    policy.customers.clear();
    assert_eq!(connection(&policy.gateway, &credentials()), all, "customers do not change it");
}

#[test]
fn settings_hold_addresses_of_both_families_and_mapped_prefixes() {
    let mut policy = example();
    policy.gateway.midstream = policy::Midstream::Adopt;
    let v6 =
        policy::Management { from: "2001:db8::/32".parse().unwrap(), ..policy.gateway.management[0].clone() };
    policy.gateway.management.push(v6);
    let Settings { internet, lan, lan_mtu, xdp, adopt_midstream, management, management_count, .. } =
        desired_state(&policy).settings;
    assert_eq!((lan_mtu, xdp, adopt_midstream, management_count), (1500, 1, 1, 2));
    assert!(Ipv4 { octets: [203, 0, 113, 1] }.is_in(&internet) && !Ipv4::default().is_in(&internet));
    assert!(Ipv6::from("fe80::1".parse::<Ipv6Addr>().unwrap()).is_in(&lan) && !Ipv6::default().is_in(&lan));
    let from = |rule: usize, address: &str| {
        management[rule].from.contains(Ipv6::from(address.parse::<IpAddr>().unwrap()))
    };
    assert!(from(0, "198.51.100.7") && !from(0, "198.51.101.7") && !from(0, "::c633:6407"));
    assert!(from(1, "2001:db8:7::1") && !from(1, "2001:db9::1"));
}

#[test]
fn interfaces_without_or_with_too_many_addresses_are_refused() {
    let policy = example();
    let ids = first_ids(&policy);
    let good = interface("eth_lan", 3, [10, 200, 0, 1]);
    let with = |internet: &Interface| {
        let links = Links { internet, lan: &good, xdp: true };
        desired(&policy, &ids, links).map(drop).map_err(|error| error.to_string())
    };
    let mut bad = interface("eth_internet", 2, [203, 0, 113, 1]);
    assert_eq!(with(&bad), Ok(()));
    bad.v4.clear();
    assert!(with(&bad).unwrap_err().contains("only link-local IP addresses"));
    bad.v6 = (0..9).map(|last| Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last)).collect();
    assert!(with(&bad).unwrap_err().contains("more than 8 IPv6 addresses"));
}

#[test]
fn policies_load_from_a_copied_folder() {
    // A copy of the example, as an operator would install it.
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("customers")).unwrap();
    let example = Path::new("../policies");
    for file in ["gateway.toml", "customers/acme.toml"] {
        fs::copy(example.join(file), folder.path().join(file)).unwrap();
    }
    assert_eq!(desired_state(&policy::load(folder.path()).unwrap()).tunnels.len(), 2);
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
fn each_site_has_an_equal_share_unless_its_file_says_otherwise() {
    let mut policy = example();
    let shares = |policy: &Policy| -> Vec<u32> {
        let desired = desired_state(policy);
        let share = |name| desired.tunnels[&tunnel(&desired, name)].entry().share.flows;
        [BERLIN, "acme.munich"].map(share).into()
    };
    let acme = |policy: &mut Policy, change: fn(&mut policy::Customer)| {
        change(policy.customers.get_mut(&"acme".parse().unwrap()).unwrap());
    };
    acme(&mut policy, |acme| acme.quota.max_flows = Some(100));
    assert_eq!(shares(&policy), [50, 50]);
    acme(&mut policy, |acme| acme.sites[1].quota.max_flows = Some(90));
    assert_eq!(shares(&policy), [50, 90]);
    acme(&mut policy, |acme| drop(acme.sites.remove(0)));
    let desired = desired_state(&policy);
    assert_eq!(desired.tunnels[&tunnel(&desired, "acme.munich")].entry().share.flows, 90);
}
