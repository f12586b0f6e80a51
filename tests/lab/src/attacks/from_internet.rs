//! Attacks from the internet, without a tunnel.
use std::net::{Ipv4Addr, Ipv6Addr};

use etherparse::{IpNumber, ip_number};
use gateway_common::reason::Reason;
use gateway_tests_kit::packet::Ethernet;

use super::watched::watched;
use crate::{
    attack::{Attack, Expected, Seen},
    frame::{Packet, esp, ping, protocol, send_frames, send_on_gateway_wire, tcp, udp, with_extension},
    lab::Lab,
    server::PORT,
    site::{ACME_SERVER, ACME_SERVER_V6, SITES},
    topology::{
        GATEWAY, GATEWAY_MAC, GATEWAY_V6, INTERNET_HOST, INTERNET_HOST_V6, INTERNET_MAC, INTERNET_V6,
    },
};

const BERLIN: Ipv4Addr = SITES[0].device;
const BERLIN_V6: Ipv6Addr = SITES[0].v6.unwrap().device;
/// EtherType for local experiments (IEEE Std 802).
const EXPERIMENTAL: u16 = 0x88b5;
/// SPIs that no tunnel has: charon allocates from 0xc0000000 on.
const UNUSED_SPIS: [u32; 3] = [0x1bad_cafe, 0x7fff_ffff, 0x0000_0101];

