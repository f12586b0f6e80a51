//! Attacks from a compromised server, whose only neighbour is the gateway.
use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::Result;
use gateway_common::reason::Reason;
use gateway_tests_kit::{packet::Ethernet, process::output};

use super::watched::{send_from_server, watched};

use crate::{
    attack::{Attack, Expected, Seen},
    frame::{Packet, icmp, send_frames, tcp, udp},
    lab::Lab,
    server::PORT,
    site::{ACME_SERVER, ACME_SERVER_V6, GLOBEX_SERVER, SITES, WONKA_SERVER_V6},
    topology::{GATEWAY, GATEWAY_LAN, GATEWAY_LAN_V6, GATEWAY_V6, INTERNET_HOST, INTERNET_HOST_V6},
};

const BERLIN: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 2);
const MUNICH: Ipv4Addr = Ipv4Addr::new(10, 20, 1, 2);
const BERLIN_V6: Ipv6Addr = SITES[0].v6.unwrap().device;
/// A cloud LAN address that no customer's policy names.
const NO_SERVER: Ipv4Addr = Ipv4Addr::new(10, 200, 0, 99);

pub const ATTACKS: &[Attack] = &[
    Attack {
        name: "server_connects_to_device",
        title: "acme server: open a connection to a device",
        expected: Expected::Dropped { customer: "acme", reason: Reason::NewFromServer },
        run: |lab| {
            let packets = [BERLIN, MUNICH].map(|device| tcp((ACME_SERVER, 22001), (device, PORT), "S", b""));
            send_from_server(lab, "acme", &packets)
        },
    },
    Attack {
        name: "server_connects_to_gateway",
        title: "acme server: open a connection to the gateway",
        expected: Expected::Dropped { customer: "acme", reason: Reason::NewFromServer },
        run: |lab| {
            let packets = [GATEWAY_LAN, GATEWAY].map(|own| tcp((ACME_SERVER, 22002), (own, 22), "S", b""));
            send_from_server(lab, "acme", &packets)
        },
    },
    Attack {
        name: "server_connects_to_other_customers_server",
        title: "acme server: open a connection to globex's server",
        expected: Expected::Dropped { customer: "acme", reason: Reason::NewFromServer },
        run: |lab| {
            let packet = tcp((ACME_SERVER, 22003), (GLOBEX_SERVER, PORT), "S", b"");
            send_from_server(lab, "acme", &[packet])
        },
    },
    Attack {
        name: "server_connects_to_internet",
        title: "acme server: open a connection to the internet",
        expected: Expected::Dropped { customer: "acme", reason: Reason::NewFromServer },
        run: |lab| {
            let packet = tcp((ACME_SERVER, 22004), (INTERNET_HOST, 443), "S", b"");
            send_from_server(lab, "acme", &[packet])
        },
    },
    Attack {
        name: "server_sends_udp_to_internet",
        title: "acme server: UDP to the internet",
        expected: Expected::Dropped { customer: "acme", reason: Reason::ProtocolNotAllowed },
        run: |lab| {
            let packet = udp((ACME_SERVER, 22005), (INTERNET_HOST, 53), b"query");
            send_from_server(lab, "acme", &[packet])
        },
    },
    Attack {
        name: "server_replies_without_connection",
        title: "acme server: reply without a connection",
        expected: Expected::Dropped { customer: "acme", reason: Reason::ReplyWithoutConnection },
        run: |lab| {
            let packets =
                ["SA", "A", "FA", "R"].map(|flags| tcp((ACME_SERVER, PORT), (BERLIN, 22006), flags, b""));
            send_from_server(lab, "acme", &packets)
        },
    },
    Attack {
        name: "cloud_lan_address_of_no_server",
        title: "acme server: cloud LAN source of no server",
        expected: Expected::Dropped { customer: "-", reason: Reason::SourceNotServer },
        run: |lab| {
            let packet = tcp((NO_SERVER, PORT), (BERLIN, 22007), "SA", b"");
            send_from_server(lab, "acme", &[packet])
        },
    },
    Attack {
        name: "ipv6_server_connects_to_device",
        title: "wonka server: open an IPv6 connection to a device",
        expected: Expected::Dropped { customer: "wonka", reason: Reason::NewFromServer },
        run: |lab| {
            let packet = tcp((WONKA_SERVER_V6, 22011), (BERLIN_V6, PORT), "S", b"");
            send_from_server(lab, "wonka", &[packet])
        },
    },
    Attack {
        name: "ipv6_server_connects_elsewhere",
        title: "acme server: IPv6 to gateway, internet, other server",
        expected: Expected::Dropped { customer: "acme", reason: Reason::NewFromServer },
        run: |lab| {
            let packets = [GATEWAY_LAN_V6, GATEWAY_V6, INTERNET_HOST_V6, WONKA_SERVER_V6]
                .map(|address| tcp((ACME_SERVER_V6, 22012), (address, 22), "S", b""));
            send_from_server(lab, "acme", &packets)
        },
    },
    Attack {
        name: "ipv6_server_replies_without_connection",
        title: "acme server: IPv6 reply without a connection",
        expected: Expected::Dropped { customer: "acme", reason: Reason::ReplyWithoutConnection },
        run: |lab| {
            let packets = ["SA", "A", "FA", "R"]
                .map(|flags| tcp((ACME_SERVER_V6, PORT), (BERLIN_V6, 22013), flags, b""));
            send_from_server(lab, "acme", &packets)
        },
    },
    Attack {
        name: "server_advertises_itself_as_router",
        title: "acme server: IPv6 router advertisement",
        expected: Expected::Dropped { customer: "-", reason: Reason::SourceNotServer },
        run: advertise,
    },
];

