//! One test per rule: each breaks a single rule and expects its fault at its position.
use gateway_common::layout;

use super::{Dir, GATEWAY, customer};
use crate::policy::SiteQuota;

/// Returns the faults of the gateway part with one line replaced.
fn gateway(line: &str, by: &str) -> Vec<String> {
    assert!(GATEWAY.contains(line), "{line} is not in the template");
    let dir = Dir::new();
    dir.write("gateway.toml", GATEWAY.replacen(line, by, 1));
    dir.faults()
}

/// Returns the faults of a valid gateway part with these lines appended.
fn gateway_and(lines: &str) -> Vec<String> {
    let dir = Dir::new();
    dir.write("gateway.toml", format!("{GATEWAY}{lines}"));
    dir.faults()
}

/// Returns the faults of a policy with this customer only.
fn acme(text: &str) -> Vec<String> {
    let dir = Dir::new();
    dir.write("customers/acme.toml", text);
    dir.faults()
}

/// Returns the faults of a customer with this LAN.
fn lan(prefixes: &str) -> Vec<String> {
    acme(&format!(
        "server = \"10.200.0.11\"\n[[site]]\nname = \"a\"\nidentity = \"a.example\"\nlan = [{prefixes}]\n"
    ))
}

/// Returns the faults of a customer with this server.
fn server(address: &str) -> Vec<String> {
    acme(&customer(address, "a.example", "192.168.0.0/16"))
}

/// Returns the faults of a customer with this identity.
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
    server_that_is_no_address_is_refused: server("web.acme") =>
        "customers/acme.toml:1:10: `web.acme` is not an IP address";
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
    address_without_length_is_refused: lan("\"192.168.0.1\"") =>
        "customers/acme.toml:5:8: `192.168.0.1` has no prefix length";
    nine_prefixes_are_refused: lan("\"10.1.0.0/16\", \"10.2.0.0/16\", \"10.3.0.0/16\", \"10.4.0.0/16\", \
            \"10.5.0.0/16\", \"10.6.0.0/16\", \"10.7.0.0/16\", \"10.8.0.0/16\", \
            \"10.9.0.0/16\"") =>
        "customers/acme.toml:5:7: this site has 9 prefixes";
    eight_prefixes_are_allowed: lan("\"10.1.0.0/16\", \"10.2.0.0/16\", \"10.3.0.0/16\", \"10.4.0.0/16\", \
            \"10.5.0.0/16\", \"10.6.0.0/16\", \"10.7.0.0/16\", \"10.8.0.0/16\"") => ;
    empty_lan_is_refused: lan("") => "customers/acme.toml:5:7: this site has 0 prefixes";
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
        "customers/acme.toml:4:12: the identity `berlin.example.` has a label that is empty, longer than 63 characters, or begins or ends with `-`";
    empty_identity_is_refused: identity("") => "customers/acme.toml:4:12: the identity is empty";
    gateways_own_identity_is_refused: identity("gateway.example") =>
        "customers/acme.toml:4:12: the identity `gateway.example` belongs to the gateway, see gateway.toml:6:12";

    // The shape of a customer's file.
    customer_without_site_is_refused: acme("server = \"10.200.0.11\"\n") =>
        "customers/acme.toml: this file has no `site`";
    empty_site_list_is_refused: acme("server = \"10.200.0.11\"\nsite = []\n") =>
        "customers/acme.toml:2:8: the customer has no site";
    single_site_table_is_refused: acme("server = \"10.200.0.11\"\n[site]\nname = \"a\"\n") =>
        "customers/acme.toml:2:1: `site` is a single table, not an array of tables";
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
        "gateway.toml:11:63: UDP port 4500 is IKE's and already open, within a budget for each source";
    management_on_port_0_is_refused:
        gateway_and("[management]\nallow = [{ from = \"198.51.100.0/24\", protocol = \"udp\", port = 0 }]\n") =>
        "gateway.toml:11:63: `0` is out of range";
    management_of_other_protocol_is_refused:
        gateway_and("[management]\nallow = [{ from = \"198.51.100.0/24\", protocol = \"esp\", port = 22 }]\n") =>
        "gateway.toml:11:49: the protocol `esp` cannot be allowed";
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

