//! Fragments, and the length of a UDP datagram in one.
use gateway_common::{outer::Outer, reason::Reason::*};

use crate::frames::*;

/// Offset of the fragment field in the IPv4 header.
const FRAGMENT: usize = 20;
pub const MORE: (usize, u8) = (FRAGMENT, 0x20);
pub const LATER: (usize, u8) = (FRAGMENT + 1, 1);
const FAR_LATER: (usize, u8) = (FRAGMENT, 0x10);

#[test]
fn udp_length_matches_both_headers() {
    let ike = || udp((PEER, 1024), (OURS, 500), &[1; 28]);
    for (length, expected) in [(35, Err(OuterMalformed)), (36, Ok(Outer::Ike)), (37, Err(OuterMalformed))] {
        assert_eq!(arrives(&with(ike(), &[(39, length)])), expected, "{length}");
    }
    // In a first fragment the length may exceed the frame: other fragments bring the rest.
    for (length, expected) in [(35, Err(OuterMalformed)), (37, Ok(Outer::Ike))] {
        assert_eq!(arrives(&with(ike(), &[(39, length), MORE])), expected, "{length}");
    }
    let mut padded = with(udp((PEER, 1024), (OURS, 4500), &[]), &[]);
    padded.extend(ESP_BEEF);
    assert_eq!(arrives(&padded), Err(OuterMalformed), "an SPI in the padding");
}

#[test]
fn only_later_fragments_of_esp_and_udp_pass() {
    for edit in [LATER, FAR_LATER] {
        for (proto, passes) in [(50, true), (17, true), (6, false), (1, false)] {
            let outer = with(ip(PEER, OURS, proto, &[3, 4, 0, 0]), &[edit]);
            let expected = if passes { Ok(Outer::Fragment) } else { Err(OuterProtocolNotAllowed) };
            assert_eq!(arrives(&outer), expected, "{proto}");
            let own = with(ip(OURS, PEER, proto, &[3, 4, 0, 0]), &[edit]);
            let expected = if passes { Ok(Outer::Fragment) } else { Err(GatewayTrafficNotAllowed) };
            assert_eq!(leaves(&own), expected, "{proto}");
        }
    }
}

/// RFC 8200 section 4.5: 13 bits of offset, then M.
#[test]
fn every_bit_of_an_ipv6_fragments_offset_makes_it_a_later_one() {
    let judged = |word: u16| {
        let [high, low] = word.to_be_bytes();
        let payload = [&[50, 0, high, low, 0, 0, 0, 7], ESP_BEEF].concat();
        arrives(&ip6(OURS_V6, 44, 64, &payload))
    };
    for bit in 3..16 {
        assert_eq!(judged(1 << bit), Ok(Outer::Fragment), "bit {bit}");
    }
    for bit in 0..3 {
        assert_eq!(judged(1 << bit), Ok(Outer::Esp(0xbeef)), "bit {bit}");
    }
}

#[test]
fn udp_length_in_an_ipv6_fragment_is_at_least_the_fragments() {
    let judged = |length: u8| {
        let udp = [1, 244, 1, 244, 0, length, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1];
        arrives(&ip6(OURS_V6, 44, 64, &[&[17, 0, 0, 1, 0, 0, 0, 7][..], &udp].concat()))
    };
    assert_eq!(judged(15), Err(OuterMalformed));
    assert_eq!([judged(16), judged(17), judged(24)], [Ok(Outer::Ike); 3]);
}
