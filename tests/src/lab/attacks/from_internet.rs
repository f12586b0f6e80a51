//! What anyone on the internet tries without a tunnel.
use std::net::Ipv4Addr;

use etherparse::{IpNumber, ether_type, ip_number};
use gateway_common::reason::Reason;

use super::watched;
use crate::lab::{
    Lab,
    attack::{Attack, Expected, Seen},
    frame::{Packet, esp, ping, protocol, send_on_gateway_wire, tcp, udp},
    server::PORT,
    site::ACME_SERVER,
    topology::{GATEWAY, INTERNET_HOST},
};

const BERLIN: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 2);
/// SPIs that charon, which starts at 0xc0000000, does not give out.
const NOBODYS_SPIS: [u32; 3] = [0x1bad_cafe, 0x7fff_ffff, 0x0000_0101];

pub const ATTACKS: &[Attack] = &[
    Attack {
        name: "plaintext_to_server_from_spoofed_lan_address",
        what: "plaintext to a server, spoofed LAN source",
        expected: Expected::Dropped { customer: "-", reason: Reason::OuterNotGatewayAddress },
        run: |lab| {
            let packets = ["S", "A"].map(|flags| tcp((BERLIN, 23001), (ACME_SERVER, PORT), flags, b""));
            send_on_wire(lab, &packets)
        },
    },
    Attack {
        name: "plaintext_to_server_from_internet",
        what: "plaintext to a server from the internet",
        expected: Expected::Dropped { customer: "-", reason: Reason::OuterNotGatewayAddress },
        run: |lab| send_on_wire(lab, &[tcp((INTERNET_HOST, 23002), (ACME_SERVER, PORT), "S", b"")]),
    },
    Attack {
        name: "tcp_to_gateway",
        what: "TCP to the gateway",
        expected: Expected::Dropped { customer: "-", reason: Reason::OuterPortNotAllowed },
        run: |lab| {
            let packets =
                [22, PORT, 500, 4500].map(|port| tcp((INTERNET_HOST, 23003), (GATEWAY, port), "S", b""));
            send_on_wire(lab, &packets)
        },
    },
    Attack {
        name: "udp_to_gateway",
        what: "UDP to the gateway that is not IKE",
        expected: Expected::Dropped { customer: "-", reason: Reason::OuterPortNotAllowed },
        run: |lab| {
            let packets = [53, 501, 4501].map(|port| udp((INTERNET_HOST, 500), (GATEWAY, port), b"hello"));
            send_on_wire(lab, &packets)
        },
    },
    Attack {
        name: "ping_to_gateway",
        what: "ICMP echo to the gateway",
        expected: Expected::Dropped { customer: "-", reason: Reason::OuterProtocolNotAllowed },
        run: |lab| send_on_wire(lab, &[ping(INTERNET_HOST, GATEWAY)]),
    },
    Attack {
        name: "other_ip_protocols_to_gateway",
        what: "GRE, IP in IP, AH and SCTP to the gateway",
        expected: Expected::Dropped { customer: "-", reason: Reason::OuterProtocolNotAllowed },
        run: |lab| {
            let numbers = [IpNumber(47), ip_number::IPV4, ip_number::AUTH, ip_number::SCTP];
            let packets = numbers.map(|number| protocol(number, INTERNET_HOST, GATEWAY, &[0; 32]));
            send_on_wire(lab, &packets)
        },
    },
    Attack {
        name: "ipv6_to_gateway",
        what: "a frame that is not IPv4",
        expected: Expected::Dropped { customer: "-", reason: Reason::OuterNotIp },
        run: |lab| {
            let internet = &lab.topology.internet;
            watched(lab, 1, || send_on_gateway_wire(internet, ether_type::IPV6, &[vec![0x60; 60]]))
        },
    },
    Attack {
        name: "esp_with_random_spi",
        what: "ESP with a random SPI",
        expected: Expected::DroppedByKernel { counter: "XfrmInNoStates" },
        run: send_unknown_spis,
    },
];

/// The programs pass them on to the kernel, which alone knows all SPIs, and count each.
fn send_unknown_spis(lab: &Lab) -> anyhow::Result<Seen> {
    let count = || lab.gateway().unknown_spis(&lab.topology.gateway);
    let before = count()?;
    let mut seen = send_on_wire(lab, &NOBODYS_SPIS.map(|spi| esp(INTERNET_HOST, GATEWAY, spi)))?;
    if let (Some(before), Some(after)) = (before, count()?)
        && after - before != seen.sent
    {
        seen.leaks.push(format!("{} of {} were counted as unknown SPIs", after - before, seen.sent));
    }
    Ok(seen)
}

fn send_on_wire(lab: &Lab, packets: &[Packet]) -> anyhow::Result<Seen> {
    let internet = &lab.topology.internet;
    watched(lab, packets.len(), || send_on_gateway_wire(internet, ether_type::IPV4, packets))
}