/// Returns the faults of a customer with this `server` and `lan` on a cloud LAN of both families.
fn both(server: &str, lan: &str) -> Vec<String> {
    let dir = Dir::new();
    dir.write("gateway.toml", GATEWAY.replace("\"10.200.0.0/24\"", "[\"10.200.0.0/24\", \"fd00:200::/64\"]"));
    let site = "[[site]]\nname = \"a\"\nidentity = \"a.example\"\n";
    dir.write("customers/acme.toml", format!("server = {server}\n{site}lan = [{lan}]\n"));
    dir.faults()
}

/// Calls `both` with a server of both families.
fn lan6(lan: &str) -> Vec<String> {
    both("[\"10.200.0.11\", \"fd00:200::11\"]", lan)
}

/// Returns the faults of a customer with these lines before its server.
fn acme_and(lines: &str) -> Vec<String> {
    acme(&format!("{lines}{}", customer("10.200.0.11", "a.example", "10.1.0.0/16")))
}

/// Returns the faults of a customer with this line appended to its site.
fn site_and(line: &str) -> Vec<String> {
    acme(&format!("{}{line}\n", customer("10.200.0.11", "a.example", "10.1.0.0/16")))
}

/// Returns the faults of a customer with these quotas and this line appended to its site.
fn shares(quotas: &str, line: &str) -> Vec<String> {
    acme(&format!("{quotas}{}{line}\n", customer("10.200.0.11", "a.example", "10.1.0.0/16")))
}

