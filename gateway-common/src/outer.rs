//! The internet side: what may reach the gateway from there, and what may leave to it. The XDP
//! program and the first pass of TCX ingress run the same function.
use crate::{
    layout::{ManagementRule, OutboundSpi, Settings},
    limits::{MANAGEMENT_RULES, OWN_ADDRESSES},
    packet::ethertype_of,
    reason::Reason,
    wire::{
        Be32, Frame, Ipv4, Ipv4Header, NETWORK_OFFSET, TRANSPORT_OFFSET, UdpHeader, ethertype, ike, protocol,
    },
};

/// An outer packet that is allowed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outer {
    /// ARP with a neighbour.
    Arp,
    /// ESP, in IP or in UDP port 4500, of this SPI (host byte order).
    Esp(u32),
    /// IKE, or a NAT keepalive (RFC 3948 section 2.3).
    Ike,
    /// An ICMP error that path-MTU discovery needs.
    PathMtu,
    /// Management that the policy allows, or its answer.
    Management,
    /// A later fragment of ESP or UDP; the first one is judged, and without it none is delivered.
    Fragment,
}

/// What arrives on the internet interface, before decapsulation.
#[inline(always)]
pub fn arriving<F: Frame + ?Sized>(frame: &F, settings: &Settings) -> Result<Outer, Reason> {
    let Some(header) = ipv4(frame)? else { return Ok(Outer::Arp) };
    if !own(&settings.internet_addresses, settings.internet_address_count, header.destination) {
        return Err(Reason::OuterNotGatewayAddress);
    }
    match header.protocol {
        protocol::ESP | protocol::UDP if header.is_later_fragment() => Ok(Outer::Fragment),
        protocol::ESP => esp_at(frame, TRANSPORT_OFFSET),
        protocol::UDP => {
            let udp: UdpHeader = frame.read(TRANSPORT_OFFSET).ok_or(Reason::OuterMalformed)?;
            match udp.destination.get() {
                ike::PORT => Ok(Outer::Ike),
                ike::NAT_PORT => nat_traversal(frame, &udp),
                port => management(settings, protocol::UDP, header.source, port),
            }
        }
        protocol::TCP if !header.is_fragment() => {
            let [_, port] = ports(frame)?;
            management(settings, protocol::TCP, header.source, port)
        }
        protocol::ICMP if is_path_mtu(frame, &header) => Ok(Outer::PathMtu),
        _ => Err(Reason::OuterProtocolNotAllowed),
    }
}

/// What is about to leave on the internet interface: nothing but ESP of the tunnel that its mark
/// names, IKE and the gateway's own answers to management. `owner_of` tells which tunnel is known
/// to own an outbound SPI; an unknown one may be newer than what we know (a rekey).
#[inline(always)]
pub fn leaving<F: Frame + ?Sized>(
    frame: &F,
    settings: &Settings,
    mark: u32,
    owner_of: impl Fn(OutboundSpi) -> Option<u32>,
) -> Result<Outer, Reason> {
    let Some(header) = ipv4(frame)? else { return Ok(Outer::Arp) };
    if !own(&settings.internet_addresses, settings.internet_address_count, header.source) {
        return Err(Reason::PlaintextToInternet);
    }
    let allowed = match header.protocol {
        protocol::ESP | protocol::UDP if header.is_later_fragment() => Ok(Outer::Fragment),
        protocol::ESP => esp_at(frame, TRANSPORT_OFFSET),
        protocol::UDP => {
            let udp: UdpHeader = frame.read(TRANSPORT_OFFSET).ok_or(Reason::OuterMalformed)?;
            match udp.source.get() {
                ike::PORT => Ok(Outer::Ike),
                ike::NAT_PORT => nat_traversal(frame, &udp),
                port => management(settings, protocol::UDP, header.destination, port),
            }
        }
        protocol::TCP if !header.is_fragment() => {
            let [port, _] = ports(frame)?;
            management(settings, protocol::TCP, header.destination, port)
        }
        _ => Err(Reason::OuterProtocolNotAllowed),
    };
    match allowed {
        Ok(Outer::Esp(spi)) => match owner_of(OutboundSpi { peer: header.destination, spi }) {
            Some(owner) if owner != mark => Err(Reason::SpiOfOtherTunnel),
            _ => Ok(Outer::Esp(spi)),
        },
        Err(Reason::OuterProtocolNotAllowed | Reason::OuterPortNotAllowed) => {
            Err(Reason::GatewayTrafficNotAllowed)
        }
        other => other,
    }
}

