//! Descriptions of frames, and of the differences between two.
use std::{fmt::Write, net::IpAddr};

use etherparse::{Ipv4HeaderSlice, Ipv6HeaderSlice, LaxNetSlice, LaxSlicedPacket, TransportSlice};
use gateway_tests_kit::packet::FLAG_LETTERS;

/// Describes a frame in one line.
pub fn frame(bytes: &[u8]) -> String {
    let Ok(packet) = LaxSlicedPacket::from_ethernet(bytes) else {
        return format!("{} bytes, no Ethernet header", bytes.len());
    };
    let mut line = format!("{} bytes", bytes.len());
    if let Some(LaxNetSlice::Ipv4(ip)) = &packet.net {
        let header = ip.header();
        let _ = write!(
            line,
            ", {} > {} protocol {} ttl {} total {} checksum {:04x}",
            header.source_addr(),
            header.destination_addr(),
            header.protocol().0,
            header.ttl(),
            header.total_len(),
            header.header_checksum()
        );
        let right = header.to_header().calc_header_checksum();
        if right != header.header_checksum() {
            let _ = write!(line, " (wrong: {right:04x} is right)");
        }
    }
    if let Some(LaxNetSlice::Ipv6(ip)) = &packet.net {
        let header = ip.header();
        let _ = write!(
            line,
            ", {} > {} next header {} hop limit {} payload {}",
            header.source_addr(),
            header.destination_addr(),
            header.next_header().0,
            header.hop_limit(),
            header.payload_length()
        );
    }
    match &packet.transport {
        Some(TransportSlice::Tcp(tcp)) => {
            let flags = FLAG_LETTERS.chars().enumerate();
            let flags: String =
                flags.filter(|(bit, _)| tcp.slice()[13] >> bit & 1 == 1).map(|(_, letter)| letter).collect();
            let _ = write!(
                line,
                ", TCP {} > {} {flags} header {} checksum {:04x}",
                tcp.source_port(),
                tcp.destination_port(),
                tcp.header_len(),
                tcp.checksum()
            );
            for option in tcp.options_iterator() {
                let _ = write!(line, " {option:?}");
            }
        }
        Some(TransportSlice::Udp(udp)) => {
            let _ = write!(
                line,
                ", UDP {} > {} length {}",
                udp.source_port(),
                udp.destination_port(),
                udp.length()
            );
        }
        _ => {}
    }
    line
}

/// Describes how two frames differ: both rows of 16 bytes, for each row that differs.
pub fn difference(expected: &[u8], seen: &[u8]) -> String {
    const WIDTH: usize = 16;
    let mut text = format!("  expected {}\n  seen     {}\n", frame(expected), frame(seen));
    for at in (0..expected.len().max(seen.len())).step_by(WIDTH) {
        let row = |bytes: &[u8]| bytes.get(at..bytes.len().min(at + WIDTH)).unwrap_or_default().to_vec();
        let (expected, seen) = (row(expected), row(seen));
        if expected != seen {
            let _ = writeln!(text, "  {at:04x} expected {}", hex(&expected));
            let _ = writeln!(text, "  {at:04x} seen     {}", hex(&seen));
            let differs = |i: usize| if expected.get(i) == seen.get(i) { "   " } else { " ^^" };
            let marks: String = (0..expected.len().max(seen.len())).map(differs).collect();
            let _ = writeln!(text, "               {marks}");
        }
    }
    text
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!(" {byte:02x}")).collect()
}

/// The fields of a packet whose headers the programs read: no options, and no extension header but a fragment
/// header.
pub struct PacketFields<'a> {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// The transport protocol.
    pub protocol: u8,
    /// True for a fragment other than the first.
    pub later: bool,
    /// The bytes from the transport header on.
    pub payload: &'a [u8],
}

/// Returns the protocol addresses of the sender and the target of an ARP packet (RFC 826).
pub fn arp(frame: &[u8]) -> Option<[IpAddr; 2]> {
    let address = |at: usize| Some(IpAddr::from(*frame.get(at..)?.first_chunk::<4>()?));
    (frame.get(12..14)? == [8, 6]).then_some([address(28)?, address(38)?])
}

/// Returns the fields of a frame's packet.
pub fn packet(frame: &[u8]) -> Option<PacketFields<'_>> {
    const FRAGMENT: u8 = 44;
    const EXTENSIONS: [u8; 10] = [0, 43, FRAGMENT, 51, 60, 135, 139, 140, 253, 254];
    match frame.get(12..14)? {
        [8, 0] => {
            let header = Ipv4HeaderSlice::from_slice(&frame[14..]).ok()?;
            let payload = frame.get(34..14 + usize::from(header.total_len()))?;
            (header.ihl() == 5).then(|| PacketFields {
                source: header.source_addr().into(),
                destination: header.destination_addr().into(),
                protocol: header.protocol().0,
                later: header.fragments_offset().value() != 0,
                payload,
            })
        }
        [0x86, 0xdd] => {
            let header = Ipv6HeaderSlice::from_slice(&frame[14..]).ok()?;
            let payload = frame.get(54..54 + usize::from(header.payload_length()))?;
            let (mut protocol, mut later, mut rest) = (header.next_header().0, false, payload);
            if protocol == FRAGMENT {
                let [next, _, high, low, ..] = *payload.first_chunk::<8>()?;
                (protocol, later, rest) = (next, u16::from_be_bytes([high, low]) >> 3 != 0, &payload[8..]);
            }
            (!EXTENSIONS.contains(&protocol)).then(|| PacketFields {
                source: header.source_addr().into(),
                destination: header.destination_addr().into(),
                protocol,
                later,
                payload: rest,
            })
        }
        _ => None,
    }
}
