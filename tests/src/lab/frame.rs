//! Packets as an attacker makes them, and the raw sockets that send them.
use std::{
    mem,
    net::Ipv4Addr,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use anyhow::{Context, Result, ensure};
use etherparse::{
    EtherType, Ethernet2Header, IpNumber, PacketBuilder, PacketBuilderStep, TcpHeader, ip_number,
};
use nix::{
    libc,
    net::if_::if_nametoindex,
    sys::socket::{
        AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, send, sendto, socket,
    },
};

use super::{
    namespace::Namespace,
    topology::{GATEWAY_MAC, INTERNET_MAC},
};

const TTL: u8 = 64;

/// An address and a port.
pub type End = (Ipv4Addr, u16);

/// An IPv4 packet.
pub type Packet = Vec<u8>;

/// A TCP segment with the given flags, of `S`, `A`, `F`, `R` and `P`. Sequence numbers are those of a
/// connection nobody has.
pub fn tcp(source: End, destination: End, flags: &str, payload: &[u8]) -> Packet {
    let mut header = TcpHeader::new(source.1, destination.1, 0x1234_5678, 65_000);
    header.acknowledgment_number = if flags.contains('A') { 0x2345_6789 } else { 0 };
    header.syn = flags.contains('S');
    header.ack = flags.contains('A');
    header.fin = flags.contains('F');
    header.rst = flags.contains('R');
    header.psh = flags.contains('P');
    tcp_with_header(source.0, destination.0, header, payload)
}

/// A TCP segment with this header, its checksum put right.
pub fn tcp_with_header(source: Ipv4Addr, destination: Ipv4Addr, header: TcpHeader, payload: &[u8]) -> Packet {
    let step = ipv4(source, destination).tcp_header(header);
    let mut packet = Vec::with_capacity(step.size(payload.len()));
    step.write(&mut packet, payload).expect("a short packet in memory");
    packet
}

/// A UDP datagram.
pub fn udp(source: End, destination: End, payload: &[u8]) -> Packet {
    let step = ipv4(source.0, destination.0).udp(source.1, destination.1);
    let mut packet = Vec::with_capacity(step.size(payload.len()));
    step.write(&mut packet, payload).expect("a short packet in memory");
    packet
}

/// An ICMP echo request.
pub fn ping(source: Ipv4Addr, destination: Ipv4Addr) -> Packet {
    let step = ipv4(source, destination).icmpv4_echo_request(77, 1);
    let payload = b"ping";
    let mut packet = Vec::with_capacity(step.size(payload.len()));
    step.write(&mut packet, payload).expect("a short packet in memory");
    packet
}

/// A packet of any IP protocol.
pub fn protocol(number: IpNumber, source: Ipv4Addr, destination: Ipv4Addr, payload: &[u8]) -> Packet {
    let step = ipv4(source, destination);
    let mut packet = Vec::new();
    step.write(&mut packet, number, payload).expect("a short packet in memory");
    packet
}

/// An ESP packet with this SPI and a body that no key has encrypted.
pub fn esp(source: Ipv4Addr, destination: Ipv4Addr, spi: u32) -> Packet {
    let mut body = [0xa5; 104];
    body[..4].copy_from_slice(&spi.to_be_bytes());
    body[4..8].copy_from_slice(&1_u32.to_be_bytes());
    protocol(ip_number::ENCAP_SEC, source, destination, &body)
}

/// Sends packets from `namespace` as they are, source address included; its routes decide the way.
pub fn send_packets(namespace: &Namespace, packets: &[Packet]) -> Result<()> {
    // IPPROTO_RAW: the header is in the packet.
    let socket = namespace.enter(|| {
        Ok(socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw)?)
    })?;
    for packet in packets {
        let to: [u8; 4] = packet.get(16..20).context("no IPv4 packet")?.try_into()?;
        let to = SockaddrIn::from(std::net::SocketAddrV4::new(to.into(), 0));
        sendto(socket.as_raw_fd(), packet, &to, MsgFlags::empty())
            .with_context(|| format!("cannot send a packet to {to} in {}", namespace.name()))?;
    }
    Ok(())
}

/// Puts packets on the wire to the gateway's eth_internet, past all routing and filtering of the
/// sender: what anyone on the same segment could do.
pub fn send_on_gateway_wire(internet: &Namespace, ethertype: EtherType, packets: &[Packet]) -> Result<()> {
    let socket = packet_socket(internet, "gateway")?;
    let header = Ethernet2Header { destination: GATEWAY_MAC, source: INTERNET_MAC, ether_type: ethertype };
    for packet in packets {
        let frame = [&header.to_bytes()[..], packet].concat();
        let sent = send(socket.as_raw_fd(), &frame, MsgFlags::empty())?;
        ensure!(sent == frame.len(), "a frame was cut off");
    }
    Ok(())
}

/// A socket for whole frames of one interface, both directions, all protocols.
pub fn packet_socket(namespace: &Namespace, interface: &str) -> Result<OwnedFd> {
    let all = (libc::ETH_P_ALL as u16).to_be();
    namespace.enter(|| {
        // Protocol 0: nothing is received before it is bound to its interface.
        // SAFETY: socket takes plain numbers.
        let descriptor = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        nix::errno::Errno::result(descriptor)?;
        // SAFETY: it is a new descriptor that nobody else has.
        let socket = unsafe { OwnedFd::from_raw_fd(descriptor) };
        // SAFETY: sockaddr_ll is plain data, for which all zeroes is a value.
        let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = all;
        address.sll_ifindex = if_nametoindex(interface)?.cast_signed();
        // SAFETY: the address is a whole sockaddr_ll, and its size is given.
        let bound = unsafe {
            libc::bind(descriptor, (&raw const address).cast(), mem::size_of_val(&address) as libc::socklen_t)
        };
        nix::errno::Errno::result(bound)?;
        Ok(socket)
    })
}

fn ipv4(source: Ipv4Addr, destination: Ipv4Addr) -> PacketBuilderStep<etherparse::IpHeaders> {
    let mut header =
        etherparse::Ipv4Header::new(0, TTL, ip_number::TCP, source.octets(), destination.octets())
            .expect("no payload is not too long");
    header.dont_fragment = true;
    PacketBuilder::ip(etherparse::IpHeaders::Ipv4(header, etherparse::Ipv4Extensions::default()))
}