rule! {
    // Both families.
    server_of_both_families_has_no_fault: lan6("\"10.1.0.0/16\", \"fd00:1::/64\"") => ;
    server_of_both_families_may_serve_one: lan6("\"fd00:1::/64\"") => ;
    server_of_ipv6_alone_has_no_fault: both("\"fd00:200::11\"", "\"fd00:1::/64\"") => ;
    list_of_one_server_has_no_fault: both("[\"10.200.0.11\"]", "\"10.1.0.0/16\"") => ;
    two_servers_of_a_family_are_refused: both("[\"10.200.0.11\", \"10.200.0.12\"]", "\"10.1.0.0/16\"") =>
        "customers/acme.toml:1:26: this is a second IPv4 address";
    three_servers_are_refused: both("[\"10.200.0.11\", \"fd00:200::11\", \"fd00:200::12\"]", "\"10.1.0.0/16\"") =>
        "customers/acme.toml:1:10: this list has 3 entries";
    no_server_is_refused: both("[]", "\"10.1.0.0/16\"") => "customers/acme.toml:1:10: this list has 0 entries";
    number_as_server_is_refused: both("7", "\"10.1.0.0/16\"") => "customers/acme.toml:1:10: this is an integer";
    number_in_server_list_is_refused: both("[\"10.200.0.11\", 7]", "\"10.1.0.0/16\"") =>
        "customers/acme.toml:1:26: this is an integer";
    ipv6_server_outside_cloud_lan_is_refused: both("\"fd00:201::11\"", "\"fd00:1::/64\"") =>
        "customers/acme.toml:1:10: the server `fd00:201::11` is outside the cloud LAN `10.200.0.0/24` and `fd00:200::/64`";
    ipv6_server_on_ipv4_cloud_lan_is_refused: acme(&customer("fd00:200::11", "a.example", "fd00:1::/64")) =>
        "customers/acme.toml:1:10: the server `fd00:200::11` is outside the cloud LAN `10.200.0.0/24`";
    ipv6_server_at_all_routers_address_is_refused: both("\"fd00:200::\"", "\"fd00:1::/64\"") =>
        "customers/acme.toml:1:10: the server `fd00:200::` is the network address of the cloud LAN `fd00:200::/64`";
    last_ipv6_address_may_be_a_host: both("\"fd00:200::ffff:ffff:ffff:ffff\"", "\"fd00:1::/64\"") => ;
    link_local_server_is_refused: both("\"fe80::1\"", "\"fd00:1::/64\"") =>
        "customers/acme.toml:1:10: `fe80::1` is link-local: no host has such an address";
    multicast_server_is_refused: both("\"ff02::1\"", "\"fd00:1::/64\"") =>
        "customers/acme.toml:1:10: `ff02::1` is multicast: no host has such an address";
    ipv6_loopback_server_is_refused: both("\"::1\"", "\"fd00:1::/64\"") =>
        "customers/acme.toml:1:10: `::1` is loopback: no host has such an address";
    unspecified_server_is_refused: both("\"::\"", "\"fd00:1::/64\"") =>
        "customers/acme.toml:1:10: `::` is unspecified: no host has such an address";
    mapped_server_is_refused: both("\"::ffff:10.200.0.11\"", "\"fd00:1::/64\"") =>
        "customers/acme.toml:1:10: `::ffff:10.200.0.11` is IPv4-mapped: no host has such an address";
    ipv6_lan_of_ipv4_server_is_refused: lan("\"10.1.0.0/16\", \"fd00:1::/64\"") =>
        "customers/acme.toml:5:23: `fd00:1::/64` is IPv6, but the customer has no IPv6 server";
    ipv4_lan_of_ipv6_server_is_refused: both("\"fd00:200::11\"", "\"10.1.0.0/16\"") =>
        "customers/acme.toml:5:8: `10.1.0.0/16` is IPv4, but the customer has no IPv4 server";
    lan_of_any_family_is_allowed_beside_an_invalid_server: both("[\"10.200.0.11\", \"x\"]", "\"fd00:1::/64\"") =>
        "customers/acme.toml:1:26: `x` is not an IP address";
    wide_ipv6_lan_is_refused: lan6("\"fc00::/7\"") => "customers/acme.toml:5:8: `fc00::/7` is too wide";
    ipv6_default_route_as_lan_is_refused: lan6("\"::/0\"") => "customers/acme.toml:5:8: `::/0` is too wide";
    link_local_ipv6_lan_is_refused: lan6("\"fe80::/64\"") =>
        "customers/acme.toml:5:8: `fe80::/64` is link-local: no host has such an address";
    multicast_ipv6_lan_is_refused: lan6("\"ff05::/16\"") =>
        "customers/acme.toml:5:8: `ff05::/16` is multicast: no host has such an address";
    mapped_lan_is_refused: lan6("\"::ffff:0:0/112\"") =>
        "customers/acme.toml:5:8: `::ffff:0:0/112` is IPv4-mapped: no host has such an address";
    loopback_ipv6_lan_is_refused: lan6("\"::1/128\"") =>
        "customers/acme.toml:5:8: `::1/128` is loopback: no host has such an address";
    lan_around_unspecified_is_refused: lan6("\"::/16\"") =>
        "customers/acme.toml:5:8: `::/16` is unspecified: no host has such an address";
    ipv6_host_bits_are_refused: lan6("\"fd00:1::1/64\"") =>
        "customers/acme.toml:5:8: `fd00:1::1/64` has host bits set";
    ipv6_address_without_length_is_refused: lan6("\"fd00:1::1\"") =>
        "customers/acme.toml:5:8: `fd00:1::1` has no prefix length";
    zone_is_refused: lan6("\"fd00:1::%eth0/64\"") =>
        "customers/acme.toml:5:8: `fd00:1::%eth0/64` is not a prefix";
    overlapping_ipv6_lans_are_refused: lan6("\"fd00:1::/48\", \"fd00:1:0:7::/64\"") =>
        "customers/acme.toml:5:23: `fd00:1:0:7::/64` overlaps `fd00:1::/48`, see customers/acme.toml:5:8";
    ipv6_lan_around_cloud_lan_is_refused: lan6("\"fd00:200::/32\"") =>
        "customers/acme.toml:5:8: `fd00:200::/32` overlaps the cloud LAN `fd00:200::/64`";
    nine_ipv6_prefixes_are_refused: lan6("\"fd00:1::/64\", \"fd00:2::/64\", \"fd00:3::/64\", \"fd00:4::/64\", \
            \"fd00:5::/64\", \"fd00:6::/64\", \"fd00:7::/64\", \"fd00:8::/64\", \
            \"fd00:9::/64\"") =>
        "customers/acme.toml:5:7: this site has 9 prefixes";
    eight_prefixes_of_both_families_are_allowed: lan6("\"fd00:1::/64\", \"fd00:2::/64\", \"fd00:3::/64\", \"fd00:4::/64\", \
            \"10.1.0.0/16\", \"10.2.0.0/16\", \"10.3.0.0/16\", \"10.4.0.0/16\"") => ;
    nine_prefixes_of_both_families_are_refused: lan6("\"fd00:1::/64\", \"fd00:2::/64\", \"fd00:3::/64\", \"fd00:4::/64\", \
            \"10.1.0.0/16\", \"10.2.0.0/16\", \"10.3.0.0/16\", \"10.4.0.0/16\", \"10.5.0.0/16\"") =>
        "customers/acme.toml:5:7: this site has 9 prefixes";
    tiny_ipv6_cloud_lan_is_refused: gateway("10.200.0.0/24", "fd00:200::/127") =>
        "gateway.toml:4:13: `fd00:200::/127` has no room for a server and the gateway";
    two_cloud_lans_of_a_family_are_refused: gateway("\"10.200.0.0/24\"", "[\"10.200.0.0/24\", \"10.201.0.0/24\"]") =>
        "gateway.toml:4:31: this is a second IPv4 prefix";
    management_from_ipv6_has_no_fault:
        gateway_and("[management]\nallow = [{ from = \"2001:db8::/32\", protocol = \"tcp\", port = 22 }]\n") => ;
    management_from_all_of_ipv6_is_refused:
        gateway_and("[management]\nallow = [{ from = \"::/0\", protocol = \"tcp\", port = 22 }]\n") =>
        "gateway.toml:11:19: `::/0` is too wide";

    // Quotas.
    quotas_have_no_fault: acme_and("max_flows = 1000\nmax_half_open = 1000\nnew_flows_per_second = 1_000_000\n") => ;
    shares_have_no_fault: shares("max_flows = 100\nmax_half_open = 50\n", "max_flows = 100\nmax_half_open = 50") => ;
    share_of_0_flows_is_refused: site_and("max_flows = 0") => "customers/acme.toml:6:13: `0` is out of range";
    share_of_0_half_open_flows_is_refused: site_and("max_half_open = 0") =>
        "customers/acme.toml:6:17: `0` is out of range";
    share_above_the_customers_quota_is_refused: shares("max_flows = 100\n", "max_flows = 101") =>
        "customers/acme.toml:7:13: `101` exceeds the customer's `max_flows = 100`";
    half_open_share_above_the_customers_quota_is_refused: shares("max_half_open = 50\n", "max_half_open = 51") =>
        "customers/acme.toml:7:17: `51` exceeds the customer's `max_half_open = 50`";
    half_open_share_above_the_share_is_refused: site_and("max_flows = 9\nmax_half_open = 10") =>
        "customers/acme.toml:7:17: `10` exceeds `max_flows = 9`";
    quota_of_0_flows_is_refused: acme_and("max_flows = 0\n") => "customers/acme.toml:1:13: `0` is out of range";
    quota_beyond_any_table_is_refused: acme_and("max_flows = 16777216\n") =>
        "customers/acme.toml:1:13: `16777216` is out of range";
    quota_beyond_the_table_is_refused: acme_and("max_flows = 262145\n") =>
        "gateway.toml: quotas sum to 262145 IPv4 flows (acme 262145), but [limits] flows is 262144";
    half_open_quota_of_0_is_refused: acme_and("max_half_open = 0\n") =>
        "customers/acme.toml:1:17: `0` is out of range";
    more_half_open_than_flows_are_refused: acme_and("max_flows = 10\nmax_half_open = 11\n") =>
        "customers/acme.toml:2:17: `11` exceeds `max_flows = 10`";
    new_flow_rate_of_0_is_refused: acme_and("new_flows_per_second = 0\n") =>
        "customers/acme.toml:1:24: `0` is out of range";
    new_flow_rate_beyond_a_million_is_refused: acme_and("new_flows_per_second = 1_000_001\n") =>
        "customers/acme.toml:1:24: `1000001` is out of range";

    // The path.
    path_mtu_has_no_fault: site_and("path_mtu = 576") => ;
    jumbo_path_mtu_has_no_fault: site_and("path_mtu = 9000") => ;
    path_mtu_below_576_is_refused: site_and("path_mtu = 575") =>
        "customers/acme.toml:6:12: `575` is out of range";
    path_mtu_beyond_9000_is_refused: site_and("path_mtu = 9001") =>
        "customers/acme.toml:6:12: `9001` is out of range";
    text_as_path_mtu_is_refused: site_and("path_mtu = \"1400\"") => "customers/acme.toml:6:12: this is a string";

    // Flows.
    midstream_may_be_dropped: gateway_and("[flows]\nmidstream = \"drop\"\n") => ;
    midstream_may_be_adopted: gateway_and("[flows]\nmidstream = \"adopt\"\n") => ;
    other_midstream_is_refused: gateway_and("[flows]\nmidstream = \"allow\"\n") =>
        "gateway.toml:11:13: `allow` is not a way to treat a connection in mid-stream";
    unknown_key_of_flows_is_refused: gateway_and("[flows]\nmid_stream = \"drop\"\n") =>
        "gateway.toml:11:1: [flows] has no key `mid_stream`, did you mean `midstream`?";
    flow_tables_of_all_numbers_are_allowed: gateway_and("[limits]\nflows = 16_777_215\nflows6 = 16_777_215\n") => ;
    flow_table_beyond_all_numbers_is_refused: gateway_and("[limits]\nflows = 16_777_216\n") =>
        "gateway.toml:11:9: `16777216` is out of range";
    ipv6_flow_table_beyond_all_numbers_is_refused: gateway_and("[limits]\nflows6 = 16_777_216\n") =>
        "gateway.toml:11:10: `16777216` is out of range";
    empty_ipv6_flow_table_is_refused: gateway_and("[limits]\nflows6 = 0\n") =>
        "gateway.toml:11:10: `0` is out of range";
    retransmission_timeout_0_is_refused: gateway_and("[timeouts]\nretransmission = 0\n") =>
        "gateway.toml:11:18: `0` is out of range";
    unacknowledged_timeout_beyond_5_days_is_refused: gateway_and("[timeouts]\nunacknowledged = 432001\n") =>
        "gateway.toml:11:18: `432001` is out of range";
}

