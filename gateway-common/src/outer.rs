//! The internet side: what may reach the gateway from there, and what may leave to it. The XDP
//! program and the first pass of TCX ingress run the same function.
use crate::{
    layout::{ManagementRule, OutboundSpi, Settings, among},
    limits::MANAGEMENT_RULES,
    packet::{ethertype_of, flag},
    reason::Reason,
    wire::{
        Be32, Frame, Ipv4, Ipv4Header, NETWORK_OFFSET, TRANSPORT_OFFSET, TcpHeader, UdpHeader, Wire,
        ethertype, ike, protocol,
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
    if !among(&settings.internet_addresses, settings.internet_address_count, header.destination) {
        return Err(Reason::OuterNotGatewayAddress);
    }
    Ok(match header.protocol {
        protocol::ESP | protocol::UDP if header.is_later_fragment() => Outer::Fragment,
        protocol::ESP => esp(frame, &header)?,
        protocol::UDP => {
            let udp = udp(frame, &header)?;
            match udp.destination.get() {
                ike::PORT => Outer::Ike,
                ike::NAT_PORT => nat_traversal(frame, &header)?,
                port if manages(settings, protocol::UDP, header.source, port) => Outer::Management,
                _ => return Err(Reason::OuterPortNotAllowed),
            }
        }
        protocol::TCP if !header.is_fragment() => {
            let tcp: TcpHeader = payload(frame, &header, 0)?;
            if !manages(settings, protocol::TCP, header.source, tcp.destination.get()) {
                return Err(Reason::OuterPortNotAllowed);
            }
            Outer::Management
        }
        protocol::ICMP if is_path_mtu(frame, &header) => Outer::PathMtu,
        _ => return Err(Reason::OuterProtocolNotAllowed),
    })
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
    if !among(&settings.internet_addresses, settings.internet_address_count, header.source) {
        return Err(Reason::PlaintextToInternet);
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
            // An answer, and no connection of the gateway's own.
            let answer = tcp.flags & (flag::SYN | flag::ACK) != flag::SYN;
            if !answer || !manages(settings, protocol::TCP, header.destination, tcp.source.get()) {
                return Err(Reason::GatewayTrafficNotAllowed);
            }
            Outer::Management
        }
        _ => return Err(Reason::GatewayTrafficNotAllowed),
    };
    if let Outer::Esp(spi) = outer
        && let Some(owner) = owner_of(OutboundSpi { peer: header.destination, spi })
        && owner != mark
    {
        return Err(Reason::SpiOfOtherTunnel);
    }
    Ok(outer)
}

/// What is about to leave on the LAN interface without approval of `internet_ingress`: ARP, and
/// the gateway's word to a server that its packets are too big for the tunnel.
#[inline(always)]
pub fn to_lan<F: Frame + ?Sized>(frame: &F, settings: &Settings) -> Result<Outer, Reason> {
    match ipv4(frame) {
        Ok(None) => Ok(Outer::Arp),
        Ok(Some(header))
            if is_path_mtu(frame, &header)
                && among(&settings.lan_addresses, settings.lan_address_count, header.source) =>
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

/// A header this many bytes into the IPv4 payload, where the IPv4 header says there is one: what
/// follows in the frame may be padding.
#[inline(always)]
fn payload<F: Frame + ?Sized, T: Wire>(frame: &F, header: &Ipv4Header, offset: usize) -> Result<T, Reason> {
    if header.payload_bytes() < offset + size_of::<T>() {
        return Err(Reason::OuterMalformed);
    }
    frame.read(TRANSPORT_OFFSET + offset).ok_or(Reason::OuterMalformed)
}

/// RFC 4303 section 2.1: SPI 0 is for local use and must not be on the wire.
#[inline(always)]
fn esp<F: Frame + ?Sized>(frame: &F, header: &Ipv4Header) -> Result<Outer, Reason> {
    match payload::<F, Be32>(frame, header, 0)?.get() {
        0 => Err(Reason::OuterMalformed),
        spi => Ok(Outer::Esp(spi)),
    }
}

/// A UDP header that agrees with the IPv4 header about its length; of a first fragment it says more.
#[inline(always)]
fn udp<F: Frame + ?Sized>(frame: &F, header: &Ipv4Header) -> Result<UdpHeader, Reason> {
    let udp: UdpHeader = payload(frame, header, 0)?;
    let length = udp.length.get() as usize;
    if header.is_fragment() && length > header.payload_bytes() || length == header.payload_bytes() {
        return Ok(udp);
    }
    Err(Reason::OuterMalformed)
}

/// RFC 3948 section 2: behind the UDP header stands an SPI, or four zero bytes and IKE, or 0xff
/// alone as a keepalive.
#[inline(always)]
fn nat_traversal<F: Frame + ?Sized>(frame: &F, header: &Ipv4Header) -> Result<Outer, Reason> {
    const HEADER_BYTES: usize = size_of::<UdpHeader>();
    if header.payload_bytes() == HEADER_BYTES + 1 && !header.is_fragment() {
        return Ok(Outer::Ike);
    }
    match payload::<F, Be32>(frame, header, HEADER_BYTES)?.get() {
        0 => Ok(Outer::Ike),
        spi => Ok(Outer::Esp(spi)),
    }
}

/// Whether `peer` may talk to the gateway's `port`.
#[inline(always)]
fn manages(settings: &Settings, protocol: u8, peer: Ipv4, port: u16) -> bool {
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

/// "Fragmentation needed and DF set": RFC 1191 section 4.
#[inline(always)]
fn is_path_mtu<F: Frame + ?Sized>(frame: &F, header: &Ipv4Header) -> bool {
    const DESTINATION_UNREACHABLE: u8 = 3;
    const FRAGMENTATION_NEEDED: u8 = 4;
    header.protocol == protocol::ICMP
        && !header.is_fragment()
        && payload::<F, [u8; 2]>(frame, header, 0) == Ok([DESTINATION_UNREACHABLE, FRAGMENTATION_NEEDED])
}
