//! ICMP errors that path-MTU discovery needs.
use super::{arrival::Outer, neighbour::neighbour};
use crate::{
    family::{Family, Header},
    layout::{
        family::LayoutFamily,
        settings::{Addresses, Settings},
        tunnel::OutboundSpi,
    },
    limits::MIN_PATH_MTU_BYTES,
    reason::Reason,
    wire::{Be16, Be32, Frame, Ipv4, Ipv6, UdpHeader, ethertype, ethertype_of, ike, protocol},
};

/// Bytes of an ICMP error before the packet it quotes.
const QUOTE_OFFSET: usize = 8;

/// Returns the outbound SA whose ESP packet a path-MTU message quotes: one that the gateway sent from one of
/// these addresses, as ESP or from UDP port 4500 with an SPI (RFC 3948 section 2.2). The kernel looks that SA
/// up by the message's own mark (esp4_err in net/ipv4/esp4.c), so the mark must be set to the tunnel's.
#[inline(always)]
pub fn quoted_esp<F: Frame + ?Sized>(frame: &F, own: &Addresses) -> Option<OutboundSpi> {
    match ethertype_of(frame)? {
        ethertype::IPV4 => quoted_esp_in(frame, &Ipv4::header(frame).ok()?, own),
        ethertype::IPV6 => quoted_esp_in(frame, &Ipv6::header(frame).ok()?, own),
        _ => None,
    }
}

#[inline(always)]
fn quoted_esp_in<A: LayoutFamily, F: Frame + ?Sized>(
    frame: &F,
    header: &Header<A>,
    own: &Addresses,
) -> Option<OutboundSpi> {
    let quoted = A::quoted(frame, header.transport as usize + QUOTE_OFFSET)?;
    let mut spi_offset = QUOTE_OFFSET + A::HEADER_BYTES;
    if quoted.protocol == protocol::UDP {
        let port: Be16 = header.payload(frame, spi_offset).ok()?;
        if port.get() != ike::NAT_PORT {
            return None;
        }
        spi_offset += size_of::<UdpHeader>();
    } else if quoted.protocol != protocol::ESP {
        return None;
    }
    // SPI 0 is IKE in UDP, and never ESP (RFC 4303 section 2.1).
    let spi = header.payload::<F, Be32>(frame, spi_offset).ok()?.get();
    if spi == 0 || !quoted.source.is_in(own) {
        return None;
    }
    Some(OutboundSpi { peer: quoted.destination.mapped(), spi })
}

/// Accepts a path-MTU message from the internet only if it quotes an ESP packet that a tunnel sent, and
/// announces an MTU that the tunnels can work with. The kernel would believe any message that quotes a packet
/// of charon's socket, whatever its SPI (__udp4_lib_err in net/ipv4/udp.c), and lower the path MTU to the peer
/// down to `ip_rt_min_pmtu`, 552 bytes (__ip_rt_update_pmtu in net/ipv4/route.c). IPv4's 0, from a router that
/// names no MTU (RFC 1191 section 5), is less than any.
#[inline(always)]
pub(super) fn path_mtu<A: LayoutFamily, F: Frame + ?Sized>(
    frame: &F,
    header: &Header<A>,
    settings: &Settings,
    owner_of: impl Fn(OutboundSpi) -> Option<u32>,
) -> Result<Outer, Reason> {
    const REST_OFFSET: usize = 4;
    let quoted = quoted_esp_in(frame, header, &settings.internet).ok_or(Reason::PathMtuOfUnknownPacket)?;
    if owner_of(quoted).is_none() {
        return Err(Reason::PathMtuOfUnknownPacket);
    }
    let rest: Be32 = header.payload(frame, REST_OFFSET).map_err(|_| Reason::PathMtuOfUnknownPacket)?;
    if A::announced_mtu(rest.get()) < MIN_PATH_MTU_BYTES {
        return Err(Reason::PathMtuTooSmall);
    }
    Ok(Outer::PathMtu)
}

/// Accepts ICMP errors about path MTU, and neighbour discovery of these types.
#[inline(always)]
pub(super) fn icmp<A: Family, F: Frame + ?Sized>(
    frame: &F,
    header: &Header<A>,
    types: &[u8],
) -> Option<Outer> {
    if header.protocol != A::ICMP || header.is_fragment() {
        return None;
    }
    let head: [u8; 2] = header.payload(frame, 0).ok()?;
    match A::is_too_big(head) {
        true => Some(Outer::PathMtu),
        false => neighbour(frame, header, types),
    }
}