/// Returns acme with a server of both families, globex and initech with IPv4 servers. Each argument is
/// inserted into its file.
fn three(limits: &str, acme: &str, globex: &str) -> Dir {
    let dir = Dir::new();
    let gateway = GATEWAY.replace("\"10.200.0.0/24\"", "[\"10.200.0.0/24\", \"fd00:200::/64\"]");
    dir.write("gateway.toml", format!("{gateway}[limits]\ncustomers = 4\n{limits}"));
    let both = customer("10.200.0.11", "a.example", "10.1.0.0/16")
        .replace("\"10.200.0.11\"", "[\"10.200.0.11\", \"fd00:200::11\"]");
    dir.write("customers/acme.toml", format!("{acme}{both}"));
    dir.write(
        "customers/globex.toml",
        format!("{globex}{}", customer("10.200.0.12", "g.example", "10.1.0.0/16")),
    );
    dir.write("customers/initech.toml", customer("10.200.0.13", "i.example", "10.1.0.0/16"));
    dir
}

#[test]
fn quotas_beyond_the_table_are_refused_with_names() {
    let dir = three("flows = 1000\n", "max_flows = 600\n", "max_flows = 200\n");
    let expected = "gateway.toml:12:9: quotas sum to 1050 IPv4 flows (acme 600, globex 200, 1 other 250), \
                    but [limits] flows is 1000";
    assert_eq!(dir.faults(), [expected]);
    assert_eq!(three("flows = 1050\n", "max_flows = 600\n", "max_flows = 188\n").faults(), [] as [&str; 0]);
}

