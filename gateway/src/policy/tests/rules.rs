//! One fault for each rule, at its place.
use super::{Dir, GATEWAY, customer};

/// The fault of a gateway part in which one line is replaced.
fn gateway(line: &str, by: &str) -> Vec<String> {
    assert!(GATEWAY.contains(line), "{line} is not in the template");
    let dir = Dir::new();
    dir.write("gateway.toml", GATEWAY.replacen(line, by, 1));
    dir.faults()
}

/// The faults of a good gateway part with these lines below.
fn gateway_and(lines: &str) -> Vec<String> {
    let dir = Dir::new();
    dir.write("gateway.toml", format!("{GATEWAY}{lines}"));
    dir.faults()
}

/// The faults of this customer alone.
fn acme(text: &str) -> Vec<String> {
    let dir = Dir::new();
    dir.write("customers/acme.toml", text);
    dir.faults()
}

/// The faults of a customer with this LAN.
fn lan(prefixes: &str) -> Vec<String> {
    acme(&format!(
        "server = \"10.200.0.11\"\n[[site]]\nname = \"a\"\nidentity = \"a.example\"\nlan = [{prefixes}]\n"
    ))
}

/// The faults of a customer with this server.
fn server(address: &str) -> Vec<String> {
    acme(&customer(address, "a.example", "192.168.0.0/16"))
}

/// The faults of a customer with this identity.
fn identity(identity: &str) -> Vec<String> {
    acme(&customer("10.200.0.11", identity, "192.168.0.0/16"))
}

macro_rules! rule {
    ($($name:ident: $faults:expr => $($expected:literal),*;)*) => {$(
        #[test]
        fn $name() {
            assert_eq!($faults, [$($expected),*] as [&str; _]);
        }
    )*};
}

