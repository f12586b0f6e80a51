//! The allow-lists for packets from the internet, to the internet and to the LAN.
use super::{
    arrival::{Arrival, Outer},
    icmp::{icmp, path_mtu},
    neighbour::{icmpv6, is_own_listener_message, listener_message, neighbour},
};
use crate::{
    family::{Fault, Header},
    layout::{
        family::LayoutFamily,
        settings::{ManagementRule, Settings},
        tunnel::OutboundSpi,
    },
    limits::MANAGEMENT_RULES,
    packet::segment::flag,
    reason::Reason,
    wire::{Be32, Frame, Ipv4, Ipv6, TcpHeader, UdpHeader, Wire, ethertype, ethertype_of, ike, protocol},
};

/// Classifies a packet that arrives on the internet interface, before decapsulation. The XDP program and
/// the first pass of TCX ingress run the same function. `owner_of` returns the tunnel known to own an outbound
/// SPI.
#[inline(always)]
pub fn classify_incoming<F: Frame + ?Sized>(
    frame: &F,
    settings: &Settings,
    owner_of: impl Fn(OutboundSpi) -> Option<u32>,
) -> Result<Arrival, Reason> {
    let mut arrival = Arrival::uncharged();
    classify_incoming_into(frame, settings, owner_of, &mut arrival)?;
    Ok(arrival)
}

/// Like [`classify_incoming`], but writes to an arrival that is initialised whatever the result. LLVM leaves
/// the payload of an `Err` result uninitialised, which the verifier of Linux 6.12 rejects.
#[inline(always)]
pub fn classify_incoming_into<F: Frame + ?Sized>(
    frame: &F,
    settings: &Settings,
    owner_of: impl Fn(OutboundSpi) -> Option<u32>,
    arrival: &mut Arrival,
) -> Result<(), Reason> {
    match ethertype_of(frame) {
        Some(ethertype::IPV4) => classify_incoming_family::<Ipv4, F>(frame, settings, owner_of, arrival),
        Some(ethertype::IPV6) if listener_message(frame).is_none() => {
            classify_incoming_family::<Ipv6, F>(frame, settings, owner_of, arrival)
        }
        Some(ethertype::ARP | ethertype::IPV6) => Ok(()),
        _ => Err(Reason::OuterNotIp),
    }
}

#[inline(always)]
fn classify_incoming_family<A: LayoutFamily, F: Frame + ?Sized>(
    frame: &F,
    settings: &Settings,
    owner_of: impl Fn(OutboundSpi) -> Option<u32>,
    arrival: &mut Arrival,
) -> Result<(), Reason> {
    let header = header::<A, F>(frame)?;
    arrival.source = header.source.mapped();
    arrival.subscriber = header.source.subscriber();
    arrival.outer = if header.destination.is_in(&settings.internet) {
        to_gateway(frame, &header, settings, owner_of)?
    } else if A::is_neighbour_group(header.destination) {
        neighbour(frame, &header, &icmpv6::TO_US).ok_or(Reason::OuterNotGatewayAddress)?
    } else {
        return Err(Reason::OuterNotGatewayAddress);
    };
    Ok(())
}

#[inline(always)]
fn to_gateway<A: LayoutFamily, F: Frame + ?Sized>(
    frame: &F,
    header: &Header<A>,
    settings: &Settings,
    owner_of: impl Fn(OutboundSpi) -> Option<u32>,
) -> Result<Outer, Reason> {
    Ok(match header.protocol {
        protocol::ESP | protocol::UDP if header.is_later_fragment() => Outer::Fragment,
        protocol::ESP => esp(frame, header)?,
        protocol::UDP => {
            let udp = udp(frame, header)?;
            match udp.destination.get() {
                ike::PORT => Outer::Ike,
                ike::NAT_PORT => nat_traversal(frame, header)?,
                port if manages(settings, protocol::UDP, header.source, port) => Outer::Management,
                _ => return Err(Reason::OuterPortNotAllowed),
            }
        }
        protocol::TCP if !header.is_fragment() => {
            let tcp: TcpHeader = payload(frame, header, 0)?;
            if !manages(settings, protocol::TCP, header.source, tcp.destination.get()) {
                return Err(Reason::OuterPortNotAllowed);
            }
            Outer::Management
        }
        protocol if protocol == A::ICMP => {
            match icmp(frame, header, &icmpv6::TO_US).ok_or(Reason::OuterProtocolNotAllowed)? {
                Outer::PathMtu => path_mtu(frame, header, settings, owner_of)?,
                neighbour => neighbour,
            }
        }
        _ => return Err(Reason::OuterProtocolNotAllowed),
    })
}

