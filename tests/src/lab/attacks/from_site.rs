//! What a site's devices, or its compromised router, try through their own tunnel.
use std::net::Ipv4Addr;

use gateway_common::reason::Reason;

use super::send_from_device;
use crate::lab::{
    attack::{Attack, Expected},
    frame::{ping, tcp, udp},
    server::PORT,
    site::{ACME_SERVER, GLOBEX_SERVER, INITECH_SERVER},
};

/// Devices of acme-berlin and globex-springfield, at the same time.
const BERLIN: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 2);
const NOBODYS_LAN: Ipv4Addr = Ipv4Addr::new(172, 20, 5, 5);

pub const ATTACKS: &[Attack] = &[
    Attack {
        name: "device_reaches_other_customers_server",
        what: "device to another customer's server",
        expected: Expected::Dropped { customer: "acme", reason: Reason::DestinationNotServer },
        run: |lab| {
            let servers = [GLOBEX_SERVER, INITECH_SERVER];
            let packets = servers.map(|server| tcp((BERLIN, 21001), (server, PORT), "S", b""));
            send_from_device(lab, "berlin", &packets)
        },
    },
    Attack {
        name: "device_reaches_other_port_of_its_server",
        what: "device to its own server, other ports",
        expected: Expected::Dropped { customer: "acme", reason: Reason::PortNotAllowed },
        run: |lab| {
            let packets = [22, 81, 443, 8080].map(|port| tcp((BERLIN, 21002), (ACME_SERVER, port), "S", b""));
            send_from_device(lab, "berlin", &packets)
        },
    },
    Attack {
        name: "device_sends_udp_to_its_server",
        what: "UDP from a device to its own server",
        expected: Expected::Dropped { customer: "acme", reason: Reason::ProtocolNotAllowed },
        run: |lab| {
            let packets = [53, PORT].map(|port| udp((BERLIN, 21003), (ACME_SERVER, port), b"hello"));
            send_from_device(lab, "berlin", &packets)
        },
    },
    Attack {
        name: "device_pings_its_server",
        what: "ICMP from a device to its own server",
        expected: Expected::Dropped { customer: "acme", reason: Reason::ProtocolNotAllowed },
        run: |lab| send_from_device(lab, "berlin", &[ping(BERLIN, ACME_SERVER)]),
    },
    Attack {
        name: "site_uses_address_outside_its_lan",
        what: "inner source outside the site's LAN",
        expected: Expected::Dropped { customer: "acme", reason: Reason::InnerSourceNotInSite },
        run: |lab| {
            let packet = tcp((NOBODYS_LAN, 21004), (ACME_SERVER, PORT), "S", b"");
            send_from_device(lab, "berlin", &[packet])
        },
    },
    Attack {
        name: "site_uses_other_customers_lan_address",
        what: "another customer's LAN address, other prefix",
        expected: Expected::Dropped { customer: "initech", reason: Reason::InnerSourceNotInSite },
        run: |lab| {
            let servers = [INITECH_SERVER, ACME_SERVER];
            let packets = servers.map(|server| tcp((BERLIN, 21005), (server, PORT), "S", b""));
            send_from_device(lab, "austin", &packets)
        },
    },
    Attack {
        name: "site_with_same_lan_reaches_other_customers_server",
        what: "another customer's LAN address, same prefix",
        expected: Expected::Dropped { customer: "globex", reason: Reason::DestinationNotServer },
        run: |lab| {
            let packet = tcp((BERLIN, 21006), (ACME_SERVER, PORT), "S", b"");
            send_from_device(lab, "springfield", &[packet])
        },
    },
    Attack {
        name: "site_uses_address_of_other_site_of_its_customer",
        what: "an address of the customer's other site",
        expected: Expected::Dropped { customer: "acme", reason: Reason::InnerSourceNotInSite },
        run: |lab| {
            let packet = tcp((BERLIN, 21007), (ACME_SERVER, PORT), "S", b"");
            send_from_device(lab, "munich", &[packet])
        },
    },
    Attack {
        name: "bare_ack_without_connection",
        what: "a bare ACK without a connection",
        expected: Expected::Dropped { customer: "acme", reason: Reason::NoConnection },
        run: |lab| {
            send_from_device(lab, "berlin", &[tcp((BERLIN, 21008), (ACME_SERVER, PORT), "A", b"data")])
        },
    },
    Attack {
        name: "syn_ack_without_connection",
        what: "a SYN-ACK without a connection",
        expected: Expected::Dropped { customer: "acme", reason: Reason::NoConnection },
        run: |lab| send_from_device(lab, "berlin", &[tcp((BERLIN, 21009), (ACME_SERVER, PORT), "SA", b"")]),
    },
    Attack {
        name: "fin_without_connection",
        what: "a FIN without a connection",
        expected: Expected::Dropped { customer: "acme", reason: Reason::NoConnection },
        run: |lab| send_from_device(lab, "berlin", &[tcp((BERLIN, 21010), (ACME_SERVER, PORT), "FA", b"")]),
    },
    Attack {
        name: "rst_without_connection",
        what: "a RST without a connection",
        expected: Expected::Dropped { customer: "acme", reason: Reason::NoConnection },
        run: |lab| send_from_device(lab, "berlin", &[tcp((BERLIN, 21011), (ACME_SERVER, PORT), "R", b"")]),
    },
    Attack {
        name: "syn_fin_to_its_server",
        what: "flags no TCP sends: SYN and FIN",
        expected: Expected::Dropped { customer: "acme", reason: Reason::TcpFlagsInvalid },
        run: |lab| send_from_device(lab, "berlin", &[tcp((BERLIN, 21012), (ACME_SERVER, PORT), "SF", b"")]),
    },
];
