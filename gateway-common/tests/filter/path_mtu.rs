//! Path-MTU messages, which must quote ESP of the gateway's.
use etherparse::PacketBuilder;
use gateway_common::{
    layout::OutboundSpi,
    limits::MIN_PATH_MTU_BYTES,
    outer::{Outer, quoted_esp},
    reason::Reason::*,
};

use crate::{fragment::MORE, frames::*};

#[test]
fn only_path_mtu_errors_of_icmp_pass() {
    let quote = &ip(OURS, PEER, 50, ESP_BEEF)[14..];
    let icmp = |from, to, kind, code| ip(from, to, 1, &[&[kind, code, 0, 0, 0, 0, 5, 120], quote].concat());
    assert_eq!(arrives(&icmp(PEER, OURS, 3, 4)), Ok(Outer::PathMtu));
    for (kind, code) in [(8, 0), (0, 0), (3, 1), (3, 3), (11, 4)] {
        assert_eq!(arrives(&icmp(PEER, OURS, kind, code)), Err(OuterProtocolNotAllowed));
        assert_eq!(reaches_lan(&icmp(OUR_LAN, SERVER, kind, code)), Err(NotApprovedForLan));
    }
    assert_eq!(arrives(&with(icmp(PEER, OURS, 3, 4), &[MORE])), Err(OuterProtocolNotAllowed), "fragmented");
    assert_eq!(reaches_lan(&icmp(OUR_LAN, SERVER, 3, 4)), Ok(Outer::PathMtu));
    assert_eq!(reaches_lan(&icmp(OURS, SERVER, 3, 4)), Err(NotApprovedForLan));
    assert_eq!(reaches_lan(&udp((OUR_LAN, 3), (SERVER, 4), &[])), Err(NotApprovedForLan));
    assert_eq!(leaves(&icmp(OURS, PEER, 3, 4)), Err(GatewayTrafficNotAllowed));
}

/// A path-MTU message names the outbound SA of its quoted packet, in IPv6 as in IPv4.
#[test]
fn quoted_esp_names_the_peer_and_its_spi() {
    let own = settings().internet;
    let quoted_esp = |frame: &[u8]| quoted_esp(frame, &own);
    let message = |quoted: &[u8]| ip(PEER, OURS, 1, &[&[3, 4, 0, 0, 0, 0, 5, 0], quoted].concat());
    let esp = &ip(OURS, PEER, 50, ESP_BEEF)[14..];
    let named = OutboundSpi { peer: mapped(PEER), spi: 0xbeef };
    assert_eq!(quoted_esp(&message(esp)[..]), Some(named));
    assert_eq!(quoted_esp(&message(&esp[..24])[..]), Some(named), "cut short behind the SPI");
    assert_eq!(quoted_esp(&message(&esp[..23])[..]), None);
    assert_eq!(quoted_esp(&message(&ip(OURS, PEER, 17, ESP_BEEF)[14..])[..]), None);
    assert_eq!(quoted_esp(&with(message(esp), &[(12, 0x86), (13, 0xdd)])[..]), None);

    let v6 = |from: u8, to: u8, protocol: u8, payload: &[u8]| {
        let address = |last: u8| [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last];
        let mut frame = Vec::new();
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv6(address(from), address(to), 64);
        builder.write(&mut frame, 253.into(), payload).expect("writing to a vector");
        frame[20] = protocol;
        frame
    };
    let esp = &v6(1, 9, 50, ESP_BEEF)[14..];
    let message = |quoted: &[u8]| v6(2, 1, 58, &[&[2, 0, 0, 0, 0, 0, 5, 0], quoted].concat());
    let peer = std::net::IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 9]).into();
    assert_eq!(quoted_esp(&message(esp)[..]), Some(OutboundSpi { peer, spi: 0xbeef }));
    assert_eq!(quoted_esp(&message(&esp[..43])[..]), None);
    assert_eq!(quoted_esp(&message(&v6(1, 9, 17, ESP_BEEF)[14..])[..]), None);
}

