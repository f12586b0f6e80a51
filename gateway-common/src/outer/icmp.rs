//! ICMP errors that path-MTU discovery needs.
use super::{arrival::Outer, neighbour::neighbour};
use crate::{
    family::{Family, Header},
    layout::tunnel::OutboundSpi,
    wire::{Be32, Frame, Ipv4, Ipv6, ethertype, ethertype_of, protocol},
};

/// Returns the outbound SA whose ESP packet a path-MTU message quotes. The kernel looks that SA up by the
/// message's own mark (esp4_err in net/ipv4/esp4.c), so the mark must be set to the tunnel's.
#[inline(always)]
pub fn quoted_esp<F: Frame + ?Sized>(frame: &F) -> Option<OutboundSpi> {
    match ethertype_of(frame)? {
        ethertype::IPV4 => quoted_esp_in::<Ipv4, F>(frame),
        ethertype::IPV6 => quoted_esp_in::<Ipv6, F>(frame),
        _ => None,
    }
}

#[inline(always)]
fn quoted_esp_in<A: Family, F: Frame + ?Sized>(frame: &F) -> Option<OutboundSpi> {
    const QUOTE_OFFSET: usize = 8;
    let header = A::header(frame).ok()?;
    let quoted = A::quoted(frame, header.transport as usize + QUOTE_OFFSET)?;
    let spi: Be32 = header.payload(frame, QUOTE_OFFSET + A::HEADER_BYTES).ok()?;
    let peer = quoted.destination.mapped();
    (quoted.protocol == protocol::ESP).then_some(OutboundSpi { peer, spi: spi.get() })
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