#[test]
fn default_quotas_always_fit_the_table() {
    for flows in [4, 5, 7, 1000] {
        assert_eq!(three(&format!("flows = {flows}\n"), "", "").faults(), [] as [&str; 0]);
    }
}

#[test]
fn only_quotas_of_customers_with_an_ipv6_server_must_fit_the_ipv6_table() {
    let limits = |flows6| format!("flows = 1000\nflows6 = {flows6}\n");
    assert_eq!(three(&limits(250), "", "max_flows = 300\n").faults(), [] as [&str; 0]);
    let expected =
        "gateway.toml:13:10: quotas sum to 250 IPv6 flows (1 other 250), but [limits] flows6 is 249";
    assert_eq!(three(&limits(249), "", "").faults(), [expected]);
}

#[test]
fn more_customers_than_flows_do_not_fit_the_table() {
    // Every customer gets at least one flow.
    let expected = "gateway.toml:12:9: quotas sum to 3 IPv4 flows (3 others 1 each), but [limits] flows is 2";
    let faults = three("flows = 2\n", "", "").faults();
    assert_eq!(faults, [expected]);
}

#[test]
fn quotas_resolve_as_documented() {
    let policy = three("flows = 1000\n", "max_flows = 100\nnew_flows_per_second = 50\n", "").load().unwrap();
    let quota = |name: &str| {
        let customer = &policy.customers[&name.parse().unwrap()];
        let quota = customer.quota.resolve(&policy.gateway.limits);
        (quota.flows, quota.half_open, quota.new_flow_interval_ns, quota.new_flow_burst)
    };
    assert_eq!(quota("acme"), (100, 25, 20_000_000, 25));
    assert_eq!(quota("globex"), (250, 62, 16_129_032, 62));
    assert_eq!((policy.flows6(), policy.quotas()), (1000, (100 + 2 * 250, 100)));
}

