//! Malformed and unsupported packets.
use gateway_common::{
    packet::{Inner, Mss, Options, Segment},
    reason::Reason::*,
    wire::Ipv4,
};

use crate::frames::*;

const TCP: usize = 34;

fn edited(v6: bool, edits: &[(usize, u8)]) -> Option<gateway_common::reason::Reason> {
    refused(&edits.iter().fold(syn(v6), |frame, (at, byte)| with(frame, *at, *byte)))
}

#[test]
fn inner_packet_is_plain_and_whole_ipv4() {
    let edited = |edits: &[(usize, u8)]| edited(false, edits);
    assert_eq!(edited(&[]), None);
    assert_eq!(edited(&[(13, 6)]), Some(InnerNotIp));
    assert_eq!(edited(&[(12, 0x86), (13, 0xdd)]), Some(InnerMalformed), "the other family's");
    assert_eq!(edited(&[(IP, 0x46)]), Some(InnerHasIpOptions));
    assert_eq!(edited(&[(IP, 0x4f)]), Some(InnerHasIpOptions));
    assert_eq!(edited(&[(IP, 0x44)]), Some(InnerMalformed));
    assert_eq!(edited(&[(IP, 0x65)]), Some(InnerMalformed));
    assert_eq!(edited(&[(IP + 3, 19)]), Some(InnerMalformed));
    assert_eq!(edited(&[(IP + 3, 20)]), Some(TcpMalformed));
    assert_eq!(edited(&[(IP + 3, 39)]), Some(TcpMalformed));
    assert_eq!(edited(&[(IP + 3, 41)]), Some(InnerMalformed), "longer than the frame");
    assert_eq!(edited(&[(IP + 6, 0x20)]), Some(InnerFragment), "the first");
    assert_eq!(edited(&[(IP + 7, 0x01)]), Some(InnerFragment), "the last");
    assert_eq!(edited(&[(IP + 6, 0x10)]), Some(InnerFragment), "far behind");
    assert_eq!(edited(&[(IP + 6, 0x40)]), None, "DF");
    assert_eq!(edited(&[(IP + 9, 17)]), Some(ProtocolNotAllowed));
    assert_eq!(edited(&[(IP + 9, 58)]), Some(ProtocolNotAllowed), "the other family's ICMP");
    let mut wrong = syn(false);
    wrong[24] ^= 1;
    assert_eq!(refused(&wrong), Some(InnerChecksumWrong));
    let mut padded = syn(false);
    padded.extend([0; 6]);
    assert_eq!(refused(&padded), None);
}

#[test]
fn inner_packet_is_plain_and_whole_ipv6() {
    let edited = |edits: &[(usize, u8)]| edited(true, edits);
    assert_eq!(edited(&[]), None);
    assert_eq!(edited(&[(12, 8), (13, 0)]), Some(InnerMalformed), "the other family's");
    for version in [0x00, 0x40, 0x50, 0x70, 0xe0] {
        assert_eq!(edited(&[(IP, version)]), Some(InnerMalformed), "{version:#x}");
    }
    assert_eq!(edited(&[(IP, 0x6f)]), None, "a traffic class");
    assert_eq!(edited(&[(IP + 5, 19)]), Some(TcpMalformed));
    assert_eq!(edited(&[(IP + 5, 21)]), Some(InnerMalformed), "longer than the frame");
    for extension in [0, 43, 51, 60, 135, 139, 140, 253, 254] {
        assert_eq!(edited(&[(IP + 6, extension)]), Some(InnerHasIpOptions), "{extension}");
    }
    for protocol in [17, 1, 4, 41, 47, 50, 59] {
        assert_eq!(edited(&[(IP + 6, protocol)]), Some(ProtocolNotAllowed), "{protocol}");
    }
    // A fragment header: TCP, then the offset.
    let fragment = |high: u8, low: u8| edited(&[(IP + 6, 44), (IP + 40, 6), (IP + 42, high), (IP + 43, low)]);
    for (high, low) in [(0, 0), (0, 1), (0, 8), (0, 9), (1, 0)] {
        assert_eq!(fragment(high, low), Some(InnerFragment), "{high:#x} {low:#x}");
    }
    assert_eq!(edited(&[(IP + 6, 44), (IP + 40, 44)]), Some(InnerHasIpOptions));
    assert_eq!(edited(&[(IP + 6, 44), (IP + 40, 60)]), Some(InnerHasIpOptions));
    assert_eq!(edited(&[(IP + 6, 44), (IP + 40, 6), (IP + 5, 7)]), Some(InnerMalformed), "cut short");
    assert_eq!(edited(&[(IP + 6, 44), (IP + 40, 6), (IP + 5, 8)]), Some(InnerFragment));
    let mut padded = syn(true);
    padded.extend([0; 6]);
    assert_eq!(refused(&padded), None);
}