rule! {
    good_gateway_has_no_fault: gateway("", "") => ;
    good_customer_has_no_fault: server("10.200.0.11") => ;

    // The cloud LAN and its servers.
    server_outside_cloud_lan_is_refused: server("10.201.0.11") =>
        "customers/acme.toml:1:10: the server `10.201.0.11` is outside the cloud LAN `10.200.0.0/24`";
    server_at_network_address_is_refused: server("10.200.0.0") =>
        "customers/acme.toml:1:10: the server `10.200.0.0` is the network address of the cloud LAN `10.200.0.0/24`";
    server_at_broadcast_address_is_refused: server("10.200.0.255") =>
        "customers/acme.toml:1:10: the server `10.200.0.255` is the broadcast address of the cloud LAN `10.200.0.0/24`";
    ipv6_server_is_refused: server("fd00::1") =>
        "customers/acme.toml:1:10: `fd00::1` is IPv6, which is not supported yet";
    server_that_is_no_address_is_refused: server("web.acme") =>
        "customers/acme.toml:1:10: `web.acme` is not an IPv4 address";
    loopback_server_is_refused: server("127.0.0.1") =>
        "customers/acme.toml:1:10: `127.0.0.1` is loopback: no host has such an address";
    port_0_is_refused: acme(&format!("port = 0\n{}", customer("10.200.0.11", "a.example", "10.1.0.0/16"))) =>
        "customers/acme.toml:1:8: `0` is out of range";
    port_beyond_65535_is_refused: acme(&format!("port = 65536\n{}", customer("10.200.0.11", "a.example", "10.1.0.0/16"))) =>
        "customers/acme.toml:1:8: `65536` is out of range";
    tiny_cloud_lan_is_refused: gateway("10.200.0.0/24", "10.200.0.0/31") =>
        "gateway.toml:4:13: `10.200.0.0/31` has no room for a server and the gateway";
    missing_cloud_lan_is_refused: gateway("cloud_lan = \"10.200.0.0/24\"", "") =>
        "gateway.toml:1:1: [interfaces] has no `cloud_lan`";

    // LANs.
    default_route_as_lan_is_refused: lan("\"0.0.0.0/0\"") =>
        "customers/acme.toml:5:8: `0.0.0.0/0` is too wide";
    lan_shorter_than_8_is_refused: lan("\"10.0.0.0/7\"") =>
        "customers/acme.toml:5:8: `10.0.0.0/7` is too wide";
    host_bits_are_refused: lan("\"192.168.1.0/16\"") =>
        "customers/acme.toml:5:8: `192.168.1.0/16` has host bits set";
    loopback_lan_is_refused: lan("\"127.0.0.0/8\"") =>
        "customers/acme.toml:5:8: `127.0.0.0/8` is loopback: no host has such an address";
    multicast_lan_is_refused: lan("\"239.1.0.0/16\"") =>
        "customers/acme.toml:5:8: `239.1.0.0/16` is multicast: no host has such an address";
    link_local_lan_is_refused: lan("\"169.254.7.0/24\"") =>
        "customers/acme.toml:5:8: `169.254.7.0/24` is link-local: no host has such an address";
    reserved_lan_is_refused: lan("\"255.255.255.255/32\"") =>
        "customers/acme.toml:5:8: `255.255.255.255/32` is reserved or broadcast: no host has such an address";
    lan_around_link_local_is_refused: lan("\"169.0.0.0/8\"") =>
        "customers/acme.toml:5:8: `169.0.0.0/8` is link-local: no host has such an address";
    ipv6_lan_is_refused: lan("\"fd00::/64\"") =>
        "customers/acme.toml:5:8: `fd00::/64` is IPv6, which is not supported yet";
    address_without_length_is_refused: lan("\"192.168.0.1\"") =>
        "customers/acme.toml:5:8: `192.168.0.1` has no prefix length";
    five_prefixes_are_refused: lan("\"10.1.0.0/16\", \"10.2.0.0/16\", \"10.3.0.0/16\", \"10.4.0.0/16\", \"10.5.0.0/16\"") =>
        "customers/acme.toml:5:7: a site with 5 prefixes";
    four_prefixes_are_allowed: lan("\"10.1.0.0/16\", \"10.2.0.0/16\", \"10.3.0.0/16\", \"10.4.0.0/16\"") => ;
    empty_lan_is_refused: lan("") => "customers/acme.toml:5:7: a site with 0 prefixes";
    lan_around_cloud_lan_is_refused: lan("\"10.0.0.0/8\"") =>
        "customers/acme.toml:5:8: `10.0.0.0/8` overlaps the cloud LAN `10.200.0.0/24`";
    lan_inside_cloud_lan_is_refused: lan("\"10.200.0.128/25\"") =>
        "customers/acme.toml:5:8: `10.200.0.128/25` overlaps the cloud LAN `10.200.0.0/24`";

    // Identities.
    capital_letters_are_refused: identity("Berlin.example") =>
        "customers/acme.toml:4:12: the identity `Berlin.example` has capital letters";
    any_identity_is_refused: identity("%any") =>
        "customers/acme.toml:4:12: the identity `%any` contains '%', and an identity must name exactly one peer";
    wildcard_identity_is_refused: identity("*.acme.example") =>
        "customers/acme.toml:4:12: the identity `*.acme.example` contains '*', and an identity must name exactly one peer";
    distinguished_name_is_refused: identity("cn=*") =>
        "customers/acme.toml:4:12: the identity `cn=*` contains '=', and an identity must name exactly one peer";
    mail_identity_is_refused: identity("a@acme.example") =>
        "customers/acme.toml:4:12: the identity `a@acme.example` contains '@', and an identity must name exactly one peer";
    key_id_is_refused: identity("#0a") =>
        "customers/acme.toml:4:12: the identity `#0a` contains '#', and an identity must name exactly one peer";
    typed_identity_is_refused: identity("fqdn:acme.example") =>
        "customers/acme.toml:4:12: the identity `fqdn:acme.example` contains ':', and an identity must name exactly one peer";
    ipv6_any_is_refused: identity("::") =>
        "customers/acme.toml:4:12: the identity `::` contains ':', and an identity must name exactly one peer";
    address_identity_is_refused: identity("0.0.0.0") =>
        "customers/acme.toml:4:12: the identity `0.0.0.0` is an address or ends like one";
    address_range_identity_is_refused: identity("10.0.0.1-10.0.0.9") =>
        "customers/acme.toml:4:12: the identity `10.0.0.1-10.0.0.9` is an address or ends like one";
    subnet_identity_is_refused: identity("0.0.0.0/0") =>
        "customers/acme.toml:4:12: the identity `0.0.0.0/0` contains '/', and an identity must name exactly one peer";
    unqualified_identity_is_refused: identity("berlin") =>
        "customers/acme.toml:4:12: the identity `berlin` is not fully qualified";
    trailing_dot_is_refused: identity("berlin.example.") =>
        "customers/acme.toml:4:12: the identity `berlin.example.` has an empty or too long label, or one with a `-` at its end";
    empty_identity_is_refused: identity("") => "customers/acme.toml:4:12: the identity is empty";
    gateways_own_identity_is_refused: identity("gateway.example") =>
        "customers/acme.toml:4:12: the identity `gateway.example` is the gateway's, see gateway.toml:6:12";

    // The shape of a customer's file.
    customer_without_site_is_refused: acme("server = \"10.200.0.11\"\n") =>
        "customers/acme.toml: this file has no `site`";
    empty_site_list_is_refused: acme("server = \"10.200.0.11\"\nsite = []\n") =>
        "customers/acme.toml:2:8: the customer has no site";
    single_site_table_is_refused: acme("server = \"10.200.0.11\"\n[site]\nname = \"a\"\n") =>
        "customers/acme.toml:2:1: `site` is one table, but a customer may have many";
    empty_site_lacks_everything: acme("server = \"10.200.0.11\"\n[[site]]\n") =>
        "customers/acme.toml:2:1: this site has no `identity`",
        "customers/acme.toml:2:1: this site has no `lan`",
        "customers/acme.toml:2:1: this site has no `name`";
    unknown_key_is_refused_with_a_hint: acme(&customer("10.200.0.11", "a.example", "10.1.0.0/16").replace("lan", "lans")) =>
        "customers/acme.toml:2:1: this site has no `lan`",
        "customers/acme.toml:5:1: this site has no key `lans`, did you mean `lan`?";
    unknown_key_far_from_all_has_no_hint: acme(&format!("cipher = 1\n{}", customer("10.200.0.11", "a.example", "10.1.0.0/16"))) =>
        "customers/acme.toml:1:1: this file has no key `cipher`";
    wrong_type_is_refused: acme(&customer("10.200.0.11", "a.example", "10.1.0.0/16").replace("\"a\"", "7")) =>
        "customers/acme.toml:3:8: this is an integer";
    duplicate_key_is_refused: acme(&format!("server = \"10.200.0.12\"\n{}", customer("10.200.0.11", "a.example", "10.1.0.0/16"))) =>
        "customers/acme.toml:2:1: duplicate key";
    bad_site_name_is_refused: acme(&customer("10.200.0.11", "a.example", "10.1.0.0/16").replace("\"a\"", "\"a/b\"")) =>
        "customers/acme.toml:3:8: the site's name `a/b` contains '/'";

    // The gateway part.
    one_interface_for_both_is_refused: gateway("\"eth_lan\"", "\"eth_internet\"") =>
        "gateway.toml:3:7: `eth_internet` is the internet interface as well";
    long_interface_name_is_refused: gateway("eth_lan", "sixteen_letters_") =>
        "gateway.toml:3:7: the interface's name `sixteen_letters_` has 16 bytes";
    slash_in_interface_name_is_refused: gateway("eth_lan", "a/b") =>
        "gateway.toml:3:7: the interface's name `a/b` contains '/'";
    space_in_interface_name_is_refused: gateway("eth_lan", "a b") =>
        "gateway.toml:3:7: the interface's name `a b` contains ' '";
    relative_path_is_refused: gateway("/etc/gateway/pki/gateway.key", "gateway.key") =>
        "gateway.toml:8:15: the path `gateway.key` is not absolute";
    management_from_everywhere_is_refused:
        gateway_and("[management]\nallow = [{ from = \"0.0.0.0/0\", protocol = \"tcp\", port = 22 }]\n") =>
        "gateway.toml:11:19: `0.0.0.0/0` is too wide";
    management_on_ike_port_is_refused:
        gateway_and("[management]\nallow = [{ from = \"198.51.100.0/24\", protocol = \"udp\", port = 4500 }]\n") =>
        "gateway.toml:11:63: UDP port 4500 is IKE's, which is open already, within budgets for each source";
    management_on_port_0_is_refused:
        gateway_and("[management]\nallow = [{ from = \"198.51.100.0/24\", protocol = \"udp\", port = 0 }]\n") =>
        "gateway.toml:11:63: `0` is out of range";
    management_of_other_protocol_is_refused:
        gateway_and("[management]\nallow = [{ from = \"198.51.100.0/24\", protocol = \"esp\", port = 22 }]\n") =>
        "gateway.toml:11:49: `esp` is no protocol that can be allowed";
    management_entry_without_port_is_refused:
        gateway_and("[management]\nallow = [{ from = \"198.51.100.0/24\", protocol = \"tcp\" }]\n") =>
        "gateway.toml:11:10: this entry has no `port`";
    limit_0_is_refused: gateway_and("[limits]\nflows = 0\n") => "gateway.toml:11:9: `0` is out of range";
    tunnel_table_beyond_a_million_is_refused: gateway_and("[limits]\ntunnels = 1_000_001\n") =>
        "gateway.toml:11:11: `1000001` is out of range";
    negative_limit_is_refused: gateway_and("[limits]\ncustomers = -1\n") => "gateway.toml:11:13: `-1` is out of range";
    timeout_0_is_refused: gateway_and("[timeouts]\nclose = 0\n") => "gateway.toml:11:9: `0` is out of range";
    timeout_of_5_days_is_allowed: gateway_and("[timeouts]\nestablished = 432000\n") => ;
    timeout_beyond_5_days_is_refused: gateway_and("[timeouts]\nestablished = 432001\n") =>
        "gateway.toml:11:15: `432001` is out of range";
    number_beyond_any_integer_is_refused: gateway_and("[limits]\nflows = 99999999999999999999999999999999999999999\n") =>
        "gateway.toml:11:9: `99999999999999999999999999999999999999999` is out of range";
}

