//! A passing packet as etherparse parses it, independently of the code under test.
use std::net::IpAddr;

use etherparse::{LaxIpSlice, NetSlice, SlicedPacket, TransportSlice};

/// A passing packet as parsed by etherparse: IP without options or extension headers, directly in Ethernet,
/// whole, with a TCP segment or a path-MTU message that quotes one.
pub struct Seen {
    pub addresses: [IpAddr; 2],
    pub hop_limit: u8,
    pub content: Content,
}

pub enum Content {
    /// Source and destination port.
    Tcp([u16; 2]),
    /// Addresses and ports of the oversized packet.
    TooBig([(IpAddr, u16); 2]),
}

pub fn seen(frame: &[u8]) -> Option<Seen> {
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    if !packet.link_exts.is_empty() {
        return None;
    }
    let (addresses, hop_limit): ([IpAddr; 2], _) = match packet.net.as_ref()? {
        NetSlice::Ipv4(ip) if ip.header().ihl() == 5 && !ip.is_payload_fragmented() => {
            let header = ip.header();
            ([header.source_addr().into(), header.destination_addr().into()], header.ttl())
        }
        NetSlice::Ipv6(ip) if ip.extensions().is_empty() => {
            let header = ip.header();
            ([header.source_addr().into(), header.destination_addr().into()], header.hop_limit())
        }
        _ => return None,
    };
    let content = match &packet.transport {
        Some(TransportSlice::Tcp(tcp)) => Content::Tcp([tcp.source_port(), tcp.destination_port()]),
        Some(TransportSlice::Icmpv4(icmp)) if icmp.type_u8() == 3 && icmp.code_u8() == 4 => {
            Content::TooBig(quoted(icmp.payload())?)
        }
        Some(TransportSlice::Icmpv6(icmp)) if icmp.type_u8() == 2 && icmp.code_u8() == 0 => {
            Content::TooBig(quoted(&icmp.slice()[8..])?)
        }
        _ => return None,
    };
    Some(Seen { addresses, hop_limit, content })
}

/// Returns both ends of a quoted packet, which is cut short.
fn quoted(packet: &[u8]) -> Option<[(IpAddr, u16); 2]> {
    let (addresses, ports): ([IpAddr; 2], _) = match LaxIpSlice::from_slice(packet).ok()?.0 {
        LaxIpSlice::Ipv4(ip) => {
            let header = ip.header();
            ([header.source_addr().into(), header.destination_addr().into()], ip.payload().payload)
        }
        LaxIpSlice::Ipv6(ip) => {
            let header = ip.header();
            ([header.source_addr().into(), header.destination_addr().into()], ip.payload().payload)
        }
    };
    let port = |at: usize| Some(u16::from_be_bytes([*ports.get(at)?, *ports.get(at + 1)?]));
    Some([(addresses[0], port(0)?), (addresses[1], port(2)?)])
}