/// What is about to leave on the LAN interface without approval of `internet_ingress`: ARP, and
/// the gateway's word to a server that its packets are too big for the tunnel.
#[inline(always)]
pub fn to_lan<F: Frame + ?Sized>(frame: &F, settings: &Settings) -> Result<Outer, Reason> {
    match ipv4(frame) {
        Ok(None) => Ok(Outer::Arp),
        Ok(Some(header))
            if is_path_mtu(frame, &header)
                && own(&settings.lan_addresses, settings.lan_address_count, header.source) =>
        {
            Ok(Outer::PathMtu)
        }
        _ => Err(Reason::NotApprovedForLan),
    }
}

/// The IPv4 header, or None for ARP.
#[inline(always)]
fn ipv4<F: Frame + ?Sized>(frame: &F) -> Result<Option<Ipv4Header>, Reason> {
    match ethertype_of(frame) {
        Some(ethertype::IPV4) => {}
        Some(ethertype::ARP) => return Ok(None),
        _ => return Err(Reason::OuterNotIpv4),
    }
    let header: Ipv4Header = frame.read(NETWORK_OFFSET).ok_or(Reason::OuterMalformed)?;
    match header.version_length {
        0x45 => {}
        0x46..=0x4f => return Err(Reason::OuterHasIpOptions),
        _ => return Err(Reason::OuterMalformed),
    }
    let total = header.total_length.get() as usize;
    if total < size_of::<Ipv4Header>() || NETWORK_OFFSET + total > frame.length() {
        return Err(Reason::OuterMalformed);
    }
    Ok(Some(header))
}

#[inline(always)]
fn own(addresses: &[Ipv4; OWN_ADDRESSES], count: u32, address: Ipv4) -> bool {
    let mut i = 0;
    while i < OWN_ADDRESSES {
        if i < count as usize && addresses[i] == address {
            return true;
        }
        i += 1;
    }
    false
}

/// RFC 4303 section 2.1: SPI 0 is for local use and must not be on the wire.
#[inline(always)]
fn esp_at<F: Frame + ?Sized>(frame: &F, offset: usize) -> Result<Outer, Reason> {
    match frame.read::<Be32>(offset).map(Be32::get) {
        Some(0) | None => Err(Reason::OuterMalformed),
        Some(spi) => Ok(Outer::Esp(spi)),
    }
}

/// RFC 3948 section 2: behind the UDP header stands an SPI, or four zero bytes and IKE, or 0xff
/// alone as a keepalive.
#[inline(always)]
fn nat_traversal<F: Frame + ?Sized>(frame: &F, udp: &UdpHeader) -> Result<Outer, Reason> {
    const HEADER_BYTES: u16 = size_of::<UdpHeader>() as u16;
    if udp.length.get() == HEADER_BYTES + 1 {
        return Ok(Outer::Ike);
    }
    match frame.read::<Be32>(TRANSPORT_OFFSET + HEADER_BYTES as usize).map(Be32::get) {
        None => Err(Reason::OuterMalformed),
        Some(0) => Ok(Outer::Ike),
        Some(spi) => Ok(Outer::Esp(spi)),
    }
}

/// Source and destination port of TCP or UDP.
#[inline(always)]
fn ports<F: Frame + ?Sized>(frame: &F) -> Result<[u16; 2], Reason> {
    match frame.read::<Be32>(TRANSPORT_OFFSET).map(Be32::get) {
        Some(both) => Ok([(both >> 16) as u16, both as u16]),
        None => Err(Reason::OuterMalformed),
    }
}

/// Whether `peer` may talk to the gateway's `port`.
#[inline(always)]
fn management(settings: &Settings, protocol: u8, peer: Ipv4, port: u16) -> Result<Outer, Reason> {
    let mut i = 0;
    while i < MANAGEMENT_RULES {
        let rule: &ManagementRule = &settings.management[i];
        if i < settings.management_count as usize
            && rule.protocol == protocol
            && rule.port == port
            && rule.from.contains(peer)
        {
            return Ok(Outer::Management);
        }
        i += 1;
    }
    Err(Reason::OuterPortNotAllowed)
}

/// "Fragmentation needed and DF set": RFC 1191 section 4.
#[inline(always)]
fn is_path_mtu<F: Frame + ?Sized>(frame: &F, header: &Ipv4Header) -> bool {
    const DESTINATION_UNREACHABLE: u8 = 3;
    const FRAGMENTATION_NEEDED: u8 = 4;
    header.protocol == protocol::ICMP
        && !header.is_fragment()
        && frame.read::<[u8; 2]>(TRANSPORT_OFFSET) == Some([DESTINATION_UNREACHABLE, FRAGMENTATION_NEEDED])
}