#[test]
fn overlapping_lans_of_two_sites_are_refused() {
    let site =
        |name, lan| format!("[[site]]\nname = \"{name}\"\nidentity = \"{name}.example\"\nlan = [{lan}]\n");
    let text = ["server = \"10.200.0.11\"\n", &site("a", "\"10.1.2.0/24\""), &site("b", "\"10.1.0.0/16\"")];
    let expected =
        "customers/acme.toml:9:8: `10.1.0.0/16` overlaps `10.1.2.0/24`, see customers/acme.toml:5:8";
    assert_eq!(acme(&text.concat()), [expected]);
}

#[test]
fn overlapping_lans_of_one_site_are_refused() {
    let expected =
        "customers/acme.toml:5:23: `10.1.9.0/24` overlaps `10.1.0.0/16`, see customers/acme.toml:5:8";
    assert_eq!(lan("\"10.1.0.0/16\", \"10.1.9.0/24\""), [expected]);
}

#[test]
fn second_site_of_the_same_name_is_refused() {
    let text = customer("10.200.0.11", "a.example", "10.1.0.0/16")
        + "[[site]]\nname = \"a\"\nidentity = \"b.example\"\nlan = [\"10.2.0.0/16\"]\n";
    assert_eq!(acme(&text), ["customers/acme.toml:7:8: a second site `a`, see customers/acme.toml:3:8"]);
}

