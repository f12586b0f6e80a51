//! Attacks from a site's devices or its compromised router, through the site's own tunnel.
use std::net::{Ipv4Addr, Ipv6Addr};

use etherparse::ip_number;
use gateway_common::reason::Reason;

use super::watched::send_from_device;
use crate::{
    attack::{Attack, Expected},
    frame::{ping, tcp, udp, with_extension},
    server::PORT,
    site::{ACME_SERVER, ACME_SERVER_V6, GLOBEX_SERVER, INITECH_SERVER, SITES, WONKA_SERVER_V6},
};

/// Address of both acme-berlin's and globex-springfield's device.
const BERLIN: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 2);
/// An address in no site's LAN.
const NO_LAN: Ipv4Addr = Ipv4Addr::new(172, 20, 5, 5);
/// Address of both acme-berlin's and wonka-london's device.
const BERLIN_V6: Ipv6Addr = SITES[0].v6.unwrap().device;
/// An address in no site's LAN.
const NO_LAN_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x172, 0x20, 0, 0, 0, 0, 5);

pub const ATTACKS: &[Attack] = &[
    Attack {
        name: "device_reaches_other_customers_server",
        title: "acme berlin: connect to other customers' servers",
        expected: Expected::Dropped { customer: "acme", reason: Reason::DestinationNotServer },
        run: |lab| {
            let servers = [GLOBEX_SERVER, INITECH_SERVER];
            let packets = servers.map(|server| tcp((BERLIN, 21001), (server, PORT), "S", b""));
            send_from_device(lab, "berlin", &packets)
        },
    },
    Attack {
        name: "device_reaches_other_port_of_its_server",
        title: "acme berlin: own server, ports other than 80",
        expected: Expected::Dropped { customer: "acme", reason: Reason::PortNotAllowed },
        run: |lab| {
            let packets = [22, 81, 443, 8080].map(|port| tcp((BERLIN, 21002), (ACME_SERVER, port), "S", b""));
            send_from_device(lab, "berlin", &packets)
        },
    },
    Attack {
        name: "device_sends_udp_to_its_server",
        title: "acme berlin: UDP to its own server",
        expected: Expected::Dropped { customer: "acme", reason: Reason::ProtocolNotAllowed },
        run: |lab| {
            let packets = [53, PORT].map(|port| udp((BERLIN, 21003), (ACME_SERVER, port), b"hello"));
            send_from_device(lab, "berlin", &packets)
        },
    },
    Attack {
        name: "device_pings_its_server",
        title: "acme berlin: ICMP echo to its own server",
        expected: Expected::Dropped { customer: "acme", reason: Reason::ProtocolNotAllowed },
        run: |lab| send_from_device(lab, "berlin", &[ping(BERLIN, ACME_SERVER)]),
    },
    Attack {
        name: "site_uses_address_outside_its_lan",
        title: "acme berlin: source address outside its LAN",
        expected: Expected::Dropped { customer: "acme", reason: Reason::InnerSourceNotInSite },
        run: |lab| {
            let packet = tcp((NO_LAN, 21004), (ACME_SERVER, PORT), "S", b"");
            send_from_device(lab, "berlin", &[packet])
        },
    },
    Attack {
        name: "site_uses_other_customers_lan_address",
        title: "initech austin: spoofed source from acme's LAN",
        expected: Expected::Dropped { customer: "initech", reason: Reason::InnerSourceNotInSite },
        run: |lab| {
            let servers = [INITECH_SERVER, ACME_SERVER];
            let packets = servers.map(|server| tcp((BERLIN, 21005), (server, PORT), "S", b""));
            send_from_device(lab, "austin", &packets)
        },
    },
    Attack {
        name: "site_with_same_lan_reaches_other_customers_server",
        title: "globex springfield: same LAN as acme, acme's server",
        expected: Expected::Dropped { customer: "globex", reason: Reason::DestinationNotServer },
        run: |lab| {
            let packet = tcp((BERLIN, 21006), (ACME_SERVER, PORT), "S", b"");
            send_from_device(lab, "springfield", &[packet])
        },
    },
    Attack {
        name: "site_uses_address_of_other_site_of_its_customer",
        title: "acme munich: spoofed source from acme berlin's LAN",
        expected: Expected::Dropped { customer: "acme", reason: Reason::InnerSourceNotInSite },
        run: |lab| {
            let packet = tcp((BERLIN, 21007), (ACME_SERVER, PORT), "S", b"");
            send_from_device(lab, "munich", &[packet])
        },
    },
    Attack {
        name: "bare_ack_without_connection",
        title: "acme berlin: ACK without a connection",
        expected: Expected::Dropped { customer: "acme", reason: Reason::NoConnection },
        run: |lab| {
            send_from_device(lab, "berlin", &[tcp((BERLIN, 21008), (ACME_SERVER, PORT), "A", b"data")])
        },
    },
    Attack {
        name: "syn_ack_without_connection",
        title: "acme berlin: SYN-ACK without a connection",
        expected: Expected::Dropped { customer: "acme", reason: Reason::NoConnection },
        run: |lab| send_from_device(lab, "berlin", &[tcp((BERLIN, 21009), (ACME_SERVER, PORT), "SA", b"")]),
    },
    Attack {
        name: "fin_without_connection",
        title: "acme berlin: FIN without a connection",
        expected: Expected::Dropped { customer: "acme", reason: Reason::NoConnection },
        run: |lab| send_from_device(lab, "berlin", &[tcp((BERLIN, 21010), (ACME_SERVER, PORT), "FA", b"")]),
    },
    Attack {
        name: "rst_without_connection",
        title: "acme berlin: RST without a connection",
        expected: Expected::Dropped { customer: "acme", reason: Reason::NoConnection },
        run: |lab| send_from_device(lab, "berlin", &[tcp((BERLIN, 21011), (ACME_SERVER, PORT), "R", b"")]),
    },
    Attack {
        name: "syn_fin_to_its_server",
        title: "acme berlin: SYN and FIN in one segment",
        expected: Expected::Dropped { customer: "acme", reason: Reason::TcpFlagsInvalid },
        run: |lab| send_from_device(lab, "berlin", &[tcp((BERLIN, 21012), (ACME_SERVER, PORT), "SF", b"")]),
    },
    Attack {
        name: "device_reaches_other_customers_ipv6_server",
        title: "acme berlin: connect to wonka's IPv6 server",
        expected: Expected::Dropped { customer: "acme", reason: Reason::DestinationNotServer },
        run: |lab| {
            send_from_device(lab, "berlin", &[tcp((BERLIN_V6, 21021), (WONKA_SERVER_V6, PORT), "S", b"")])
        },
    },
    Attack {
        name: "site_with_same_ipv6_lan_reaches_other_customers_server",
        title: "wonka london: same IPv6 LAN as acme, acme's server",
        expected: Expected::Dropped { customer: "wonka", reason: Reason::DestinationNotServer },
        run: |lab| {
            send_from_device(lab, "london", &[tcp((BERLIN_V6, 21022), (ACME_SERVER_V6, PORT), "S", b"")])
        },
    },
    Attack {
        name: "device_reaches_other_port_of_its_ipv6_server",
        title: "wonka london: own IPv6 server, ports other than 80",
        expected: Expected::Dropped { customer: "wonka", reason: Reason::PortNotAllowed },
        run: |lab| {
            let packets =
                [22, 81, 443].map(|port| tcp((BERLIN_V6, 21023), (WONKA_SERVER_V6, port), "S", b""));
            send_from_device(lab, "london", &packets)
        },
    },
    Attack {
        name: "device_sends_udp_and_icmp_to_its_ipv6_server",
        title: "acme berlin: UDP and ICMPv6 to its own server",
        expected: Expected::Dropped { customer: "acme", reason: Reason::ProtocolNotAllowed },
        run: |lab| {
            let packets =
                [udp((BERLIN_V6, 21024), (ACME_SERVER_V6, PORT), b"hello"), ping(BERLIN_V6, ACME_SERVER_V6)];
            send_from_device(lab, "berlin", &packets)
        },
    },
    Attack {
        name: "site_uses_ipv6_address_outside_its_lan",
        title: "acme berlin: IPv6 source address outside its LAN",
        expected: Expected::Dropped { customer: "acme", reason: Reason::InnerSourceNotInSite },
        run: |lab| {
            let packet = tcp((NO_LAN_V6, 21025), (ACME_SERVER_V6, PORT), "S", b"");
            send_from_device(lab, "berlin", &[packet])
        },
    },
    Attack {
        name: "extension_headers_to_its_ipv6_server",
        title: "wonka london: IPv6 extension headers",
        expected: Expected::Dropped { customer: "wonka", reason: Reason::InnerHasIpOptions },
        run: |lab| {
            let syn = || tcp((BERLIN_V6, 21027), (WONKA_SERVER_V6, PORT), "S", b"");
            // A PadN option of 4 bytes (RFC 8200 section 4.2).
            let packets = [ip_number::IPV6_HEADER_HOP_BY_HOP, ip_number::IPV6_DESTINATION_OPTIONS]
                .map(|number| with_extension(syn(), number, [0, 1, 4, 0, 0, 0, 0]));
            send_from_device(lab, "london", &packets)
        },
    },
    Attack {
        name: "ipv6_fragments_to_its_server",
        title: "acme berlin: IPv6 fragments",
        expected: Expected::Dropped { customer: "acme", reason: Reason::InnerFragment },
        run: |lab| {
            // Reserved byte, offset with M flag, identification (RFC 8200 section 4.5), of a first and of a
            // later fragment.
            let packets = [[0, 0, 1, 0, 0, 0, 7], [0, 0, 8, 0, 0, 0, 7]].map(|body| {
                let syn = tcp((BERLIN_V6, 21028), (ACME_SERVER_V6, PORT), "S", b"data");
                with_extension(syn, ip_number::IPV6_FRAGMENTATION_HEADER, body)
            });
            send_from_device(lab, "berlin", &packets)
        },
    },
    Attack {
        name: "bare_ipv6_ack_without_connection",
        title: "wonka london: IPv6 ACK without a connection",
        expected: Expected::Dropped { customer: "wonka", reason: Reason::NoConnection },
        run: |lab| {
            let packet = tcp((BERLIN_V6, 21029), (WONKA_SERVER_V6, PORT), "A", b"data");
            send_from_device(lab, "london", &[packet])
        },
    },
];
