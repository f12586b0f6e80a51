//! Packets as an attacker makes them, and the raw sockets that send them.
use std::{
    net::{IpAddr, SocketAddr},
    os::fd::AsRawFd,
};

use anyhow::{Context, Result};
use etherparse::{
    EtherType, Ethernet2Header, IpHeaders, IpNumber, PacketBuilder, PacketBuilderStep, TcpHeader, ether_type,
    ip_number,
};
use gateway_tests_kit::{
    namespace::Namespace,
    raw::{self, packet_socket},
};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, sendto, socket,
};

use crate::topology::{GATEWAY_MAC, INTERNET_MAC};

const TTL: u8 = 64;

/// An address, of the same family as the packet's other one, and a port.
pub type End<A> = (A, u16);

/// An IP packet.
pub type Packet = Vec<u8>;

/// Of the IPv6 header.
const IPV6_HEADER_BYTES: usize = 40;

/// A TCP segment with the given flags, of `S`, `A`, `F`, `R` and `P`. Sequence numbers are those of a
/// connection nobody has.
pub fn tcp<A: Into<IpAddr>>(source: End<A>, destination: End<A>, flags: &str, payload: &[u8]) -> Packet {
    let mut header = TcpHeader::new(source.1, destination.1, 0x1234_5678, 65_000);
    header.acknowledgment_number = if flags.contains('A') { 0x2345_6789 } else { 0 };
    header.syn = flags.contains('S');
    header.ack = flags.contains('A');
    header.fin = flags.contains('F');
    header.rst = flags.contains('R');
    header.psh = flags.contains('P');
    tcp_with_header(source.0.into(), destination.0.into(), header, payload)
}

/// A TCP segment with this header, its checksum put right.
pub fn tcp_with_header(source: IpAddr, destination: IpAddr, header: TcpHeader, payload: &[u8]) -> Packet {
    let step = ip(source, destination).tcp_header(header);
    let mut packet = Vec::with_capacity(step.size(payload.len()));
    step.write(&mut packet, payload).expect("a short packet in memory");
    packet
}

/// A UDP datagram.
pub fn udp<A: Into<IpAddr>>(source: End<A>, destination: End<A>, payload: &[u8]) -> Packet {
    let step = ip(source.0.into(), destination.0.into()).udp(source.1, destination.1);
    let mut packet = Vec::with_capacity(step.size(payload.len()));
    step.write(&mut packet, payload).expect("a short packet in memory");
    packet
}

/// An ICMP or ICMPv6 echo request.
pub fn ping<A: Into<IpAddr>>(source: A, destination: A) -> Packet {
    let (source, destination) = (source.into(), destination.into());
    let step = ip(source, destination);
    let (payload, mut packet) = (b"ping", Vec::new());
    match source {
        IpAddr::V4(_) => step.icmpv4_echo_request(77, 1).write(&mut packet, payload),
        IpAddr::V6(_) => step.icmpv6_echo_request(77, 1).write(&mut packet, payload),
    }
    .expect("a short packet in memory");
    packet
}

/// A packet of any IP protocol.
pub fn protocol<A: Into<IpAddr>>(number: IpNumber, source: A, destination: A, payload: &[u8]) -> Packet {
    let step = ip(source.into(), destination.into());
    let mut packet = Vec::new();
    step.write(&mut packet, number, payload).expect("a short packet in memory");
    packet
}

/// An ESP packet with this SPI and a body that no key has encrypted.
pub fn esp<A: Into<IpAddr>>(source: A, destination: A, spi: u32) -> Packet {
    let mut body = [0xa5; 104];
    body[..4].copy_from_slice(&spi.to_be_bytes());
    body[4..8].copy_from_slice(&1_u32.to_be_bytes());
    protocol(ip_number::ENCAP_SEC, source, destination, &body)
}

/// An IPv6 packet with an extension header of 8 bytes put behind its IPv6 header: `body` is what follows its
/// "next header" (RFC 8200 section 4).
pub fn with_extension(mut packet: Packet, number: IpNumber, body: [u8; 7]) -> Packet {
    let next = std::mem::replace(&mut packet[6], number.0);
    let length = u16::from_be_bytes([packet[4], packet[5]]) + 8;
    packet[4..6].copy_from_slice(&length.to_be_bytes());
    packet.splice(IPV6_HEADER_BYTES..IPV6_HEADER_BYTES, [next].into_iter().chain(body));
    packet
}

/// Sends packets from `namespace` as they are, source address included; its routes decide the way.
pub fn send_packets(namespace: &Namespace, packets: &[Packet]) -> Result<()> {
    // IPPROTO_RAW: the header is in the packet.
    let raw = |family| {
        namespace.enter(|| Ok(socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw)?))
    };
    let sockets = (raw(AddressFamily::Inet)?, raw(AddressFamily::Inet6)?);
    for packet in packets {
        let to = destination(packet).context("no IP packet")?;
        let socket = if to.is_ipv4() { &sockets.0 } else { &sockets.1 };
        let address = SockaddrStorage::from(SocketAddr::new(to, 0));
        sendto(socket.as_raw_fd(), packet, &address, MsgFlags::empty())
            .with_context(|| format!("cannot send a packet to {to} in {}", namespace.name()))?;
    }
    Ok(())
}

fn destination(packet: &Packet) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => <[u8; 4]>::try_from(packet.get(16..20)?).ok().map(IpAddr::from),
        6 => <[u8; 16]>::try_from(packet.get(24..IPV6_HEADER_BYTES)?).ok().map(IpAddr::from),
        _ => None,
    }
}

/// Puts IP packets on the wire to the gateway's eth_internet, past all routing and filtering of the
/// sender: what anyone on the same segment could do.
pub fn send_on_gateway_wire(internet: &Namespace, packets: &[Packet]) -> Result<()> {
    let of_version = |packet: &Packet| match packet.first().map(|first| first >> 4) {
        Some(6) => ether_type::IPV6,
        _ => ether_type::IPV4,
    };
    packets.iter().try_for_each(|packet| {
        let header = (GATEWAY_MAC, INTERNET_MAC, of_version(packet));
        send_frames(internet, "gateway", header, std::slice::from_ref(packet))
    })
}

/// Sends packets on an interface's link, behind an Ethernet header of this destination, source and type.
pub fn send_frames(
    namespace: &Namespace,
    interface: &str,
    (destination, source, ether_type): ([u8; 6], [u8; 6], EtherType),
    packets: &[Packet],
) -> Result<()> {
    let socket = packet_socket(namespace, interface)?;
    let header = Ethernet2Header { destination, source, ether_type };
    for packet in packets {
        raw::put(&socket, &[&header.to_bytes()[..], packet].concat())?;
    }
    Ok(())
}

/// Both addresses are of one family.
fn ip(source: IpAddr, destination: IpAddr) -> PacketBuilderStep<IpHeaders> {
    PacketBuilder::ip(match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let mut header =
                etherparse::Ipv4Header::new(0, TTL, ip_number::TCP, source.octets(), destination.octets())
                    .expect("no payload is not too long");
            header.dont_fragment = true;
            IpHeaders::Ipv4(header, Default::default())
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let header = etherparse::Ipv6Header {
                hop_limit: TTL,
                source: source.octets(),
                destination: destination.octets(),
                ..Default::default()
            };
            IpHeaders::Ipv6(header, Default::default())
        }
        _ => panic!("no packet goes from {source} to {destination}"),
    })
}
