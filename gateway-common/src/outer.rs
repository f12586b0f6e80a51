//! The internet side: what may reach the gateway from there, and what may leave to it. The XDP
//! program and the first pass of TCX ingress run the same function.
use crate::{
    family::{Family, Fault, Header},
    layout::{Addresses, Kept, ManagementRule, OutboundSpi, Settings},
    limits::MANAGEMENT_RULES,
    packet::{ethertype_of, flag},
    reason::Reason,
    wire::{
        Be32, Frame, Ipv4, Ipv6, Ipv6Header, NETWORK_OFFSET, TcpHeader, UdpHeader, ethertype, ike, protocol,
    },
};

/// An outer packet that is allowed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outer {
    /// ARP, or IPv6 neighbour discovery.
    Neighbour,
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

/// An outer packet that is allowed, and whose budget it is charged to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Arrival {
    /// What it is.
    pub outer: Outer,
    /// Its source address; IPv4 mapped into IPv6.
    pub source: Ipv6,
    /// Its source as strangers are told apart, see [`Family::subscriber`].
    pub subscriber: Ipv6,
}

impl Arrival {
    /// What nobody is charged for.
    #[inline(always)]
    pub const fn of_nobody() -> Self {
        let nobody = Ipv6::from_words([0; 4]);
        Self { outer: Outer::Neighbour, source: nobody, subscriber: nobody }
    }
}

/// What arrives on the internet interface, before decapsulation.
#[inline(always)]
pub fn arriving<F: Frame + ?Sized>(frame: &F, settings: &Settings) -> Result<Arrival, Reason> {
    let mut arrival = Arrival::of_nobody();
    note_arriving(frame, settings, &mut arrival)?;
    Ok(arrival)
}

/// As [`arriving`], into an arrival that is whole whatever comes out: of the rest of a result that is
/// none LLVM makes whatever there is, which the verifier of 6.12 does not accept.
#[inline(always)]
pub fn note_arriving<F: Frame + ?Sized>(
    frame: &F,
    settings: &Settings,
    arrival: &mut Arrival,
) -> Result<(), Reason> {
    match ethertype_of(frame) {
        Some(ethertype::IPV4) => arriving_in::<Ipv4, F>(frame, settings, arrival),
        Some(ethertype::IPV6) if listener_message(frame).is_none() => {
            arriving_in::<Ipv6, F>(frame, settings, arrival)
        }
        Some(ethertype::ARP | ethertype::IPV6) => Ok(()),
        _ => Err(Reason::OuterNotIp),
    }
}

#[inline(always)]
fn arriving_in<A: Kept, F: Frame + ?Sized>(
    frame: &F,
    settings: &Settings,
    arrival: &mut Arrival,
) -> Result<(), Reason> {
    let header = header::<A, F>(frame)?;
    arrival.source = header.source.mapped();
    arrival.subscriber = header.source.subscriber();
    arrival.outer = if settings.internet.have(header.destination) {
        to_gateway(frame, &header, settings)?
    } else if A::is_neighbour_group(header.destination) {
        neighbour(frame, &header, &icmpv6::TO_US).ok_or(Reason::OuterNotGatewayAddress)?
    } else {
        return Err(Reason::OuterNotGatewayAddress);
    };
    Ok(())
}

#[inline(always)]
fn to_gateway<A: Kept, F: Frame + ?Sized>(
    frame: &F,
    header: &Header<A>,
    settings: &Settings,
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
            icmp(frame, header, &icmpv6::TO_US).ok_or(Reason::OuterProtocolNotAllowed)?
        }
        _ => return Err(Reason::OuterProtocolNotAllowed),
    })
}

/// Which outbound SA a path-MTU message is about, if it quotes an ESP packet: the kernel looks that SA up
/// by the message's own mark (esp4_err in net/ipv4/esp4.c), which has to be the tunnel's.
#[inline(always)]
pub fn quoted_esp<F: Frame + ?Sized>(frame: &F) -> Option<OutboundSpi> {
    match ethertype_of(frame)? {
        ethertype::IPV4 => quoted_esp_in::<Ipv4, F>(frame),
        ethertype::IPV6 => quoted_esp_in::<Ipv6, F>(frame),
        _ => None,
    }
}

#[inline(always)]
fn quoted_esp_in<A: Kept, F: Frame + ?Sized>(frame: &F) -> Option<OutboundSpi> {
    const QUOTE_OFFSET: usize = 8;
    let header = A::header(frame).ok()?;
    let quoted = A::quoted(frame, header.transport as usize + QUOTE_OFFSET)?;
    let spi: Be32 = header.payload(frame, QUOTE_OFFSET + A::HEADER_BYTES).ok()?;
    let peer = quoted.destination.mapped();
    (quoted.protocol == protocol::ESP).then_some(OutboundSpi { peer, spi: spi.get() })
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
    match ethertype_of(frame) {
        Some(ethertype::IPV4) => leaving_in::<Ipv4, F>(frame, settings, mark, owner_of),
        Some(ethertype::IPV6) if is_own_listener_message(frame, &settings.internet) => Ok(Outer::Neighbour),
        Some(ethertype::IPV6) => leaving_in::<Ipv6, F>(frame, settings, mark, owner_of),
        Some(ethertype::ARP) => Ok(Outer::Neighbour),
        _ => Err(Reason::OuterNotIp),
    }
}