#[test]
fn frame_that_ends_in_a_header_is_malformed() {
    for (v6, ip_end) in [(false, 34), (true, 54)] {
        for length in 0..syn(v6).len() {
            let expected = if length < 14 { InnerNotIp } else { InnerMalformed };
            assert_eq!(refused(&syn(v6)[..length]), Some(expected), "{length} of {ip_end}");
        }
    }
}

/// Sums of 16-bit words that carry twice.
#[test]
fn checksum_is_right_for_every_carry() {
    let mut carried = 0;
    for identification in 0..=u16::MAX {
        let [high, low] = identification.to_be_bytes();
        let frame = with(with(syn(false), IP + 4, high), IP + 5, low);
        carried += u32::from(Inner::<Ipv4>::parse(&frame[..]).is_ok());
    }
    assert_eq!(carried, 1 << 16);
}

#[test]
fn tcp_header_lies_in_the_packet() {
    for (v6, at) in [(false, TCP), (true, TCP + 20)] {
        let offset = |words: u8| refused(&with(syn(v6), at + 12, words << 4));
        assert_eq!(offset(5), None);
        assert_eq!(offset(4), Some(TcpMalformed));
        assert_eq!(offset(0), Some(TcpMalformed));
        assert_eq!(offset(6), Some(TcpMalformed));
        let mut padded = with(syn(v6), at + 12, 6 << 4);
        padded.extend([0; 6]);
        assert_eq!(refused(&padded), Some(TcpMalformed), "in the padding");
        for flags in [0x00, 0x01, 0x03, 0x06, 0x22 | 0x01, 0x3f] {
            assert_eq!(refused(&with(syn(v6), at + 13, flags)), Some(TcpFlagsInvalid), "{flags:#x}");
        }
    }
}

fn options(options: &[u8]) -> Options {
    let frame = request(false, Tcp { options, ..tcp(0x02, 1000, 50) });
    let inner = Inner::<Ipv4>::parse(&frame[..]).expect("IPv4");
    Segment::parse(&frame[..], &inner).expect("TCP").options
}

#[test]
fn options_are_read_to_the_byte() {
    let mss = |at, bytes| Some(Mss { at, bytes });
    assert_eq!(options(&[2, 4, 5, 180]).mss(), mss(2, 1460));
    assert_eq!(options(&[1, 2, 4, 5, 180, 0, 0, 0]).mss(), mss(3, 1460));
    assert_eq!(options(&[2, 4, 5, 180, 2, 4, 0, 1]).mss(), mss(2, 1460), "the first");
    assert_eq!(options(&[2, 5, 5, 180, 0, 0, 0, 0]).mss(), None, "of another size");
    assert_eq!(options(&[0, 2, 2, 4, 5, 180, 0, 0]).mss(), None, "behind the end");
    assert_eq!(options(&[3, 1, 2, 4, 5, 180, 0, 0]).mss(), None, "behind nonsense");
    assert_eq!(options(&[1, 1, 2, 4]).mss(), None, "beyond the header");
    assert_eq!(options(&[1, 1, 8, 10, 2, 4, 5, 180, 0, 0, 0, 0]).mss(), None, "in a timestamp");
    assert_eq!(options(&[1, 1, 1, 1, 2, 4, 5, 180, 0, 0, 0, 0]).mss(), mss(6, 1460), "of that length");
    for (scale, read) in [(0, 0), (14, 14), (15, 14), (255, 14)] {
        assert_eq!(options(&[3, 3, scale, 0]).window_scale(), Some(read));
    }
    assert_eq!(options(&[3, 4, 7, 0]).window_scale(), None);
    assert!(options(&[4, 2, 0, 0]).sack_permitted && !options(&[4, 3, 0, 0]).sack_permitted);
    let block = |left: u8, right: u8| [0, 0, 0, left, 0, 0, 0, right];
    let sack = |options_: &[&[u8]]| options(&options_.concat()).highest_sack.0;
    assert_eq!(sack(&[&[1, 1, 5, 10], &block(60, 70)]), 70);
    assert_eq!(sack(&[&[1, 1, 5, 10], &block(60, 40)]), 50, "below the acknowledgment");
    assert_eq!(sack(&[&[1, 1, 5, 18], &block(60, 70), &block(80, 90)]), 90);
    assert_eq!(sack(&[&[1, 1, 5, 18], &block(80, 90), &block(60, 70)]), 90);
    assert_eq!(sack(&[&[5, 14], &block(60, 70), &[0; 6]]), 50, "no whole blocks");
    assert_eq!(sack(&[&[1, 1, 5, 10], &block(60, 70), &[1, 1, 5, 10], &block(80, 90)]), 70, "the first");
}