#[test]
fn ipv6_table_without_an_ipv6_server_has_one_entry() {
    let dir = Dir::new();
    dir.write("customers/acme.toml", customer("10.200.0.11", "a.example", "10.1.0.0/16"));
    assert_eq!(dir.load().unwrap().flows6(), 1);
    dir.write("gateway.toml", format!("{GATEWAY}[limits]\nflows6 = 77\n"));
    assert_eq!(dir.load().unwrap().flows6(), 77);
}

#[test]
fn same_ipv6_server_of_two_customers_is_refused() {
    let dir = three("", "", "");
    dir.write("customers/umbrella.toml", customer("fd00:200::11", "u.example", "fd00:1::/64"));
    let expected = "customers/umbrella.toml:1:10: `fd00:200::11` is the server of customer `acme`, \
                    see customers/acme.toml:1:26";
    assert_eq!(dir.faults(), [expected]);
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
    assert_eq!(
        acme(&text),
        ["customers/acme.toml:7:8: the site name `a` is already taken, see customers/acme.toml:3:8"]
    );
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
    let expected = "customers/globex.toml:4:12: the identity `a.example` belongs to another site, \
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

#[test]
fn shares_resolve_as_documented() {
    let resolve = |flows, half_open, written: (Option<u32>, Option<u32>), sites| {
        let quota = layout::Quota { flows, half_open, ..layout::Quota::default() };
        let share = SiteQuota { max_flows: written.0, max_half_open: written.1 }.resolve(&quota, sites);
        (share.flows, share.half_open)
    };
    for (flows, half_open) in [(1, 1), (7, 3), (256, 64), (4096, 1024)] {
        assert_eq!(
            resolve(flows, half_open, (None, None), 1),
            (flows, half_open),
            "the only site has the whole"
        );
    }
    assert_eq!(resolve(4096, 1024, (None, None), 4), (1024, 256), "equal shares");
    assert_eq!(resolve(256, 64, (None, None), 100), (8, 8), "what a site needs");
    assert_eq!(resolve(9, 4, (None, None), 100), (4, 2), "no site has more than half by default");
    assert_eq!(resolve(1, 1, (None, None), 100), (1, 1));
    assert_eq!(resolve(4096, 1024, (Some(2048), None), 4), (2048, 512), "half-open flows in proportion");
    assert_eq!(resolve(4096, 1024, (None, Some(5)), 4), (1024, 5));
    assert_eq!(resolve(4096, 1024, (Some(5000), Some(2000)), 4), (4096, 1024), "never above a default quota");
}

/// Whatever its number of sites, a customer's site can take the whole quota only if it is the only one, or its
/// file says so; and equal shares fit the quota unless sites need more.
#[test]
fn default_share_leaves_room_for_others() {
    for flows in (2..300).chain([4096, 16_777_215]) {
        for sites in 2..70 {
            let quota = layout::Quota { flows, half_open: (flows / 4).max(2), ..layout::Quota::default() };
            let share = SiteQuota::default().resolve(&quota, sites);
            assert!(share.flows >= 1 && share.flows < flows, "{flows} {sites}");
            assert!(share.half_open >= 1 && share.half_open < quota.half_open, "{flows} {sites}");
            let all = u64::from(share.flows) * sites as u64;
            assert!(share.flows <= SiteQuota::LEAST || all <= u64::from(flows), "{flows} {sites}");
        }
    }
}
