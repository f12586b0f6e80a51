//! Frames of all kinds that the filter knows, built with etherparse.
use std::net::IpAddr;

use etherparse::PacketBuilder;
use proptest::{collection::vec, prelude::*, sample::select};

use crate::settings::{GROUPS, INTERNET, LAN, LINK, MANAGER, NOBODY, SERVER, SPI, STRANGER, ip};

pub const FRAGMENT: u8 = 44;
pub const ICMPV6: u8 = 58;
pub const ESP: u8 = 50;

/// Builds an Ethernet frame with an IP packet.
pub fn packet(from: &str, to: &str, protocol: u8, hop_limit: u8, payload: &[u8]) -> Vec<u8> {
    const UNKNOWN: u8 = 253;
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6]);
    let mut frame = Vec::new();
    // With the real protocol, etherparse would look for extension headers.
    match (ip(from), ip(to)) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            builder.ipv4(from.octets(), to.octets(), hop_limit).write(&mut frame, UNKNOWN.into(), payload)
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            builder.ipv6(from.octets(), to.octets(), hop_limit).write(&mut frame, UNKNOWN.into(), payload)
        }
        _ => unreachable!("both addresses are of one family"),
    }
    .expect("writing to a vector");
    frame[if ip(from).is_ipv4() { 23 } else { 20 }] = protocol;
    frame
}

pub fn udp(from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
    let length = (8 + payload.len()) as u16;
    [&from.to_be_bytes()[..], &to.to_be_bytes(), &length.to_be_bytes(), &[0, 0], payload].concat()
}

pub fn tcp(from: u16, to: u16, flags: u8) -> Vec<u8> {
    [&from.to_be_bytes()[..], &to.to_be_bytes(), &[0; 8], &[0x50, flags], &[0; 6]].concat()
}

/// Builds a fragment (RFC 8200 section 4.5) from protocol, offset in 8-byte units, M flag and payload.
pub fn fragment(protocol: u8, offset: u16, more: bool, payload: &[u8]) -> Vec<u8> {
    let [high, low] = (offset << 3 | u16::from(more)).to_be_bytes();
    [&[protocol, 0, high, low, 0, 0, 0, 7], payload].concat()
}

/// Returns a path-MTU message of this family that announces an MTU and quotes this protocol of the gateway's.
pub fn too_big(v6: bool, mtu: u16, protocol: u8, body: &[u8]) -> Vec<u8> {
    let family = usize::from(v6);
    let quote = packet(INTERNET[family], STRANGER[family], protocol, 64, body);
    let head = if v6 { [2, 0, 0, 0, 0, 0] } else { [3, 4, 0, 0, 0, 0] };
    [&head[..], &mtu.to_be_bytes(), &quote[14..]].concat()
}

/// Generates frames of all kinds that the filter knows, some of them damaged.
pub fn frame() -> impl Strategy<Value = Vec<u8>> {
    let v4 =
        [INTERNET[0], INTERNET[0], LAN[0], MANAGER[0], MANAGER[0], STRANGER[0], NOBODY[0], "192.168.1.2"];
    let v6 = [
        INTERNET[1],
        INTERNET[1],
        LINK[1],
        LAN[1],
        SERVER[1],
        MANAGER[1],
        MANAGER[1],
        STRANGER[1],
        NOBODY[1],
        GROUPS[0],
        GROUPS[1],
        GROUPS[2],
        GROUPS[3],
    ];
    let pair =
        prop_oneof![(select(v4.to_vec()), select(v4.to_vec())), (select(v6.to_vec()), select(v6.to_vec()))]
            .prop_map(|(from, to)| (from.to_owned(), to.to_owned()));
    let port = || select(vec![500u16, 4500, 22, 80, 53]);
    let words = prop_oneof![
        Just(SPI.to_be_bytes().to_vec()),
        Just(vec![3, 4, 0, 0]),
        Just(vec![2, 0, 0, 0]),
        Just(vec![8, 0, 0, 0]),
        Just(vec![0; 8]),
        (133..138u8, 0..2u8).prop_map(|(kind, code)| vec![kind, code, 0, 0]),
        vec(any::<u8>(), 0..12),
    ];
    let quoted = prop_oneof![
        Just((ESP, SPI.to_be_bytes().to_vec())),
        (select(vec![500u16, 4500]), select(vec![SPI, 0, 7]))
            .prop_map(|(port, spi)| (17, udp(port, 9, &spi.to_be_bytes()))),
        Just((6, tcp(22, 9, 2))),
    ];
    let payload = prop_oneof![
        3 => words.clone().prop_map(|words| (ESP, words)),
        4 => (port(), port(), words.clone()).prop_map(|(from, to, words)| (17, udp(from, to, &words))),
        3 => (port(), port(), any::<u8>()).prop_map(|(from, to, flags)| (6, tcp(from, to, flags & 0x3f))),
        5 => (select(vec![1, ICMPV6, ICMPV6]), words.clone()),
        3 => (any::<bool>(), select(vec![0u16, 1399, 1400, 1500]), quoted).prop_map(
            |(v6, mtu, (protocol, body))| (if v6 { ICMPV6 } else { 1 }, too_big(v6, mtu, protocol, &body))
        ),
        1 => (select(vec![47, 4, 41, 0, 43, 60]), words),
    ];
    let split = proptest::option::weighted(0.2, (select(vec![0u16, 0, 1, 5]), any::<bool>()));
    let hop_limit = select(vec![255u8, 255, 64, 254]);
    let changes = prop_oneof![6 => Just(vec![]), 1 => vec((12..70usize, any::<u8>()), 1..3)];
    let cut = proptest::option::weighted(0.1, 0..70usize);
    (pair, payload, split, hop_limit, changes, cut).prop_map(
        |((from, to), (protocol, payload), split, hop_limit, changes, cut)| {
            let v4 = ip(&from).is_ipv4();
            let mut frame = match split {
                Some((offset, more)) if !v4 => {
                    let payload = fragment(protocol, offset, more, &payload);
                    packet(&from, &to, FRAGMENT, hop_limit, &payload)
                }
                _ => packet(&from, &to, protocol, hop_limit, &payload),
            };
            if let Some((offset, more)) = split.filter(|_| v4) {
                frame[20..22].copy_from_slice(&(offset | u16::from(more) << 13).to_be_bytes());
            }
            for (at, byte) in changes {
                if let Some(old) = frame.get_mut(at) {
                    *old = byte;
                }
            }
            frame.truncate(cut.unwrap_or(frame.len()));
            frame
        },
    )
}
