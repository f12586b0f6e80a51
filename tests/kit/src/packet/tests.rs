use etherparse::{Icmpv4Type, PacketBuilder, PacketBuilderStep, TcpHeader, TcpOptionElement};

use super::*;

fn frame(line: &str) -> Vec<u8> {
    line.parse::<Packet>().and_then(|packet| packet.frame()).unwrap_or_else(|error| panic!("{error:#}"))
}

/// Returns etherparse's builder, which sets don't-fragment and identification 0.
fn builder() -> PacketBuilderStep<etherparse::IpHeaders> {
    PacketBuilder::ethernet2([0x52, 0x54, 0, 0, 0, 2], [0x52, 0x54, 0, 0, 0, 1]).ipv4(
        [192, 168, 1, 2],
        [10, 200, 0, 11],
        64,
    )
}

#[test]
fn tcp_equals_etherparses() {
    let mut header = TcpHeader::new(40000, 80, 7, 500);
    (header.syn, header.ack, header.acknowledgment_number) = (true, true, 9);
    let options = [TcpOptionElement::MaximumSegmentSize(1460), TcpOptionElement::WindowScale(7)];
    header.set_options(&options).unwrap();
    let mut expected = Vec::new();
    builder().tcp_header(header).write(&mut expected, &[0, 1, 2]).unwrap();
    let line = "192.168.1.2:40000 > 10.200.0.11:80 SA seq 7 ack 9 win 500 mss 1460 wscale 7 len 3 df id 0";
    assert_eq!(frame(line), expected);
}

#[test]
fn udp_and_icmp_equal_etherparses() {
    let (mut udp, mut icmp) = (Vec::new(), Vec::new());
    builder().udp(500, 4500).write(&mut udp, &[0, 0, 0, 0, 0, 1]).unwrap();
    let kind = Icmpv4Type::Unknown { type_u8: 3, code_u8: 4, bytes5to8: [0; 4] };
    builder().icmpv4(kind).write(&mut icmp, &[0, 1, 2]).unwrap();
    assert_eq!(frame("192.168.1.2:500 > 10.200.0.11:4500 UDP marker len 2 df id 0"), udp);
    assert_eq!(frame("192.168.1.2 > 10.200.0.11 ICMP too-big len 3 df id 0"), icmp);
}

#[test]
fn ipv6_equals_etherparses() {
    let (from, to): (std::net::Ipv6Addr, std::net::Ipv6Addr) =
        ("fd00:1::2".parse().unwrap(), "fd00:200::11".parse().unwrap());
    let builder = || {
        PacketBuilder::ethernet2([0x52, 0x54, 0, 0, 0, 2], [0x52, 0x54, 0, 0, 0, 1]).ipv6(
            from.octets(),
            to.octets(),
            64,
        )
    };
    let (mut tcp, mut udp, mut icmp) = (Vec::new(), Vec::new(), Vec::new());
    builder().tcp(40000, 80, 7, 500).syn().write(&mut tcp, &[0, 1, 2]).unwrap();
    builder().udp(500, 4500).write(&mut udp, &[0, 0, 0, 0, 0, 1]).unwrap();
    let kind = etherparse::Icmpv6Type::Unknown { type_u8: 135, code_u8: 0, bytes5to8: [0; 4] };
    builder().icmpv6(kind).write(&mut icmp, &[0, 1, 2]).unwrap();
    assert_eq!(frame("[fd00:1::2]:40000 > [fd00:200::11]:80 S seq 7 win 500 len 3 id 0"), tcp);
    assert_eq!(frame("[fd00:1::2]:500 > [fd00:200::11]:4500 UDP marker len 2 id 0"), udp);
    assert_eq!(frame("fd00:1::2 > fd00:200::11 ICMP solicit len 3 id 0"), icmp);
}

#[test]
fn ipv6_headers_follow_one_another() {
    let fragment = frame("fd00:1::2 > fd00:200::11 ESP mf frag 2 id 5");
    assert_eq!((fragment[20], &fragment[54..62]), (44, &[50, 0, 0, 17, 0, 0, 0, 5][..]));
    let both = frame("fd00:1::2 > fd00:200::11 ESP atomic ext 60");
    assert_eq!((both[20], both[54], both[62], both[18..20].to_vec()), (60, 44, 50, vec![0, 24]));
}

#[test]
fn messages_quote_header_and_ports() {
    let v4 = frame("1.1.1.1 > 2.2.2.2 ICMP too-big about 2.2.2.2:80 > 192.168.1.2:4");
    assert_eq!((v4.len(), v4[42], &v4[54..58], &v4[62..66]), (70, 0x45, &[2; 4][..], &[0, 80, 0, 4][..]));
    let v6 = frame("fd00::1 > fd00::2 ICMP too-big about [fd00::2]:80 > [fd00::3]:4");
    assert_eq!((v6.len(), v6[54], v6[62], &v6[102..106]), (110, 2, 0x60, &[0, 80, 0, 4][..]));
}

