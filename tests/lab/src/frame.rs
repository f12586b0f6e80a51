//! Packets as an attacker makes them, and the raw sockets that send them.
use std::{
    net::{IpAddr, SocketAddr},
    os::fd::AsRawFd,
};

use anyhow::{Context, Result};
use etherparse::{IpNumber, TcpHeader, ip_number};
use gateway_tests_kit::{
    frame::{self, IPV6_BYTES},
    namespace::Namespace,
    packet::{Ethernet, Ip, Tcp},
    raw::{self, packet_socket},
    text::tcp_flags,
};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, sendto, socket,
};

use crate::topology::{GATEWAY_MAC, INTERNET_MAC};

/// An address, of the same family as the packet's other one, and a port.
pub type End<A> = (A, u16);

/// An IP packet.
pub type Packet = Vec<u8>;

/// Builds a TCP segment with flags of `SFRPA`. Its sequence numbers belong to no connection of the lab.
pub fn tcp<A: Into<IpAddr>>(source: End<A>, destination: End<A>, flags: &str, payload: &[u8]) -> Packet {
    let ip = ip(source.0.into(), destination.0.into());
    let tcp = Tcp {
        seq: Some(0x1234_5678),
        ack: flags.contains('A').then_some(0x2345_6789),
        window: 65_000,
        ..Tcp::new([source.1, destination.1], tcp_flags(flags).expect("flags as letters"))
    };
    around(&ip, ip_number::TCP, &tcp.segment(&ip, payload).expect("no options"))
}

/// Builds a TCP segment with a captured header, its checksum set anew. `identification` goes into the IPv4
/// header.
pub fn tcp_as_captured(
    (source, destination): (IpAddr, IpAddr),
    identification: u16,
    header: &TcpHeader,
    payload: &[u8],
) -> Packet {
    let ip = Ip { id: identification, ..ip(source, destination) };
    around(&ip, ip_number::TCP, &frame::tcp_as_captured(&ip, header, payload))
}

/// Builds a UDP datagram.
pub fn udp<A: Into<IpAddr>>(source: End<A>, destination: End<A>, payload: &[u8]) -> Packet {
    let ip = ip(source.0.into(), destination.0.into());
    let datagram = frame::udp(&ip, [source.1, destination.1], payload).expect("a short payload");
    around(&ip, ip_number::UDP, &datagram)
}

/// Builds an ICMP or ICMPv6 echo request.
pub fn ping<A: Into<IpAddr>>(source: A, destination: A) -> Packet {
    const ECHO_REQUEST: [u8; 2] = [8, 0];
    const ECHO_REQUEST_V6: [u8; 2] = [128, 0];
    const IDENTIFIER_AND_SEQUENCE: [u8; 4] = [0, 77, 0, 1];
    let (source, destination) = (source.into(), destination.into());
    let kind = if source.is_ipv4() { ECHO_REQUEST } else { ECHO_REQUEST_V6 };
    icmp(source, destination, kind, IDENTIFIER_AND_SEQUENCE, b"ping")
}

/// Builds an ICMP or ICMPv6 message: see [`frame::icmp`].
pub fn icmp<A: Into<IpAddr>>(
    source: A,
    destination: A,
    type_and_code: [u8; 2],
    rest_of_header: [u8; 4],
    body: &[u8],
) -> Packet {
    let ip = ip(source.into(), destination.into());
    let message = frame::icmp(&ip, type_and_code, rest_of_header, body);
    around(&ip, IpNumber(frame::icmp_protocol(&ip)), &message)
}

/// Builds a packet of any IP protocol.
pub fn protocol<A: Into<IpAddr>>(number: IpNumber, source: A, destination: A, payload: &[u8]) -> Packet {
    around(&ip(source.into(), destination.into()), number, payload)
}

/// Builds an ESP packet with this SPI and a body that no key has encrypted.
pub fn esp<A: Into<IpAddr>>(source: A, destination: A, spi: u32) -> Packet {
    protocol(ip_number::ENCAP_SEC, source, destination, &frame::esp(spi, &[0xa5; 96]))
}

/// Inserts an extension header of 8 bytes behind the IPv6 header of a packet: `body` is all but its "next
/// header" (RFC 8200 section 4).
pub fn with_extension(mut packet: Packet, number: IpNumber, body: [u8; 7]) -> Packet {
    let next = std::mem::replace(&mut packet[6], number.0);
    let length = u16::from_be_bytes([packet[4], packet[5]]) + 8;
    packet[4..6].copy_from_slice(&length.to_be_bytes());
    packet.splice(IPV6_BYTES..IPV6_BYTES, [next].into_iter().chain(body));
    packet
}

/// Sends packets from `namespace` with the source addresses they have; its routes decide the way.
pub fn send_packets(namespace: &Namespace, packets: &[Packet]) -> Result<()> {
    // IPPROTO_RAW: the header is in the packet.
    let raw = |family| {
        namespace.enter(|| Ok(socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw)?))
    };
    let sockets = (raw(AddressFamily::Inet)?, raw(AddressFamily::Inet6)?);
    for packet in packets {
        let to = destination(packet).context("not an IP packet")?;
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
        6 => <[u8; 16]>::try_from(packet.get(24..IPV6_BYTES)?).ok().map(IpAddr::from),
        _ => None,
    }
}

/// Puts IP packets on the wire to the gateway's eth_internet, past all routing and filtering of the sender,
/// as anyone on the same segment could.
pub fn send_on_gateway_wire(internet: &Namespace, packets: &[Packet]) -> Result<()> {
    send_frames(internet, "gateway", &Ethernet::new(INTERNET_MAC, GATEWAY_MAC), packets)
}

/// Sends packets on an interface's link behind this Ethernet header.
pub fn send_frames(
    namespace: &Namespace,
    interface: &str,
    header: &Ethernet,
    packets: &[Packet],
) -> Result<()> {
    let socket = packet_socket(namespace, interface)?;
    packets.iter().try_for_each(|packet| raw::put(&socket, &header.around(packet)))
}

/// Returns the header of a packet that is not fragmented. Both addresses are of one family.
fn ip(source: IpAddr, destination: IpAddr) -> Ip {
    Ip { id: 0, df: true, ..Ip::new(source, destination) }
}

fn around(ip: &Ip, number: IpNumber, body: &[u8]) -> Packet {
    ip.around(number.0, body).expect("a short packet between addresses of one family")
}
