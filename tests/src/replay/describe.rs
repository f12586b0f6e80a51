//! Frames for people: what they are, and where two differ.
use std::fmt::Write;

use etherparse::{LaxNetSlice, LaxSlicedPacket, TransportSlice};

use super::packet::FLAG_LETTERS;

/// A frame in a line.
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

/// Where two frames differ: both lines of 16 bytes wherever one differs.
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