#[test]
fn messages_quote_esp_and_announce_an_mtu() {
    let esp = frame("1.1.1.1 > 2.2.2.2 ICMP too-big mtu 1400 about-esp 2.2.2.2 > 3.3.3.3 0xbeef0001");
    assert_eq!((esp.len(), &esp[38..42], esp[51]), (70, &[0, 0, 5, 120][..], 50));
    assert_eq!((&esp[54..62], &esp[62..66]), (&[2, 2, 2, 2, 3, 3, 3, 3][..], &[0xbe, 0xef, 0, 1][..]));
    let nat = frame("fd00::1 > fd00::2 ICMP too-big about-esp [fd00::2]:4500 > [fd00::3]:9 7");
    assert_eq!((nat.len(), nat[68], &nat[102..106]), (118, 17, &[0x11, 0x94, 0, 9][..]));
    assert_eq!(nat[110..114], [0, 0, 0, 7]);
}

#[test]
fn esp_begins_with_its_spi() {
    let bytes = frame("198.18.0.1 > 203.0.113.1 ESP spi 0xc0de0001 len 2");
    assert_eq!(bytes[23], 50);
    assert_eq!(bytes[34..], [0xc0, 0xde, 0, 1, 0, 0, 0, 1, 0, 1]);
    let bytes = frame("198.18.0.1:4500 > 203.0.113.1:4500 UDP spi 0xc0de0001");
    assert_eq!(bytes[42..], [0xc0, 0xde, 0, 1, 0, 0, 0, 1]);
}

#[test]
fn other_frames_have_their_stated_bytes() {
    let arp = frame("ARP who-has 10.0.0.1 tell 10.0.0.2");
    assert_eq!(arp[12..22], [8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    assert_eq!((&arp[28..32], &arp[38..]), (&[10, 0, 0, 2][..], &[10, 0, 0, 1][..]));
    assert_eq!(frame("ETHER 0x86dd len 3")[12..], [0x86, 0xdd, 0, 1, 2]);
    assert_eq!(frame("RAW 00ff10"), [0, 255, 16]);
    assert_eq!(frame("1.1.1.1 > 2.2.2.2 PROTO 4 vlan 5")[12..18], [0x81, 0, 0, 5, 8, 0]);
}

#[test]
fn malformed_fields_keep_a_right_header_checksum() {
    for words in ["total 5", "ihl 9", "version 6", "frag 3 mf", "ipopts 01010101", "ttl 1 tos 184"] {
        let bytes = frame(&format!("1.1.1.1:1 > 2.2.2.2:2 S {words}"));
        let length = if words.starts_with("ipopts") { 24 } else { 20 };
        let words_of_header = bytes[14..14 + length].chunks(2);
        let sum: u32 = words_of_header.map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff, "{words}");
    }
}

#[test]
fn patches_and_cuts_apply_last() {
    let bytes = frame("1.1.1.1:1 > 2.2.2.2:2 S patch 0:aabb patch 53:cc");
    assert_eq!((bytes[0], bytes[1], bytes[53]), (0xaa, 0xbb, 0xcc));
    assert_eq!(frame("1.1.1.1:1 > 2.2.2.2:2 S cut 20").len(), 20);
}

#[test]
fn a_later_word_replaces_an_earlier_one() {
    let twice = frame("1.1.1.1:1 > 2.2.2.2:2 S nop mss 9 ttl 3 mss 7 ttl 4");
    assert_eq!(twice, frame("1.1.1.1:1 > 2.2.2.2:2 S nop mss 7 ttl 4"));
}

#[test]
fn errors_name_the_wrong_word() {
    for (line, word) in [
        ("", "too early"),
        ("1.1.1.1:1 > 2.2.2.2:2", "too early"),
        ("1.1.1.1:1 2.2.2.2:2 S", "\">\""),
        ("1.1.1.300:1 > 2.2.2.2:2 S", "1.1.1.300"),
        ("1.1.1.1:70000 > 2.2.2.2:2 S", "70000"),
        ("1.1.1.1 > 2.2.2.2 S", "needs ports"),
        ("1.1.1.1:1 > 2.2.2.2:2 SX", "'X'"),
        ("1.1.1.1:1 > 2.2.2.2:2 S mtu 5", "mtu"),
        ("1.1.1.1:1 > 2.2.2.2:2 S ttl 256", "256"),
        ("1.1.1.1:1 > 2.2.2.2:2 S ttl", "too early"),
        ("1.1.1.1:1 > 2.2.2.2:2 UDP mss 5", "mss"),
        ("1.1.1.1 > 2.2.2.2 ICMP pong", "pong"),
        ("1.1.1.1 > 2.2.2.2 ICMP solicit", "solicit"),
        ("1.1.1.1:1 > [fd00::1]:2 S", "families"),
        ("1.1.1.1:1 > 2.2.2.2:2 S ipopts 0101", "4 to 40"),
        ("1.1.1.1:1 > 2.2.2.2:2 S opt 012", "even"),
        ("1.1.1.1:1 > 2.2.2.2:2 S smac 02:00", "MAC"),
        ("RAW zz", "hex"),
    ] {
        let error = line.parse::<Packet>().expect_err(line);
        assert!(format!("{error:#}").contains(word), "{line:?}: {error:#}");
    }
    for line in ["1.1.1.1:1 > 2.2.2.2:2 S cut 54", "1.1.1.1:1 > 2.2.2.2:2 S patch 53:0000"] {
        assert!(line.parse::<Packet>().unwrap().frame().is_err(), "{line}");
    }
}
