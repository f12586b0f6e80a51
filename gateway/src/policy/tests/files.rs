//! The rule that tells policy files from others, and faults of the files themselves.
use std::fs;
use std::os::unix::fs::symlink;

use super::{Dir, GATEWAY, customer, example};
use crate::policy::{Protocol, connection_name, load, parse_connection_name};

#[test]
fn example_is_without_faults() {
    let policy = load(example()).unwrap_or_else(|faults| panic!("{faults}"));
    let names: Vec<&str> = policy.customers.keys().map(|name| name.as_str()).collect();
    assert_eq!(names, ["acme", "globex", "initech", "wonka"]);
    assert_eq!(policy.site_count(), 5);
    let gateway = &policy.gateway;
    assert_eq!((gateway.limits.tunnels, gateway.limits.customers, gateway.limits.flows), (16, 16, 65_536));
    assert_eq!(gateway.management[0].protocol, Protocol::Tcp);
    let [acme, globex, ..] = policy.customers.values().collect::<Vec<_>>()[..] else { panic!() };
    assert_eq!((acme.port, acme.server.v4), (80, Some([10, 200, 0, 11].into())));
    assert_eq!(acme.server.v6, Some("fd00:200::11".parse().unwrap()));
    assert_eq!((globex.server.v6, acme.sites[0].path_mtu), (None, None));
    assert_eq!(acme.sites[0].lan[0], globex.sites[0].lan[0]);
}

#[test]
fn connection_name_can_be_split() {
    let (customer, site) = ("acme".parse().unwrap(), "berlin".parse().unwrap());
    let name = connection_name(&customer, &site);
    assert_eq!(name, "acme.berlin");
    assert_eq!(parse_connection_name(&name), Some((customer, site)));
    for other in ["acme", "acme.berlin.x", ".berlin", "acme.", "ACME.berlin", "acme/berlin"] {
        assert_eq!(parse_connection_name(other), None, "{other}");
    }
}

#[test]
fn backups_locks_and_hidden_files_are_not_read() {
    let dir = Dir::new();
    for file in
        ["acme.toml~", ".acme.toml", ".acme.toml.swp", "#acme.toml#", "acme.toml.bak", "4913", "README"]
    {
        dir.write(&format!("customers/{file}"), "not TOML");
    }
    symlink("user@host.1234", dir.path("customers/.#acme.toml")).unwrap();
    assert!(dir.load().unwrap().customers.is_empty());
}

#[test]
fn linked_file_is_read() {
    let dir = Dir::new();
    dir.write(".acme", customer("10.200.0.11", "a.example", "10.1.0.0/16"));
    symlink("../.acme", dir.path("customers/acme.toml")).unwrap();
    assert_eq!(dir.load().unwrap().customers.len(), 1);
}

#[test]
fn missing_directory_is_a_fault() {
    let dir = Dir::new();
    fs::remove_dir_all(&dir.0).unwrap();
    let expected = [
        "customers: cannot read the directory: No such file or directory (os error 2)",
        "gateway.toml: cannot read the file: No such file or directory (os error 2)",
    ];
    assert_eq!(dir.faults(), expected);
}

#[test]
fn link_loop_is_a_fault() {
    let dir = Dir::new();
    symlink("acme.toml", dir.path("customers/acme.toml")).unwrap();
    let faults = dir.faults();
    assert!(
        faults[0].starts_with("customers/acme.toml: cannot read the file: Too many levels"),
        "{faults:?}"
    );
}

#[test]
fn directory_and_fifo_are_faults() {
    let dir = Dir::new();
    fs::create_dir(dir.path("customers/acme.toml")).unwrap();
    nix::unistd::mkfifo(&dir.path("customers/globex.toml"), nix::sys::stat::Mode::S_IRUSR).unwrap();
    let expected = [
        "customers/acme.toml: this is not a regular file",
        "customers/globex.toml: this is not a regular file",
    ];
    assert_eq!(dir.faults(), expected);
}

#[test]
fn file_that_is_not_utf8_is_a_fault_at_its_first_bad_byte() {
    let dir = Dir::new();
    dir.write("customers/acme.toml", b"server = \"10.200.0.11\"\n# \xffabc\n");
    assert_eq!(dir.faults(), ["customers/acme.toml:2:3: the file is not UTF-8 beyond this point"]);
}

#[test]
fn file_larger_than_1_mib_is_a_fault() {
    let dir = Dir::new();
    dir.write("customers/acme.toml", vec![b'#'; (1 << 20) + 1]);
    assert_eq!(dir.faults(), ["customers/acme.toml: the file is larger than 1 MiB"]);
}

#[test]
fn bad_customer_name_is_a_fault() {
    let dir = Dir::new();
    let text = customer("10.200.0.11", "a.example", "10.1.0.0/16");
    dir.write("customers/Acme.toml", &text).write("customers/-.toml", &text);
    let expected = [
        "customers/-.toml: the customer's name `-` begins or ends with `-`",
        "customers/Acme.toml: the customer's name `Acme` contains 'A'",
    ];
    assert_eq!(dir.faults(), expected);
}

#[test]
fn customer_file_beside_gateway_toml_is_a_fault() {
    let dir = Dir::new();
    dir.write("acme.toml", customer("10.200.0.11", "a.example", "10.1.0.0/16"));
    assert_eq!(dir.faults(), ["acme.toml: gatewayd does not read this file"]);
}

#[test]
fn file_that_is_neither_policy_nor_ignored_is_a_fault() {
    let dir = Dir::new();
    let text = customer("10.200.0.11", "a.example", "10.1.0.0/16");
    dir.write("customers/a.TOML", &text).write("customers/b.tml", &text).write("customers/c", &text);
    dir.write("gateway.TOML", GATEWAY);
    fs::create_dir(dir.path("customers/old")).unwrap();
    fs::create_dir(dir.path("Customers")).unwrap();
    let expected = [
        "Customers: gatewayd does not read this file",
        "customers/a.TOML: `a.TOML` is not a policy",
        "customers/b.tml: `b.tml` is not a policy",
        "customers/c: `c` is not a policy",
        "customers/old: `old` is not a policy",
        "gateway.TOML: gatewayd does not read this file",
    ];
    assert_eq!(dir.faults(), expected);
}

#[test]
fn device_is_a_fault() {
    let dir = Dir::new();
    symlink("/dev/zero", dir.path("customers/acme.toml")).unwrap();
    assert_eq!(dir.faults(), ["customers/acme.toml: this is not a regular file"]);
}
