//! TCP flags and options, against statements of their own.
use gateway_common::packet::{Kind, OPTIONS_BUFFER_BYTES, find_mss};
use proptest::{prelude::*, test_runner::FileFailurePersistence::Direct};

/// Where seeds that once failed are kept, to be tried again.
const REGRESSIONS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/segments.regressions");

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;
const URG: u8 = 32;

/// What Linux takes for valid (`tcp_valid_flags` of nf_conntrack_proto_tcp.c), whatever PSH, ECE
/// and CWR say.
const VALID: [u8; 9] =
    [SYN, SYN | URG, SYN | ACK, RST, RST | ACK, FIN | ACK, FIN | ACK | URG, ACK, ACK | URG];

/// As `get_conntrack_index` looks at them: RST before SYN before FIN before ACK.
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
fn all_flags_are_judged_as_linux_does() {
    for flags in 0..=u8::MAX {
        let valid = VALID.contains(&(flags & (FIN | SYN | RST | ACK | URG)));
        assert_eq!(Kind::of(flags), valid.then(|| kind(flags)), "flags {flags:#04x}");
    }
}

/// RFC 9293 section 3.1 read off simply: a list of options, then the first MSS among them.
fn first_mss(options: &[u8]) -> Option<(usize, u16)> {
    fn walk(options: &[u8], at: usize) -> Option<(usize, u16)> {
        match options {
            [] | [0, ..] => None,
            [1, rest @ ..] => walk(rest, at + 1),
            [2, 4, high, low, ..] => Some((at + 2, u16::from_be_bytes([*high, *low]))),
            [2, ..] | [_] => None,
            [_, size, ..] => {
                let size = usize::from(*size);
                let rest = if size < 2 { None } else { options.get(size..) };
                rest.and_then(|rest| walk(rest, at + size))
            }
        }
    }
    walk(options, 0)
}

/// Options that are mostly well formed, so that the search gets far.
fn options() -> impl Strategy<Value = Vec<u8>> {
    let option = prop_oneof![
        4 => Just(vec![1]),
        3 => any::<[u8; 2]>().prop_map(|[high, low]| vec![2, 4, high, low]),
        2 => Just(vec![4, 2]),
        2 => any::<u8>().prop_map(|scale| vec![3, 3, scale]),
        2 => any::<[u8; 8]>().prop_map(|stamps| [&[8, 10][..], &stamps].concat()),
        1 => Just(vec![0]),
        1 => proptest::collection::vec(any::<u8>(), 1..6),
    ];
    proptest::collection::vec(option, 0..12).prop_map(|options| options.concat())
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: Some(Box::new(Direct(REGRESSIONS))),
        ..ProptestConfig::with_cases(10_000)
    })]

    #[test]
    fn mss_is_found_as_by_a_simple_parser(mut options in options(), behind: u8) {
        options.truncate(40);
        // What is behind the options must not matter.
        let mut buffer = [behind; OPTIONS_BUFFER_BYTES];
        buffer[..options.len()].copy_from_slice(&options);
        prop_assert_eq!(find_mss(&buffer, options.len()), first_mss(&options));
    }

    #[test]
    fn mss_stands_wholly_inside_the_options(buffer: [[u8; 32]; 2], length in 0..100usize) {
        let buffer: [u8; 64] = buffer.concat().try_into().unwrap();
        if let Some((at, value)) = find_mss(&buffer, length) {
            prop_assert!(at + 2 <= length.min(40));
            prop_assert_eq!(value, u16::from_be_bytes([buffer[at], buffer[at + 1]]));
        }
    }
}