/// Classifies a packet about to leave on the internet interface. Allows ESP of the tunnel that the mark
/// names, IKE, and the gateway's own answers to management. `owner_of` returns the tunnel known to own an
/// outbound SPI; an unknown SPI may be newer than the map (a rekey).
#[inline(always)]
pub fn classify_outgoing<F: Frame + ?Sized>(
    frame: &F,
    settings: &Settings,
    mark: u32,
    owner_of: impl Fn(OutboundSpi) -> Option<u32>,
) -> Result<Outer, Reason> {
    match ethertype_of(frame) {
        Some(ethertype::IPV4) => classify_outgoing_family::<Ipv4, F>(frame, settings, mark, owner_of),
        Some(ethertype::IPV6) if is_own_listener_message(frame, &settings.internet) => Ok(Outer::Neighbour),
        Some(ethertype::IPV6) => classify_outgoing_family::<Ipv6, F>(frame, settings, mark, owner_of),
        Some(ethertype::ARP) => Ok(Outer::Neighbour),
        _ => Err(Reason::OuterNotIp),
    }
}

#[inline(always)]
fn classify_outgoing_family<A: LayoutFamily, F: Frame + ?Sized>(
    frame: &F,
    settings: &Settings,
    mark: u32,
    owner_of: impl Fn(OutboundSpi) -> Option<u32>,
) -> Result<Outer, Reason> {
    let header = header::<A, F>(frame)?;
    if !header.source.is_in(&settings.internet) {
        // Duplicate address detection (RFC 4862 section 5.4.2) runs before the interface has an address.
        return neighbour(frame, &header, &[icmpv6::NEIGHBOUR_SOLICITATION])
            .filter(|_| header.source == A::default())
            .ok_or(Reason::PlaintextToInternet);
    }
    let outer = match header.protocol {
        protocol::ESP | protocol::UDP if header.is_later_fragment() => Outer::Fragment,
        protocol::ESP => esp(frame, &header)?,
        protocol::UDP => {
            let udp = udp(frame, &header)?;
            match udp.source.get() {
                ike::PORT => Outer::Ike,
                ike::NAT_PORT => nat_traversal(frame, &header)?,
                port if manages(settings, protocol::UDP, header.destination, port) => Outer::Management,
                _ => return Err(Reason::GatewayTrafficNotAllowed),
            }
        }
        protocol::TCP if !header.is_fragment() => {
            let tcp: TcpHeader = payload(frame, &header, 0)?;
            // Answers only: no connection that the gateway itself opens.
            let answer = tcp.flags & (flag::SYN | flag::ACK) != flag::SYN;
            if !answer || !manages(settings, protocol::TCP, header.destination, tcp.source.get()) {
                return Err(Reason::GatewayTrafficNotAllowed);
            }
            Outer::Management
        }
        protocol if protocol == A::ICMP => {
            neighbour(frame, &header, &icmpv6::FROM_US).ok_or(Reason::GatewayTrafficNotAllowed)?
        }
        _ => return Err(Reason::GatewayTrafficNotAllowed),
    };
    if let Outer::Esp(spi) = outer
        && let Some(owner) = owner_of(OutboundSpi { peer: header.destination.mapped(), spi })
        && owner != mark
    {
        return Err(Reason::SpiOfOtherTunnel);
    }
    Ok(outer)
}

/// Classifies a packet about to leave on the LAN interface without approval of `internet_ingress`. Allows
/// ARP, neighbour discovery, and the gateway's message to a server that its packets are too big for the
/// tunnel.
#[inline(always)]
pub fn classify_to_lan<F: Frame + ?Sized>(frame: &F, settings: &Settings) -> Result<Outer, Reason> {
    match ethertype_of(frame) {
        Some(ethertype::ARP) => Ok(Outer::Neighbour),
        Some(ethertype::IPV4) => classify_to_lan_family::<Ipv4, F>(frame, settings),
        Some(ethertype::IPV6) if is_own_listener_message(frame, &settings.lan) => Ok(Outer::Neighbour),
        Some(ethertype::IPV6) => classify_to_lan_family::<Ipv6, F>(frame, settings),
        _ => Err(Reason::NotApprovedForLan),
    }
}

