//! Reloads. Most cases end alike at a start.
use super::*;

#[test]
fn reload_refuses_only_the_customer_over_the_sum_of_quotas() {
    let folder = Folder::new();
    let before = folder.first();
    change_others(&folder);
    // acme sorts before all the others, which would not fit behind it.
    folder.write("acme", &format!("max_flows = 4096\n{}", customer("acme", 21)));
    let reading = folder.reload_and_start(&before);
    assert_eq!(servers(&reading), ["acme 11", "globex 22", "hooli 14"]);
    assert!(said(&reading, "quotas sum to 4352 IPv4 flows"), "{:?}", reading.lines());
    assert!(said(&reading, "last good version is in force (1): acme"), "{:?}", reading.lines());
}

#[test]
fn reload_with_other_interfaces_applies_the_rest() {
    let folder = Folder::new();
    let before = folder.first();
    change_others(&folder);
    folder.write_gateway(|text| text.replace("\"lan\"", "\"lan2\"") + "[timeouts]\nclose = 7\n");
    let reading = folder.reload(&before);
    assert_eq!(servers(&reading), ["acme 11", "globex 22", "hooli 14"]);
    let gateway = &reading.inputs.as_ref().unwrap().policy.gateway;
    assert_eq!((gateway.lan.as_str(), gateway.timeouts.close.as_secs()), ("lan", 7));
    assert!(said(&reading, "[interfaces] changed to `internet` and `lan2`"), "{:?}", reading.lines());
    // A start attaches to the new one.
    let gateway = folder.start_after(&before, None).inputs.unwrap().policy.gateway;
    assert_eq!((gateway.lan.as_str(), gateway.timeouts.close.as_secs()), ("lan2", 7));
}

#[test]
fn changed_limits_keep_the_tables_sizes_and_refuse_only_who_does_not_fit() {
    let folder = Folder::new();
    let before = folder.first();
    change_others(&folder);
    folder.write_gateway(|text| text.replace("flows = 4096", "flows = 16384"));
    // Fits the new table only.
    folder.write("acme", &format!("max_flows = 8000\n{}", customer("acme", 21)));
    let reading = folder.reload_and_start(&before);
    assert_eq!(servers(&reading), ["acme 11", "globex 22", "hooli 14"]);
    assert_eq!(reading.inputs.as_ref().unwrap().policy.gateway.limits, TABLES);
    let changed = "[limits] changed to 32 tunnels, 32 customers, 16384 flows, but the tables exist";
    assert!(said(&reading, changed), "{:?}", reading.lines());
    assert!(said(&reading, "but the existing table of flows holds 4096"), "{:?}", reading.lines());
    // Without tables, the new sizes hold.
    let start = folder.start_after(&before, None);
    assert_eq!(servers(&start), ["acme 21", "globex 22", "hooli 14"]);
    assert_eq!((start.inputs.as_ref().unwrap().policy.gateway.limits.flows, start.lines().len()), (16384, 0));
}

#[test]
fn first_ipv6_server_without_an_ipv6_table_is_refused_alone() {
    let folder = Folder::new();
    let before = folder.first();
    change_others(&folder);
    folder.write_gateway(|text| text.replace("\"10.200.0.0/24\"", "[\"10.200.0.0/24\", \"fd00:200::/64\"]"));
    folder.write(
        "acme",
        &customer("acme", 11).replace("\"10.200.0.11\"", "[\"10.200.0.21\", \"fd00:200::11\"]"),
    );
    let reading = folder.reload_and_start(&before);
    assert_eq!(servers(&reading), ["acme 11", "globex 22", "hooli 14"]);
    assert!(said(&reading, "the existing table of flows6 holds 1"), "{:?}", reading.lines());
}

#[test]
fn broken_credentials_keep_the_former_ones_and_apply_the_rest() {
    let folder = Folder::new();
    let before = folder.first();
    change_others(&folder);
    fs::write(folder.path("gateway.crt"), "broken").unwrap();
    let reading = folder.reload(&before);
    assert_eq!(servers(&reading), ["acme 11", "globex 22", "hooli 14"]);
    assert!(reading.inputs.as_ref().unwrap().credentials == before.credentials);
    assert!(said(&reading, "gateway.crt: error: the gateway's certificate"), "{:?}", reading.lines());
    assert!(!said(&reading, "[ipsec] changed"), "{:?}", reading.lines());
}

