//! TCP flags and options, checked against an independent implementation.
use etherparse::PacketBuilder;
use gateway_common::{
    family::Family,
    packet::{Inner, Kind, MAX_OPTIONS_BYTES, Segment},
    wire::{Ipv4, Ipv6},
};
use proptest::{prelude::*, test_runner::FileFailurePersistence::Direct};

/// Seeds that once failed, tried again in each run. proptest creates the file at the first failure.
const REGRESSIONS: &str = "tests/segments.regressions";

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;
const URG: u8 = 32;

/// Flags that Linux considers valid (`tcp_valid_flags` in nf_conntrack_proto_tcp.c), regardless of PSH, ECE
/// and CWR.
const VALID: [u8; 9] =
    [SYN, SYN | URG, SYN | ACK, RST, RST | ACK, FIN | ACK, FIN | ACK | URG, ACK, ACK | URG];

/// Returns the kind as `get_conntrack_index` does: RST before SYN before FIN before ACK.
fn kind(flags: u8) -> Kind {
    match flags {
        f if f & RST != 0 => Kind::Rst,
        f if f & SYN != 0 && f & ACK != 0 => Kind::SynAck,
        f if f & SYN != 0 => Kind::Syn,
        f if f & FIN != 0 => Kind::Fin,
        _ => Kind::Ack,
    }
}

#[test]
fn flags_are_judged_as_by_linux() {
    for flags in 0..=u8::MAX {
        let valid = VALID.contains(&(flags & (FIN | SYN | RST | ACK | URG)));
        assert_eq!(Kind::of(flags), valid.then(|| kind(flags)), "flags {flags:#04x}");
    }
}

/// Parses options as RFC 9293 section 3.1 describes them, up to the end of the list or the first malformed
/// one. Returns kind, offset of the content and content of each.
fn list(options: &[u8]) -> Vec<(u8, usize, &[u8])> {
    let mut list = Vec::new();
    let mut rest = options;
    while let [kind, more @ ..] = rest {
        let at = options.len() - rest.len();
        rest = match (kind, more) {
            (0, _) | (_, []) => break,
            (1, more) => more,
            (kind, [size, ..]) => match rest.split_at_checked(usize::from(*size)) {
                Some((option, behind)) if option.len() >= 2 => {
                    list.push((*kind, at + 2, &option[2..]));
                    behind
                }
                _ => break,
            },
        };
    }
    list
}

/// Returns offset and value of the first MSS option.
fn first_mss(options: &[u8]) -> Option<(usize, u16)> {
    let of = |(kind, at, content): &(u8, usize, &[u8])| match (kind, content) {
        (2, [high, low]) => Some((*at, u16::from_be_bytes([*high, *low]))),
        _ => None,
    };
    list(options).iter().find_map(of)
}

/// Returns the last window scale, at most 14 (RFC 7323 section 2.3).
fn last_scale(options: &[u8]) -> Option<u8> {
    let of = |(kind, _, content): &(u8, usize, &[u8])| match (kind, content) {
        (3, [scale]) => Some((*scale).min(14)),
        _ => None,
    };
    list(options).iter().filter_map(of).next_back()
}

/// Returns the highest right edge in the first SACK option with whole blocks, if that edge is above `ack` by
/// at most half of all numbers (RFC 9293 section 3.4).
fn highest_sack(options: &[u8], ack: u32) -> u32 {
    let whole = |content: &[u8]| !content.is_empty() && content.len().is_multiple_of(8);
    let mut highest = ack;
    if let Some((_, _, blocks)) = list(options).iter().find(|(kind, _, content)| *kind == 5 && whole(content))
    {
        for block in blocks.chunks(8) {
            let right = u32::from_be_bytes([block[4], block[5], block[6], block[7]]);
            if (1..=0x8000_0000).contains(&right.wrapping_sub(highest)) {
                highest = right;
            }
        }
    }
    highest
}

/// Generates options, mostly well-formed so that parsing gets far, padded to whole words.
fn options() -> impl Strategy<Value = Vec<u8>> {
    let near = prop_oneof![3 => 0..100u32, 1 => any::<u32>()];
    let block = (any::<[u8; 4]>(), near).prop_map(|(left, right)| [left, right.to_be_bytes()].concat());
    let sack = proptest::collection::vec(block, 0..4)
        .prop_map(|blocks| [&[5, 2 + 8 * blocks.len() as u8][..], &blocks.concat()].concat());
    let option = prop_oneof![
        4 => Just(vec![1]),
        3 => any::<[u8; 2]>().prop_map(|[high, low]| vec![2, 4, high, low]),
        2 => Just(vec![4, 2]),
        2 => (0..20u8).prop_map(|scale| vec![3, 3, scale]),
        2 => any::<[u8; 8]>().prop_map(|stamps| [&[8, 10][..], &stamps].concat()),
        1 => Just(vec![1, 1, 8, 10, 5, 5, 5, 5, 3, 3, 3, 3]),
        3 => sack,
        1 => (0..7u8, 2..6u8).prop_map(|(kind, size)| [vec![kind, size], vec![7; usize::from(size) - 2]].concat()),
        1 => Just(vec![0]),
        1 => proptest::collection::vec(any::<u8>(), 1..6),
    ];
    (proptest::collection::vec(option, 0..8), any::<u8>()).prop_map(|(options, padding)| {
        let mut options = options.concat();
        options.truncate(MAX_OPTIONS_BYTES);
        options.resize(options.len().next_multiple_of(4), padding);
        options
    })
}

