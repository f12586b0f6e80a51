//! The internet side's filter.
use gateway_common::{
    layout::OutboundSpi,
    outer::{self, Outer},
};

use crate::{
    bytes::Bytes,
    world::{INTERNET, LAN, MANAGERS, settings},
};

/// An outbound SPI that is known, and its tunnel.
const KNOWN: (u32, u32) = (0xbeef_0001, 1);
/// IP protocols.
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ESP: u8 = 50;

/// The input is a byte, the mark of a packet that leaves, and a frame. What passes is what the filter may let
/// pass, read off the bytes.
pub fn run(input: &[u8]) {
    let mut input = Bytes(input);
    let mark = u32::from(input.byte());
    let frame = input.0;
    let settings = settings(false);
    if let Ok(outer) = outer::arriving(frame, &settings) {
        check(frame, outer, Side::Arriving);
    }
    let owner_of = |outbound: OutboundSpi| (outbound.spi == KNOWN.0).then_some(KNOWN.1);
    if let Ok(outer) = outer::leaving(frame, &settings, mark, owner_of) {
        assert!(outer != Outer::PathMtu);
        assert!(outer != Outer::Esp(KNOWN.0) || mark == KNOWN.1, "ESP of another tunnel");
        check(frame, outer, Side::Leaving);
    }
    if let Ok(outer) = outer::to_lan(frame, &settings) {
        assert!(matches!(outer, Outer::Arp | Outer::PathMtu));
        check(frame, outer, Side::ToLan);
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Side {
    Arriving,
    Leaving,
    ToLan,
}

fn check(frame: &[u8], outer: Outer, side: Side) {
    let be16 = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    if outer == Outer::Arp {
        assert_eq!(be16(12), 0x0806);
        return;
    }
    assert_eq!((be16(12), frame[14]), (0x0800, 0x45), "no plain IPv4");
    let total = usize::from(be16(16));
    assert!((20..=frame.len() - 14).contains(&total));
    let payload = &frame[34..14 + total];
    let (fragment, later) = (be16(20) & 0x3fff != 0, be16(20) & 0x1fff != 0);
    let protocol = frame[23];
    // Our own address and port, and the peer.
    let (own, own_port, peer) = match side {
        Side::Arriving => (&frame[30..34], 2, &frame[26..30]),
        Side::Leaving | Side::ToLan => (&frame[26..30], 0, &frame[30..34]),
    };
    assert_eq!(own, if side == Side::ToLan { LAN } else { INTERNET });
    let port = || u16::from_be_bytes([payload[own_port], payload[own_port + 1]]);
    match outer {
        Outer::Arp => {}
        Outer::Esp(spi) => {
            assert!(spi != 0 && !later);
            let at = if protocol == ESP { 0 } else { 8 };
            assert!(protocol == ESP || (protocol == UDP && port() == 4500));
            assert_eq!(payload[at..at + 4], spi.to_be_bytes());
        }
        Outer::Ike => assert!(protocol == UDP && !later && matches!(port(), 500 | 4500)),
        Outer::PathMtu => assert!(protocol == ICMP && !fragment && payload[..2] == [3, 4]),
        Outer::Management => {
            assert!(protocol == TCP && !fragment && port() == 22 && payload.len() >= 20);
            assert_eq!(peer[..3], MANAGERS.0[..3]);
            let flags = payload[13];
            assert!(side == Side::Arriving || flags & 0x12 != 0x02, "a connection of the gateway's own");
        }
        Outer::Fragment => assert!(later && matches!(protocol, UDP | ESP)),
    }
}