/// Sends a router advertisement to all nodes (RFC 4861 section 4.2), as the gateway's kernel would accept it.
/// The gateway must gain neither an address nor a route from it.
fn advertise(lab: &Lab) -> Result<Seen> {
    const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
    const SERVER_MAC: [u8; 6] = [0x06, 0, 0, 0, 0x22, 0x14];
    const SERVER_LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x2214);
    const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let of_gateway = || -> Result<_> {
        let ip = |what: &str| output(lab.topology.gateway.command("ip").args(["-6", what, "show"]));
        Ok([ip("route")?, ip("address")?])
    };
    let before = of_gateway()?;
    let mut packet = router_advertisement(SERVER_LINK_LOCAL, ALL_NODES);
    packet[7] = 255;
    let server = lab.topology.server("acme")?;
    let mut seen = watched(lab, 1, || {
        send_frames(server, "eth0", &Ethernet::new(SERVER_MAC, ALL_NODES_MAC), &[packet])
    })?;
    let after = of_gateway()?;
    if after != before {
        seen.leaks.push(format!("the gateway's routes and addresses changed from {before:?} to {after:?}"));
    }
    Ok(seen)
}

/// Builds a router advertisement with a prefix for autoconfiguration: RFC 4861 sections 4.2 and 4.6.2.
fn router_advertisement(source: Ipv6Addr, destination: Ipv6Addr) -> Packet {
    const ROUTER_ADVERTISEMENT: u8 = 134;
    const HOP_LIMIT_FLAGS_LIFETIME: [u8; 4] = [64, 0, 0x07, 0x08];
    const TIMERS: [u8; 8] = [0; 8];
    const PREFIX_64_ON_LINK_AUTONOMOUS: [u8; 4] = [3, 4, 64, 0xc0];
    const LIFETIMES: [u8; 12] = [0, 0, 0x0e, 0x10, 0, 0, 0x0e, 0x10, 0, 0, 0, 0];
    const PREFIX: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xbad, 0, 0, 0, 0, 0, 0);
    let body = [&TIMERS[..], &PREFIX_64_ON_LINK_AUTONOMOUS, &LIFETIMES, &PREFIX.octets()].concat();
    icmp(source, destination, [ROUTER_ADVERTISEMENT, 0], HOP_LIMIT_FLAGS_LIFETIME, &body)
}