pub const ATTACKS: &[Attack] = &[
    Attack {
        name: "plaintext_to_server_from_spoofed_lan_address",
        title: "internet: plaintext to a server, spoofed LAN source",
        expected: Expected::Dropped { customer: "-", reason: Reason::OuterNotGatewayAddress },
        run: |lab| {
            let packets = ["S", "A"].map(|flags| tcp((BERLIN, 23001), (ACME_SERVER, PORT), flags, b""));
            send_on_wire(lab, &packets)
        },
    },
    Attack {
        name: "plaintext_to_server_from_internet",
        title: "internet: plaintext to a server",
        expected: Expected::Dropped { customer: "-", reason: Reason::OuterNotGatewayAddress },
        run: |lab| send_on_wire(lab, &[tcp((INTERNET_HOST, 23002), (ACME_SERVER, PORT), "S", b"")]),
    },
    Attack {
        name: "tcp_to_gateway",
        title: "internet: TCP to the gateway",
        expected: Expected::Dropped { customer: "-", reason: Reason::OuterPortNotAllowed },
        run: |lab| {
            let packets =
                [22, PORT, 500, 4500].map(|port| tcp((INTERNET_HOST, 23003), (GATEWAY, port), "S", b""));
            send_on_wire(lab, &packets)
        },
    },
    Attack {
        name: "udp_to_gateway",
        title: "internet: UDP to the gateway, not to an IKE port",
        expected: Expected::Dropped { customer: "-", reason: Reason::OuterPortNotAllowed },
        run: |lab| {
            let packets = [53, 501, 4501].map(|port| udp((INTERNET_HOST, 500), (GATEWAY, port), b"hello"));
            send_on_wire(lab, &packets)
        },
    },
    Attack {
        name: "ping_to_gateway",
        title: "internet: ICMP echo to the gateway",
        expected: Expected::Dropped { customer: "-", reason: Reason::OuterProtocolNotAllowed },
        run: |lab| send_on_wire(lab, &[ping(INTERNET_HOST, GATEWAY)]),
    },
    Attack {
        name: "other_ip_protocols_to_gateway",
        title: "internet: GRE, IP-in-IP, AH and SCTP to the gateway",
        expected: Expected::Dropped { customer: "-", reason: Reason::OuterProtocolNotAllowed },
        run: |lab| {
            let numbers = [IpNumber(47), ip_number::IPV4, ip_number::AUTH, ip_number::SCTP];
            let packets = numbers.map(|number| protocol(number, INTERNET_HOST, GATEWAY, &[0; 32]));
            send_on_wire(lab, &packets)
        },
    },
    Attack {
        name: "frame_that_is_not_ip",
        title: "internet: Ethernet frame that is not IP",
        expected: Expected::Dropped { customer: "-", reason: Reason::OuterNotIp },
        run: |lab| {
            let internet = &lab.topology.internet;
            let header =
                Ethernet { ether_type: Some(EXPERIMENTAL), ..Ethernet::new(INTERNET_MAC, GATEWAY_MAC) };
            watched(lab, 1, || send_frames(internet, "gateway", &header, &[vec![0x60; 60]]))
        },
    },
    Attack {
        name: "malformed_ipv6_to_gateway",
        title: "internet: truncated IPv6 packet",
        expected: Expected::Dropped { customer: "-", reason: Reason::OuterMalformed },
        run: |lab| send_on_wire(lab, &[vec![0x60; 60]]),
    },
    Attack {
        name: "ipv6_plaintext_to_server",
        title: "internet: IPv6 plaintext to a server",
        expected: Expected::Dropped { customer: "-", reason: Reason::OuterNotGatewayAddress },
        run: |lab| {
            let packets = [(BERLIN_V6, "S"), (BERLIN_V6, "A"), (INTERNET_HOST_V6, "S")]
                .map(|(source, flags)| tcp((source, 23011), (ACME_SERVER_V6, PORT), flags, b""));
            send_on_wire(lab, &packets)
        },
    },
    Attack {
        name: "ipv6_tcp_and_udp_to_gateway",
        title: "internet: IPv6 TCP and UDP to the gateway",
        expected: Expected::Dropped { customer: "-", reason: Reason::OuterPortNotAllowed },
        run: |lab| {
            let (source, own) = ((INTERNET_HOST_V6, 23012), |port| (GATEWAY_V6, port));
            let packets =
                [tcp(source, own(22), "S", b""), tcp(source, own(500), "S", b""), udp(source, own(53), b"")];
            send_on_wire(lab, &packets)
        },
    },
    Attack {
        name: "ping_and_ip_in_ipv6_to_gateway",
        title: "internet: ICMPv6 echo and IP-in-IPv6 to the gateway",
        expected: Expected::Dropped { customer: "-", reason: Reason::OuterProtocolNotAllowed },
        run: |lab| {
            let tunnelled = |number| protocol(number, INTERNET_HOST_V6, GATEWAY_V6, &[0; 40]);
            let packets =
                [ping(INTERNET_HOST_V6, GATEWAY_V6), tunnelled(ip_number::IPV4), tunnelled(ip_number::IPV6)];
            send_on_wire(lab, &packets)
        },
    },
    Attack {
        name: "esp_behind_extension_headers",
        title: "internet: ESP behind IPv6 extension headers",
        expected: Expected::Dropped { customer: "-", reason: Reason::OuterHasIpOptions },
        run: |lab| {
            // A PadN option of 4 bytes (RFC 8200 section 4.2).
            let packets =
                [ip_number::IPV6_HEADER_HOP_BY_HOP, ip_number::IPV6_DESTINATION_OPTIONS].map(|number| {
                    let esp = esp(INTERNET_HOST_V6, GATEWAY_V6, UNUSED_SPIS[0]);
                    with_extension(esp, number, [0, 1, 4, 0, 0, 0, 0])
                });
            send_on_wire(lab, &packets)
        },
    },
    Attack {
        name: "redirect_from_the_next_hop",
        title: "internet: ICMPv6 redirect, as from the next hop",
        expected: Expected::Dropped { customer: "-", reason: Reason::OuterProtocolNotAllowed },
        run: |lab| {
            let redirect = [&[137, 0, 0, 0, 0, 0, 0, 0][..], &[0; 32]].concat();
            let mut packet = protocol(ip_number::IPV6_ICMP, INTERNET_V6, GATEWAY_V6, &redirect);
            packet[7] = 255;
            send_on_wire(lab, &[packet])
        },
    },
    Attack {
        name: "esp_with_random_spi",
        title: "internet: ESP with an unknown SPI",
        expected: Expected::DroppedByKernel { counter: "XfrmInNoStates" },
        run: |lab| send_unknown_spis(lab, &UNUSED_SPIS.map(|spi| esp(INTERNET_HOST, GATEWAY, spi))),
    },
    Attack {
        name: "esp_in_ipv6_with_random_spi",
        title: "internet: ESP over IPv6 with an unknown SPI",
        expected: Expected::DroppedByKernel { counter: "XfrmInNoStates" },
        run: |lab| send_unknown_spis(lab, &UNUSED_SPIS.map(|spi| esp(INTERNET_HOST_V6, GATEWAY_V6, spi))),
    },
];

/// Sends ESP with unknown SPIs. The programs count each packet and pass it on to the kernel, which alone
/// knows all SPIs.
fn send_unknown_spis(lab: &Lab, packets: &[Packet]) -> anyhow::Result<Seen> {
    let count = || lab.gateway().unknown_spis(&lab.topology.gateway);
    let before = count()?;
    let mut seen = send_on_wire(lab, packets)?;
    if let (Some(before), Some(after)) = (before, count()?)
        && after - before != seen.sent
    {
        seen.leaks.push(format!("{} of {} counted as unknown SPIs", after - before, seen.sent));
    }
    Ok(seen)
}

fn send_on_wire(lab: &Lab, packets: &[Packet]) -> anyhow::Result<Seen> {
    let internet = &lab.topology.internet;
    watched(lab, packets.len(), || send_on_gateway_wire(internet, packets))
}