#[test]
fn same_server_of_two_customers_is_refused() {
    let dir = Dir::new();
    dir.write("customers/acme.toml", customer("10.200.0.11", "a.example", "10.1.0.0/16"));
    dir.write("customers/globex.toml", customer("10.200.0.11", "g.example", "10.1.0.0/16"));
    let expected = "customers/globex.toml:1:10: `10.200.0.11` is the server of customer `acme`, see customers/acme.toml:1:10";
    assert_eq!(dir.faults(), [expected]);
}

#[test]
fn same_identity_of_two_customers_is_refused() {
    let dir = Dir::new();
    dir.write("customers/acme.toml", customer("10.200.0.11", "a.example", "10.1.0.0/16"));
    dir.write("customers/globex.toml", customer("10.200.0.12", "a.example", "10.1.0.0/16"));
    let expected = "customers/globex.toml:4:12: the identity `a.example` is that of another site, \
                    of customer `acme`, see customers/acme.toml:4:12";
    assert_eq!(dir.faults(), [expected]);
}

#[test]
fn same_lan_of_two_customers_is_allowed() {
    let dir = Dir::new();
    dir.write("customers/acme.toml", customer("10.200.0.11", "a.example", "192.168.0.0/16"));
    dir.write("customers/globex.toml", customer("10.200.0.12", "g.example", "192.168.0.0/16"));
    assert_eq!(dir.faults(), [] as [&str; 0]);
}

#[test]
fn more_sites_and_customers_than_limits_are_refused() {
    let dir = Dir::new();
    dir.write("gateway.toml", format!("{GATEWAY}[limits]\ntunnels = 1\ncustomers = 1\n"));
    dir.write("customers/acme.toml", customer("10.200.0.11", "a.example", "192.168.0.0/16"));
    dir.write("customers/globex.toml", customer("10.200.0.12", "g.example", "192.168.0.0/16"));
    let expected = [
        "gateway.toml:11:11: 2 tunnels in the customers' files, but [limits] tunnels is 1",
        "gateway.toml:12:13: 2 customers in the customers' files, but [limits] customers is 1",
    ];
    assert_eq!(dir.faults(), expected);
}

#[test]
fn too_many_management_entries_are_refused() {
    let entry = "{ from = \"198.51.100.0/24\", protocol = \"tcp\", port = 22 },";
    let faults = gateway_and(&format!("[management]\nallow = [{}]\n", entry.repeat(65)));
    assert_eq!(faults, ["gateway.toml:11:9: 65 entries are too many"]);
}
