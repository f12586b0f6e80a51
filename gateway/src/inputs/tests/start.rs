//! Starts with and without a last good policy.
use std::sync::Arc;

use super::*;

#[test]
fn start_keeps_the_last_good_version_of_a_faulty_customer_and_starts_the_others() {
    let folder = Folder::new();
    let before = folder.first();
    change_others(&folder);
    folder.write("acme", "server = ");
    folder.write("umbrella", "server = ");
    let reading = folder.reload_and_start(&before);
    assert_eq!(servers(&reading), ["acme 11", "globex 22", "hooli 14"]);
    assert!(said(&reading, "customers whose last good version is in force (1): acme"));
    assert!(said(&reading, "customers without a good version, not served (1): umbrella"));
    // The next start still has it, and once more without a change.
    let (again, inputs) =
        (folder.start_after(reading.inputs.as_ref().unwrap(), None), reading.inputs.unwrap());
    assert_eq!(servers(&again), ["acme 11", "globex 22", "hooli 14"]);
    assert_eq!(again.inputs.unwrap().last_good(), inputs.last_good());
}

#[test]
fn first_start_serves_those_without_faults() {
    let folder = Folder::new();
    folder.write("acme", "server = ");
    let reading = folder.start(&LastGood::default(), None);
    assert_eq!(servers(&reading), ["globex 12", "initech 13"]);
    assert!(said(&reading, "not served (1): acme"), "{:?}", reading.lines());
}

#[test]
fn start_keeps_the_last_good_gateway_part() {
    let folder = Folder::new();
    let before = folder.first();
    change_others(&folder);
    folder.write_gateway(|_| "nonsense".into());
    let reading = folder.reload_and_start(&before);
    assert_eq!(servers(&reading), ["acme 11", "globex 22", "hooli 14"]);
    assert!(said(&reading, "gateway.toml: the last good version is in force"), "{:?}", reading.lines());
    assert_eq!(reading.inputs.unwrap().texts.gateway, before.texts.gateway);
}

#[test]
fn start_without_anything_of_a_gateway_part_has_no_inputs() {
    let folder = Folder::new();
    let before = folder.first();
    folder.write_gateway(|_| "nonsense".into());
    let reading = folder.start(&LastGood::default(), None);
    assert!(reading.inputs.is_none() && !reading.is_unlisted);
    // A last good version that is not good does not count.
    let mut last_good = before.last_good();
    last_good.texts.gateway = Some("[interfaces]".into());
    assert!(folder.start(&last_good, None).inputs.is_none());
}

#[test]
fn start_does_not_bring_back_who_was_removed() {
    let folder = Folder::new();
    let before = folder.first();
    folder.remove("acme");
    folder.write("globex", "server = ");
    let reading = folder.reload_and_start(&before);
    assert_eq!(servers(&reading), ["globex 12", "initech 13"]);
    // The site that is gone from a valid file does not come back with a faulty one.
    let texts = &reading.inputs.as_ref().unwrap().last_good().texts;
    assert!(!texts.customers.contains_key(&"acme".parse().unwrap()));
}

#[test]
fn last_good_version_in_conflict_with_new_files_ends_as_at_a_reload() {
    let folder = Folder::new();
    let before = folder.first();
    folder.write("acme", "server = ");
    // Each claims something of acme's last good version.
    folder.write("globex", &customer("globex", 11));
    folder.write("hooli", &customer("hooli", 14).replace("berlin.hooli", "berlin.acme"));
    let reading = folder.reload_and_start(&before);
    assert_eq!(servers(&reading), ["acme 11", "globex 12", "initech 13"]);
    // A gateway part with another cloud LAN cannot hold the last good version.
    folder.write_gateway(|text| text.replace("10.200.0.0/24", "10.201.0.0/24"));
    assert_eq!(servers(&folder.reload_and_start(&before)), ["acme 11", "globex 12", "initech 13"]);
}

#[test]
fn hostile_last_good_policy_is_checked_like_files() {
    let folder = Folder::new();
    let mut last_good = folder.first().last_good();
    for name in NAMES {
        folder.write(name, "server = ");
    }
    let mut put = |name: &str, text: String| {
        last_good.texts.customers.insert(name.parse().unwrap(), Arc::from(text));
    };
    put("acme", customer("acme", 11).replace("10.200.0.11", "10.99.0.11"));
    put("globex", customer("globex", 13));
    put("initech", customer("initech", 13));
    // The file is faulty, too, and its text lets any peer in.
    put("hooli", customer("hooli", 14).replace("berlin.hooli.example", "%any"));
    folder.write("hooli", "server = ");
    // Nobody's file, so nobody.
    put("umbrella", customer("umbrella", 15));
    folder.write("wonka", &customer("wonka", 16));
    let reading = folder.start(&last_good, None);
    assert_eq!(servers(&reading), ["wonka 16"]);
}