#[inline(always)]
fn leaving_in<A: Kept, F: Frame + ?Sized>(
    frame: &F,
    settings: &Settings,
    mark: u32,
    owner_of: impl Fn(OutboundSpi) -> Option<u32>,
) -> Result<Outer, Reason> {
    let header = header::<A, F>(frame)?;
    if !settings.internet.have(header.source) {
        // Before it has an address it asks whether somebody else does (RFC 4862 section 5.4.2).
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
            // An answer, and no connection of the gateway's own.
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

/// What servers send to the gateway itself: ARP and neighbour discovery, but no router's word.
#[inline(always)]
pub fn is_neighbour_on_lan<F: Frame + ?Sized>(frame: &F) -> bool {
    match ethertype_of(frame) {
        Some(ethertype::ARP) => true,
        Some(ethertype::IPV6) if listener_message(frame).is_some() => true,
        Some(ethertype::IPV6) => {
            Ipv6::header(frame).is_ok_and(|header| neighbour(frame, &header, &icmpv6::AMONG_HOSTS).is_some())
        }
        _ => false,
    }
}

/// What is about to leave on the LAN interface without approval of `internet_ingress`: ARP, neighbour
/// discovery, and the gateway's word to a server that its packets are too big for the tunnel.
#[inline(always)]
pub fn to_lan<F: Frame + ?Sized>(frame: &F, settings: &Settings) -> Result<Outer, Reason> {
    match ethertype_of(frame) {
        Some(ethertype::ARP) => Ok(Outer::Neighbour),
        Some(ethertype::IPV4) => to_lan_in::<Ipv4, F>(frame, settings),
        Some(ethertype::IPV6) if is_own_listener_message(frame, &settings.lan) => Ok(Outer::Neighbour),
        Some(ethertype::IPV6) => to_lan_in::<Ipv6, F>(frame, settings),
        _ => Err(Reason::NotApprovedForLan),
    }
}

#[inline(always)]
fn to_lan_in<A: Kept, F: Frame + ?Sized>(frame: &F, settings: &Settings) -> Result<Outer, Reason> {
    let header = A::header(frame).map_err(|_| Reason::NotApprovedForLan)?;
    let outer = if settings.lan.have(header.source) {
        icmp(frame, &header, &icmpv6::AMONG_HOSTS)
    } else {
        neighbour(frame, &header, &[icmpv6::NEIGHBOUR_SOLICITATION]).filter(|_| header.source == A::default())
    };
    outer.ok_or(Reason::NotApprovedForLan)
}

/// ICMPv6 types of neighbour discovery (RFC 4861 section 4).
mod icmpv6 {
    const ROUTER_SOLICITATION: u8 = 133;
    const ROUTER_ADVERTISEMENT: u8 = 134;
    pub const NEIGHBOUR_SOLICITATION: u8 = 135;
    const NEIGHBOUR_ADVERTISEMENT: u8 = 136;

    /// From the internet interface's link.
    pub const TO_US: [u8; 3] = [ROUTER_ADVERTISEMENT, NEIGHBOUR_SOLICITATION, NEIGHBOUR_ADVERTISEMENT];
    /// To it.
    pub const FROM_US: [u8; 3] = [ROUTER_SOLICITATION, NEIGHBOUR_SOLICITATION, NEIGHBOUR_ADVERTISEMENT];
    /// On the LAN, whose routers say nothing to us.
    pub const AMONG_HOSTS: [u8; 2] = [NEIGHBOUR_SOLICITATION, NEIGHBOUR_ADVERTISEMENT];
}

/// The source of a multicast listener message (RFC 3810 section 5), without which switches that snoop do
/// not deliver neighbour discovery. It has a router alert in a hop-by-hop header, and stays on its link.
#[inline(always)]
fn listener_message<F: Frame + ?Sized>(frame: &F) -> Option<Ipv6> {
    const LEAST_BYTES: u16 = 16;
    // Next header ICMPv6, 8 bytes long, router alert (RFC 2711) for MLD, two bytes of padding.
    const HOP_BY_HOP: [u8; 8] = [protocol::ICMPV6, 0, 5, 2, 0, 0, 1, 0];
    const QUERY: u8 = 130;
    const DONE: u8 = 132;
    const REPORT_V2: u8 = 143;
    let header: Ipv6Header = frame.read(NETWORK_OFFSET)?;
    let options_at = NETWORK_OFFSET + size_of::<Ipv6Header>();
    let to_group = header.destination.words()[0].to_ne_bytes()[0] == 0xff;
    let whole = options_at + header.payload_length.get() as usize <= frame.length();
    if header.version >> 4 != 6 || header.next_header != 0 || header.hop_limit != 1 || !to_group || !whole {
        return None;
    }
    let options: [u8; 8] = frame.read(options_at)?;
    let kind: u8 = frame.read(options_at + size_of_val(&options))?;
    let wanted = u64::from_ne_bytes(options) == u64::from_ne_bytes(HOP_BY_HOP)
        && header.payload_length.get() >= LEAST_BYTES
        && matches!(kind, QUERY..=DONE | REPORT_V2);
    wanted.then_some(header.source)
}

/// Such a message of the gateway's own, which may not have an address yet.
#[inline(always)]
fn is_own_listener_message<F: Frame + ?Sized>(frame: &F, own: &Addresses) -> bool {
    listener_message(frame).is_some_and(|source| source == Ipv6::default() || own.have(source))
}

/// ICMP that is allowed: about path MTU, or neighbour discovery of these types.
#[inline(always)]
fn icmp<A: Kept, F: Frame + ?Sized>(frame: &F, header: &Header<A>, types: &[u8]) -> Option<Outer> {
    if header.protocol != A::ICMP || header.is_fragment() {
        return None;
    }
    let head: [u8; 2] = header.payload(frame, 0).ok()?;
    match A::is_too_big(head) {
        true => Some(Outer::PathMtu),
        false => neighbour(frame, header, types),
    }
}

/// Neighbour discovery of one of these types, from this very link: RFC 4861 section 7.1.1 and others
/// demand a hop limit of 255, which no router passes on.
#[inline(always)]
fn neighbour<A: Kept, F: Frame + ?Sized>(frame: &F, header: &Header<A>, types: &[u8]) -> Option<Outer> {
    const FROM_THIS_LINK: u8 = 255;
    if A::ICMP != protocol::ICMPV6 || header.protocol != A::ICMP || header.is_fragment() {
        return None;
    }
    let [kind, code]: [u8; 2] = header.payload(frame, 0).ok()?;
    let mut wanted = false;
    let mut i = 0;
    while i < types.len() {
        wanted |= types[i] == kind;
        i += 1;
    }
    (wanted && code == 0 && header.hop_limit == FROM_THIS_LINK).then_some(Outer::Neighbour)
}

#[inline(always)]
fn header<A: Kept, F: Frame + ?Sized>(frame: &F) -> Result<Header<A>, Reason> {
    match A::header(frame) {
        // Linux drops it too (ip6_rcv_core), but only after budgets and allow-lists took it for another.
        Ok(header) if header.source.is_mapped() => Err(Reason::OuterMalformed),
        Ok(header) => Ok(header),
        Err(Fault::Malformed) => Err(Reason::OuterMalformed),
        Err(Fault::Options) => Err(Reason::OuterHasIpOptions),
    }
}

#[inline(always)]
fn payload<A: Kept, F: Frame + ?Sized, T: crate::wire::Wire>(
    frame: &F,
    header: &Header<A>,
    offset: usize,
) -> Result<T, Reason> {
    header.payload(frame, offset).map_err(|_| Reason::OuterMalformed)
}

/// RFC 4303 section 2.1: SPI 0 is for local use and must not be on the wire.
#[inline(always)]
fn esp<A: Kept, F: Frame + ?Sized>(frame: &F, header: &Header<A>) -> Result<Outer, Reason> {
    match payload::<A, F, Be32>(frame, header, 0)?.get() {
        0 => Err(Reason::OuterMalformed),
        spi => Ok(Outer::Esp(spi)),
    }
}

/// A UDP header that agrees with the IP header about its length; of a first fragment it says more.
#[inline(always)]
fn udp<A: Kept, F: Frame + ?Sized>(frame: &F, header: &Header<A>) -> Result<UdpHeader, Reason> {
    let udp: UdpHeader = payload(frame, header, 0)?;
    let length = udp.length.get();
    if header.is_fragment() && length > header.payload_bytes || length == header.payload_bytes {
        return Ok(udp);
    }
    Err(Reason::OuterMalformed)
}

/// RFC 3948 section 2: behind the UDP header stands an SPI, or four zero bytes and IKE, or 0xff
/// alone as a keepalive.
#[inline(always)]
fn nat_traversal<A: Kept, F: Frame + ?Sized>(frame: &F, header: &Header<A>) -> Result<Outer, Reason> {
    const HEADER_BYTES: usize = size_of::<UdpHeader>();
    if header.payload_bytes as usize == HEADER_BYTES + 1 && !header.is_fragment() {
        return Ok(Outer::Ike);
    }
    match payload::<A, F, Be32>(frame, header, HEADER_BYTES)?.get() {
        0 => Ok(Outer::Ike),
        spi => Ok(Outer::Esp(spi)),
    }
}

/// Whether `peer` may talk to the gateway's `port`.
#[inline(always)]
fn manages<A: Kept>(settings: &Settings, protocol: u8, peer: A, port: u16) -> bool {
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
