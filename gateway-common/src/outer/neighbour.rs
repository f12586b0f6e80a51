//! ARP, neighbour discovery and multicast listener messages.
use super::arrival::Outer;
use crate::{
    family::{Family, Header},
    layout::{family::LayoutFamily, settings::Addresses},
    wire::{Frame, Ipv6, Ipv6Header, NETWORK_OFFSET, ethertype, ethertype_of, protocol},
};

/// Returns true for ARP and neighbour discovery between servers and the gateway, router advertisements
/// excluded.
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

/// Accepts neighbour discovery of these types from this link: RFC 4861 section 7.1.1 and others demand a
/// hop limit of 255, which no router forwards.
#[inline(always)]
pub(super) fn neighbour<A: Family, F: Frame + ?Sized>(
    frame: &F,
    header: &Header<A>,
    types: &[u8],
) -> Option<Outer> {
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

/// Returns true for a neighbour advertisement, if the packet is neighbour discovery.
#[inline(always)]
pub(super) fn is_advertisement<F: Frame + ?Sized>(frame: &F, header: &Header<Ipv6>) -> bool {
    header.payload::<F, u8>(frame, 0) == Ok(icmpv6::NEIGHBOUR_ADVERTISEMENT)
}

/// ICMPv6 types of neighbour discovery (RFC 4861 section 4).
pub(super) mod icmpv6 {
    const ROUTER_SOLICITATION: u8 = 133;
    const ROUTER_ADVERTISEMENT: u8 = 134;
    pub const NEIGHBOUR_SOLICITATION: u8 = 135;
    pub const NEIGHBOUR_ADVERTISEMENT: u8 = 136;

    /// Accepted from the internet interface's link.
    pub const TO_US: [u8; 3] = [ROUTER_ADVERTISEMENT, NEIGHBOUR_SOLICITATION, NEIGHBOUR_ADVERTISEMENT];
    /// Allowed to the internet interface's link.
    pub const FROM_US: [u8; 3] = [ROUTER_SOLICITATION, NEIGHBOUR_SOLICITATION, NEIGHBOUR_ADVERTISEMENT];
    /// Allowed on the LAN, whose routers do not configure the gateway.
    pub const AMONG_HOSTS: [u8; 2] = [NEIGHBOUR_SOLICITATION, NEIGHBOUR_ADVERTISEMENT];
}

/// Returns the source of a multicast listener message (RFC 3810 section 5). Snooping switches need these
/// messages to deliver neighbour discovery. They carry a router alert in a hop-by-hop header and stay on
/// their link.
#[inline(always)]
pub(super) fn listener_message<F: Frame + ?Sized>(frame: &F) -> Option<Ipv6> {
    const MIN_BYTES: u16 = 16;
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
        && header.payload_length.get() >= MIN_BYTES
        && matches!(kind, QUERY..=DONE | REPORT_V2);
    wanted.then_some(header.source)
}

/// Returns true for a listener message of the gateway itself, which may not have an address yet.
#[inline(always)]
pub(super) fn is_own_listener_message<F: Frame + ?Sized>(frame: &F, own: &Addresses) -> bool {
    listener_message(frame).is_some_and(|source| source == Ipv6::default() || source.is_in(own))
}