/// The rules of path-MTU messages from the internet, in both families. The closures of each family return a
/// message that announces an MTU and quotes a packet, and a packet that is quoted.
#[test]
fn path_mtu_messages_quote_esp_of_a_known_sa() {
    let udp_header = |port: u16| [&port.to_be_bytes()[..], &[4, 0, 0, 100, 0, 0]].concat();
    let in_udp = |port, body: &[u8]| [&udp_header(port), body].concat();
    let message_v4 = |mtu: u32, quote: &[u8]| {
        ip(MANAGER, OURS, 1, &[&[3, 4, 0, 0][..], &mtu.to_be_bytes(), quote].concat())
    };
    let quote_v4 = |ours: bool, to_peer: bool, protocol, body: &[u8]| {
        ip(if ours { OURS } else { SERVER }, if to_peer { PEER } else { MANAGER }, protocol, body)[14..]
            .to_vec()
    };
    let stranger = [0x20, 1, 0xd, 0xb8, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8];
    let message_v6 = |mtu: u32, quote: &[u8]| {
        ip6_between(stranger, OURS_V6, 58, 64, &[&[2, 0, 0, 0][..], &mtu.to_be_bytes(), quote].concat())
    };
    let quote_v6 = |ours: bool, to_peer: bool, protocol, body: &[u8]| {
        let (from, to) = (if ours { OURS_V6 } else { stranger }, if to_peer { PEER_V6 } else { stranger });
        ip6_between(from, to, protocol, 64, body)[14..].to_vec()
    };
    type Message<'a> = &'a dyn Fn(u32, &[u8]) -> Vec<u8>;
    type Quote<'a> = &'a dyn Fn(bool, bool, u8, &[u8]) -> Vec<u8>;
    let families: [(Message<'_>, Quote<'_>, usize); 2] =
        [(&message_v4, &quote_v4, 20), (&message_v6, &quote_v6, 40)];
    for (message, quote, header_bytes) in families {
        let passes = |quote: &[u8]| arrives(&message(1400, quote));
        let (refused, spi_end) = (Err(PathMtuOfUnknownPacket), header_bytes + 4);
        let esp = quote(true, true, 50, ESP_BEEF);
        assert_eq!(passes(&esp), Ok(Outer::PathMtu));
        assert_eq!(passes(&esp[..spi_end]), Ok(Outer::PathMtu), "cut short behind the SPI");
        assert_eq!(passes(&esp[..spi_end - 1]), refused, "cut short in the SPI");
        assert_eq!(passes(&[]), refused, "no quote");
        assert_eq!(passes(&quote(true, true, 50, &[0, 0, 0xbe, 0xee])), refused, "an unknown SPI");
        assert_eq!(passes(&quote(true, false, 50, ESP_BEEF)), refused, "the SPI of another peer");
        assert_eq!(passes(&quote(false, true, 50, ESP_BEEF)), refused, "not sent by the gateway");
        assert_eq!(passes(&quote(true, true, 6, ESP_BEEF)), refused, "TCP");
        assert_eq!(passes(&quote(true, true, 50, &[0; 8])), refused, "SPI 0");

        let nat = quote(true, true, 17, &in_udp(4500, ESP_BEEF));
        assert_eq!(passes(&nat), Ok(Outer::PathMtu));
        assert_eq!(passes(&nat[..spi_end + 8]), Ok(Outer::PathMtu), "cut short behind the SPI");
        assert_eq!(passes(&nat[..spi_end + 7]), refused, "cut short in the SPI");
        assert_eq!(passes(&nat[..header_bytes + 8]), refused, "the UDP header alone");
        assert_eq!(passes(&nat[..header_bytes + 1]), refused, "half a port");
        assert_eq!(passes(&quote(true, true, 17, &in_udp(4500, &[0; 32]))), refused, "IKE on port 4500");
        assert_eq!(passes(&quote(true, true, 17, &in_udp(500, ESP_BEEF))), refused, "IKE on port 500");
        assert_eq!(passes(&quote(true, true, 17, &in_udp(4501, ESP_BEEF))), refused, "another port");
        assert_eq!(passes(&quote(true, true, 17, &in_udp(4500, &[0, 0, 0xbe, 0xee]))), refused);

        for mtu in [0, 1, 552, 1280, MIN_PATH_MTU_BYTES - 1] {
            assert_eq!(arrives(&message(mtu, &esp)), Err(PathMtuTooSmall), "{mtu}");
            assert_eq!(arrives(&message(mtu, &nat)), Err(PathMtuTooSmall), "{mtu} in UDP");
        }
        for mtu in [MIN_PATH_MTU_BYTES, 1500, 0xffff] {
            assert_eq!(arrives(&message(mtu, &esp)), Ok(Outer::PathMtu), "{mtu}");
        }
    }
    // The upper half of the word is unused in IPv4 (RFC 1191 section 4), and part of the MTU in IPv6.
    assert_eq!(arrives(&message_v4(0x0001_0000, &quote_v4(true, true, 50, ESP_BEEF))), Err(PathMtuTooSmall));
    assert_eq!(arrives(&message_v6(0x0001_0000, &quote_v6(true, true, 50, ESP_BEEF))), Ok(Outer::PathMtu));
}