#[inline(always)]
fn classify_to_lan_family<A: LayoutFamily, F: Frame + ?Sized>(
    frame: &F,
    settings: &Settings,
) -> Result<Outer, Reason> {
    let header = A::header(frame).map_err(|_| Reason::NotApprovedForLan)?;
    let outer = if header.source.is_in(&settings.lan) {
        icmp(frame, &header, &icmpv6::AMONG_HOSTS)
    } else {
        neighbour(frame, &header, &[icmpv6::NEIGHBOUR_SOLICITATION]).filter(|_| header.source == A::default())
    };
    outer.ok_or(Reason::NotApprovedForLan)
}

#[inline(always)]
fn header<A: LayoutFamily, F: Frame + ?Sized>(frame: &F) -> Result<Header<A>, Reason> {
    match A::header(frame) {
        // Linux drops this too (ip6_rcv_core), but only after budgets and allow-lists took it for the IPv4
        // address.
        Ok(header) if header.source.is_mapped() => Err(Reason::OuterMalformed),
        Ok(header) => Ok(header),
        Err(Fault::Malformed) => Err(Reason::OuterMalformed),
        Err(Fault::Options) => Err(Reason::OuterHasIpOptions),
    }
}

#[inline(always)]
fn payload<A: LayoutFamily, F: Frame + ?Sized, T: Wire>(
    frame: &F,
    header: &Header<A>,
    offset: usize,
) -> Result<T, Reason> {
    header.payload(frame, offset).map_err(|_| Reason::OuterMalformed)
}

/// Reads the SPI. RFC 4303 section 2.1: SPI 0 is for local use and must not be on the wire.
#[inline(always)]
fn esp<A: LayoutFamily, F: Frame + ?Sized>(frame: &F, header: &Header<A>) -> Result<Outer, Reason> {
    match payload::<A, F, Be32>(frame, header, 0)?.get() {
        0 => Err(Reason::OuterMalformed),
        spi => Ok(Outer::Esp(spi)),
    }
}

/// Reads a UDP header whose length agrees with the IP header; in a first fragment it is larger.
#[inline(always)]
fn udp<A: LayoutFamily, F: Frame + ?Sized>(frame: &F, header: &Header<A>) -> Result<UdpHeader, Reason> {
    let udp: UdpHeader = payload(frame, header, 0)?;
    let length = udp.length.get();
    if header.is_fragment() && length > header.payload_bytes || length == header.payload_bytes {
        return Ok(udp);
    }
    Err(Reason::OuterMalformed)
}

/// Classifies UDP port 4500 (RFC 3948 section 2): the UDP header is followed by an SPI, by four zero bytes
/// and IKE, or by 0xff alone as a keepalive.
#[inline(always)]
fn nat_traversal<A: LayoutFamily, F: Frame + ?Sized>(frame: &F, header: &Header<A>) -> Result<Outer, Reason> {
    const HEADER_BYTES: usize = size_of::<UdpHeader>();
    if header.payload_bytes as usize == HEADER_BYTES + 1 && !header.is_fragment() {
        return Ok(Outer::Ike);
    }
    match payload::<A, F, Be32>(frame, header, HEADER_BYTES)?.get() {
        0 => Ok(Outer::Ike),
        spi => Ok(Outer::Esp(spi)),
    }
}

/// Returns true if the policy lets `peer` manage the gateway on `port`.
#[inline(always)]
fn manages<A: LayoutFamily>(settings: &Settings, protocol: u8, peer: A, port: u16) -> bool {
    let peer = peer.mapped();
    let mut i = 0;
    while i < MANAGEMENT_RULES {
        let rule: &ManagementRule = &settings.management[i];
        if i < settings.management_count as usize
            && rule.protocol == protocol
            && rule.port == port
            && rule.from.contains(peer)
        {
            return true;
        }
        i += 1;
    }
    false
}