#[test]
fn new_identity_without_credentials_keeps_the_former_one_and_applies_the_rest() {
    let folder = Folder::new();
    let before = folder.first();
    change_others(&folder);
    folder.write_gateway(|text| text.replace("gateway.example", "new.example") + "[timeouts]\nclose = 7\n");
    // The former identity is not free as long as it is in force.
    folder.write("umbrella", &customer("umbrella", 15).replace("berlin.umbrella.example", "gateway.example"));
    let reading = folder.reload_and_start(&before);
    assert_eq!(servers(&reading), ["acme 11", "globex 22", "hooli 14"]);
    let inputs = reading.inputs.as_ref().unwrap();
    assert_eq!(inputs.policy.gateway.ipsec, before.policy.gateway.ipsec);
    assert_eq!(inputs.policy.gateway.timeouts.close.as_secs(), 7);
    assert!(inputs.credentials == before.credentials);
    assert!(said(&reading, "[ipsec] changed, but its files have faults"), "{:?}", reading.lines());
    assert!(said(&reading, "`gateway.example` belongs to the gateway"), "{:?}", reading.lines());
}

#[test]
fn removal_applies_whatever_else_is_refused() {
    let folder = Folder::new();
    let before = folder.first();
    folder.remove("initech");
    folder.write("acme", &format!("max_flows = 9999\n{}", customer("acme", 11)));
    folder.write("globex", "server = ");
    fs::remove_file(folder.path("gateway.key")).unwrap();
    let change = |text: String| text.replace("\"lan\"", "\"lan2\"").replace("tunnels = 32", "tunnels = 2");
    folder.write_gateway(change);
    let reading = folder.reload(&before);
    assert_eq!(servers(&reading), ["acme 11", "globex 12"]);
    folder.write_gateway(|_| "nonsense".into());
    assert_eq!(servers(&folder.reload(&before)), ["acme 11", "globex 12"]);
}

#[test]
fn approval_lets_exactly_the_removals_through_that_were_held_back() {
    let folder = Folder::new();
    for (name, server) in ["c1", "c2", "c3", "c4", "c5", "c6", "c7", "c8", "c9"].iter().zip(21..) {
        folder.write(name, &customer(name, server));
    }
    let before = folder.first();
    (1..=9).for_each(|n| folder.remove(&format!("c{n}")));
    folder.remove("acme");
    let held_back = folder.reload(&before).held_back.unwrap();
    let reload = |approved| before.reload(&folder.path("policies"), TABLES, approved);
    assert_eq!(servers(&reload(Some(&held_back))), ["globex 12", "initech 13"]);
    assert!(reload(None).inputs.is_none());
    // Somebody came back meanwhile: fewer removals are approved, too.
    folder.write("acme", &customer("acme", 11));
    folder.write_gateway(|text| text + "[reload]\nmax_removed_percent = 1\n");
    assert!(reload(Some(&held_back)).inputs.is_some());
    // Somebody else is gone meanwhile.
    folder.remove("acme");
    folder.remove("initech");
    let reading = reload(Some(&held_back));
    assert!(reading.inputs.is_none() && reading.held_back.is_some_and(|removals| removals != held_back));
}

#[test]
fn numbered_inputs_are_the_newer_ones_of_customers_and_sites_that_were_there() {
    let folder = Folder::new();
    let two = "[[site]]\nname = \"bonn\"\nidentity = \"bonn.acme.example\"\nlan = [\"10.1.0.0/16\"]\n";
    folder.write("acme", &(customer("acme", 11) + two));
    let before = folder.first();
    change_others(&folder);
    folder.write("acme", &customer("acme", 21));
    folder.write("globex", &customer("globex", 22).replace("berlin.globex", "other.globex"));
    let newer = folder.reload(&before).inputs.unwrap();
    let numbered = before.numbered(&newer);
    // globex has nothing left: its site's peer is another one. acme's server is the newer one.
    let reading = Reading { inputs: Some(numbered), ..folder.reload(&before) };
    assert_eq!(servers(&reading), ["acme 21"]);
    let policy = reading.inputs.unwrap().policy;
    let sites: Vec<_> =
        policy.customers.values().flat_map(|c| &c.sites).map(|site| site.name.as_str()).collect();
    assert_eq!(sites, ["berlin"]);
}
