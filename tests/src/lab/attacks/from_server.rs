//! What a compromised server tries: it has the gateway as its only neighbour.
use std::net::Ipv4Addr;

use gateway_common::reason::Reason;

use super::send_from_server;
use crate::lab::{
    attack::{Attack, Expected},
    frame::{tcp, udp},
    server::PORT,
    site::{ACME_SERVER, GLOBEX_SERVER},
    topology::{GATEWAY, GATEWAY_LAN, INTERNET_HOST},
};

const BERLIN: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 2);
const MUNICH: Ipv4Addr = Ipv4Addr::new(10, 20, 1, 2);
const NO_SERVER: Ipv4Addr = Ipv4Addr::new(10, 200, 0, 99);

pub const ATTACKS: &[Attack] = &[
    Attack {
        name: "server_connects_to_device",
        what: "server opens a connection to a device",
        expected: Expected::Dropped { customer: "acme", reason: Reason::NewFromServer },
        run: |lab| {
            let packets = [BERLIN, MUNICH].map(|device| tcp((ACME_SERVER, 22001), (device, PORT), "S", b""));
            send_from_server(lab, "acme", &packets)
        },
    },
    Attack {
        name: "server_connects_to_gateway",
        what: "server opens a connection to the gateway",
        expected: Expected::Dropped { customer: "acme", reason: Reason::NewFromServer },
        run: |lab| {
            let packets = [GATEWAY_LAN, GATEWAY].map(|own| tcp((ACME_SERVER, 22002), (own, 22), "S", b""));
            send_from_server(lab, "acme", &packets)
        },
    },
    Attack {
        name: "server_connects_to_other_customers_server",
        what: "server opens a connection to another's server",
        expected: Expected::Dropped { customer: "acme", reason: Reason::NewFromServer },
        run: |lab| {
            let packet = tcp((ACME_SERVER, 22003), (GLOBEX_SERVER, PORT), "S", b"");
            send_from_server(lab, "acme", &[packet])
        },
    },
    Attack {
        name: "server_connects_to_internet",
        what: "server opens a connection to the internet",
        expected: Expected::Dropped { customer: "acme", reason: Reason::NewFromServer },
        run: |lab| {
            let packet = tcp((ACME_SERVER, 22004), (INTERNET_HOST, 443), "S", b"");
            send_from_server(lab, "acme", &[packet])
        },
    },
    Attack {
        name: "server_sends_udp_to_internet",
        what: "server sends UDP to the internet",
        expected: Expected::Dropped { customer: "acme", reason: Reason::ProtocolNotAllowed },
        run: |lab| {
            let packet = udp((ACME_SERVER, 22005), (INTERNET_HOST, 53), b"query");
            send_from_server(lab, "acme", &[packet])
        },
    },
    Attack {
        name: "server_replies_without_connection",
        what: "a server's reply for a flow it has not",
        expected: Expected::Dropped { customer: "acme", reason: Reason::ReplyWithoutConnection },
        run: |lab| {
            let packets =
                ["SA", "A", "FA", "R"].map(|flags| tcp((ACME_SERVER, PORT), (BERLIN, 22006), flags, b""));
            send_from_server(lab, "acme", &packets)
        },
    },
    Attack {
        name: "cloud_lan_address_of_no_server",
        what: "a cloud LAN address that is no server's",
        expected: Expected::Dropped { customer: "-", reason: Reason::SourceNotServer },
        run: |lab| {
            let packet = tcp((NO_SERVER, PORT), (BERLIN, 22007), "SA", b"");
            send_from_server(lab, "acme", &[packet])
        },
    },
];