#[test]
fn folder_of_customers_that_is_missing_ends_nobody() {
    let folder = Folder::new();
    let before = folder.first();
    fs::rename(folder.path("policies/customers"), folder.path("away")).unwrap();
    let reading = folder.reload_and_start(&before);
    assert_eq!(servers(&reading), ["acme 11", "globex 12", "initech 13"]);
    // The whole folder, as if nothing were mounted.
    fs::rename(folder.path("policies"), folder.path("away too")).unwrap();
    assert_eq!(servers(&folder.reload_and_start(&before)), ["acme 11", "globex 12", "initech 13"]);
    // Another attempt helps once something is mounted, so this is no reason to give up.
    let empty = folder.start(&LastGood::default(), None);
    assert!(empty.inputs.is_none() && empty.is_unlisted);
    fs::create_dir(folder.path("policies")).unwrap();
    fs::write(folder.path("policies/gateway.toml"), "interfaces = ").unwrap();
    let hopeless = folder.start(&LastGood::default(), None);
    assert!(hopeless.inputs.is_none() && !hopeless.is_unlisted);
    fs::remove_dir_all(folder.path("policies")).unwrap();
    // Without a last good policy, nobody knows who the customers are.
    fs::rename(folder.path("away too"), folder.path("policies")).unwrap();
    let unknown = folder.start(&LastGood::default(), None);
    assert!(unknown.inputs.is_none() && unknown.is_unlisted);
}

#[test]
fn start_that_would_remove_everybody_is_held_back() {
    let folder = Folder::new();
    let before = folder.first();
    fs::rename(folder.path("policies/customers"), folder.path("away")).unwrap();
    fs::create_dir(folder.path("policies/customers")).unwrap();
    let held = "they would remove 3 of 3 customers (acme, globex, initech)";
    let reload = folder.reload(&before);
    assert!(reload.inputs.is_none() && reload.held_back.is_some() && said(&reload, held));
    let start = folder.start_after(&before, None);
    assert!(start.held_back.is_some() && said(&start, held), "{:?}", start.lines());
    assert_eq!(servers(&start), ["acme 11", "globex 12", "initech 13"]);
    let inputs = start.inputs.unwrap();
    assert_eq!((&inputs.policy.customers, &inputs.texts), (&before.policy.customers, &before.texts));
    assert!(inputs.credentials == before.credentials);
    // It is the operator's word.
    folder.write_gateway(|text| text + "[reload]\nmax_removed_percent = 100\n");
    let start = folder.start_after(&before, None);
    assert!(start.held_back.is_none() && servers(&start).is_empty());
}

#[test]
fn start_with_broken_credentials_has_none_and_serves_everybody() {
    let folder = Folder::new();
    let before = folder.first();
    change_others(&folder);
    fs::write(folder.path("gateway.key"), "broken").unwrap();
    for last_good in [before.last_good(), LastGood::default()] {
        let reading = folder.start(&last_good, None);
        assert_eq!(servers(&reading), ["acme 11", "globex 22", "hooli 14"]);
        let inputs = reading.inputs.as_ref().unwrap();
        assert!(inputs.credentials.is_none() && inputs.setup().is_none());
        assert!(said(&reading, "charon keeps those that it has"), "{:?}", reading.lines());
        // Mended.
        folder.issue("gateway.example", 9);
        let mended = folder.reload(inputs);
        assert!(mended.inputs.as_ref().unwrap().setup().is_some() && mended.lines().is_empty());
        fs::write(folder.path("gateway.key"), "broken").unwrap();
    }
}

#[test]
fn start_takes_an_expired_certificate_and_a_reload_keeps_a_valid_one() {
    let folder = Folder::new();
    let before = folder.first();
    folder.issue("gateway.example", -1);
    let (reload, start) = (folder.reload(&before), folder.start_after(&before, None));
    assert!(said(&reload, "expired") && said(&start, "expired"));
    assert!(reload.inputs.unwrap().credentials == before.credentials);
    let started = start.inputs.unwrap();
    assert!(started.credentials.is_some() && started.credentials != before.credentials);
    assert!(!said(&folder.start(&LastGood::default(), None), "charon keeps"));
}

#[test]
fn last_good_policy_has_no_secret() {
    let folder = Folder::new();
    folder.first().last_good().write(&folder.path("state")).unwrap();
    let kept = fs::read_to_string(folder.path("state").join(crate::last_good::FILE)).unwrap();
    assert!(kept.contains("gateway.key") && !kept.contains("PRIVATE") && !kept.contains("BEGIN"));
}