/// Returns a TCP segment with these options and data.
fn tcp(options: &[u8], data: &[u8], sequence: u32, ack: u32, flags: u8, window: u16) -> Vec<u8> {
    let mut tcp = [1234u16.to_be_bytes(), 80u16.to_be_bytes()].concat();
    tcp.extend([sequence.to_be_bytes(), ack.to_be_bytes()].concat());
    tcp.extend([(5 + options.len() as u8 / 4) << 4, flags]);
    tcp.extend(window.to_be_bytes());
    tcp.extend([0; 4]);
    [&tcp, options, data].concat()
}

/// Parses the segment in both families, which must agree; `behind` follows the packet in the frame.
fn parse_before(tcp: &[u8], behind: &[u8]) -> Segment {
    let ethernet = || PacketBuilder::ethernet2([2; 6], [4; 6]);
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    ethernet().ipv4([1; 4], [2; 4], 64).write(&mut v4, 6.into(), tcp).expect("writing to a vector");
    ethernet().ipv6([1; 16], [2; 16], 64).write(&mut v6, 6.into(), tcp).expect("writing to a vector");
    v4.extend(behind);
    v6.extend(behind);
    let segment = parse_as::<Ipv4>(&v4);
    assert_eq!(format!("{segment:?}"), format!("{:?}", parse_as::<Ipv6>(&v6)));
    segment
}

fn parse_as<A: Family>(frame: &[u8]) -> Segment {
    let inner = Inner::<A>::parse(frame).expect("well-formed IP");
    Segment::parse(frame, &inner).expect("well-formed TCP")
}

fn parse(tcp: &[u8]) -> Segment {
    parse_before(tcp, &[])
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: Some(Box::new(Direct(REGRESSIONS))),
        ..ProptestConfig::with_cases(20_000)
    })]

    #[test]
    fn options_match_a_simple_parser(
        options in options(),
        ack in prop_oneof![3 => (0..200u32).prop_map(|ack| ack.wrapping_sub(100)), 1 => any::<u32>()],
    ) {
        let parsed = parse(&tcp(&options, &[], 1, ack, ACK, 1)).options;
        let mss = parsed.mss().map(|mss| (usize::from(mss.at), mss.bytes));
        prop_assert_eq!(mss, first_mss(&options));
        prop_assert_eq!(parsed.window_scale(), last_scale(&options));
        let permitted = list(&options).iter().any(|(kind, _, content)| *kind == 4 && content.is_empty());
        prop_assert_eq!(parsed.sack_permitted, permitted);
        prop_assert_eq!(parsed.highest_sack.0, highest_sack(&options, ack));
        prop_assert_eq!(parsed.present, !options.is_empty());
    }

    #[test]
    fn bytes_behind_the_options_do_not_matter(options in options(), data in proptest::collection::vec(any::<u8>(), 0..64)) {
        let alone = parse(&tcp(&options, &[], 1, 50, ACK, 1)).options;
        let before_data = parse(&tcp(&options, &data, 1, 50, ACK, 1)).options;
        let padded = parse_before(&tcp(&options, &[], 1, 50, ACK, 1), &data);
        prop_assert_eq!(alone, before_data);
        prop_assert_eq!((alone, 1), (padded.options, padded.end.0));
    }

    #[test]
    fn syn_fin_and_data_take_sequence_numbers(
        options in options(),
        data in 0..100usize,
        (sequence, ack) in any::<(u32, u32)>(),
        flags in proptest::sample::select(&VALID[..]),
        window in any::<u16>(),
    ) {
        let segment = parse(&tcp(&options, &vec![0; data], sequence, ack, flags, window));
        let taken = data as u32 + u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
        prop_assert_eq!((segment.sequence.0, segment.end.0), (sequence, sequence.wrapping_add(taken)));
        prop_assert_eq!((segment.acknowledgment.0, segment.window), (ack, window));
        prop_assert_eq!((segment.kind, segment.has_ack), (kind(flags), flags & ACK != 0));
    }
}
