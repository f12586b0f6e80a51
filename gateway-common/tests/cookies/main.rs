//! IKE cookies: the hash, the secrets, requests, answers, and who has to show one.
mod fates;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};
use gateway_common::{
    outer::cookie::{
        ANSWER_BYTES, Answer, AnswerFamily, Cookie, Demand, Origin, Question, Secrets, Shown,
        asks_for_cookie, question, siphash,
    },
    wire::{Ipv4, Ipv6, Wire},
};
use proptest::{collection::vec, prelude::*};

const GATEWAY: [&str; 2] = ["203.0.113.1", "2001:db8:113::1"];
const STRANGER: [&str; 2] = ["8.8.8.8", "2001:db8:8::8"];
const SPI: u64 = 0x1122_3344_5566_7788;
const START_NS: u64 = 1 << 40;
const SECOND_NS: u64 = 1_000_000_000;

fn secrets() -> Secrets {
    Secrets::first([[1, 2], [3, 4]])
}

fn origin(address: &str, port: u16, spi: u64) -> Origin {
    let address: IpAddr = address.parse().expect("an address");
    let [a, b, c, d, e, f, g, h] = spi.to_be_bytes();
    let spi = [u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h])];
    Origin { address: address.into(), spi, port }
}

/// Hashes any message.
fn hash(key: [u8; 16], message: &[u8]) -> u64 {
    let number = |bytes: &[u8]| {
        let mut all = [0; 8];
        all[..bytes.len()].copy_from_slice(bytes);
        u64::from_le_bytes(all)
    };
    let key = [number(&key[..8]), number(&key[8..])];
    let (blocks, rest) = message.as_chunks::<8>();
    let last = (message.len() as u64) << 56 | number(rest);
    match blocks {
        [] => siphash(key, [], last),
        [a] => siphash(key, [number(a)], last),
        [a, b] => siphash(key, [number(a), number(b)], last),
        [a, b, c] => siphash(key, [number(a), number(b), number(c)], last),
        _ => panic!("the message is longer than the gateway's"),
    }
}

/// The vectors of the reference implementation (vectors.h of github.com/veorq/SipHash): key 00 01 … 0f, message
/// 00 01 … of each length.
#[test]
fn siphash_has_the_published_values() {
    let key = std::array::from_fn(|byte| byte as u8);
    let message: Vec<u8> = (0..32).collect();
    for (length, bytes) in [
        (0, [0x31, 0x0e, 0x0e, 0xdd, 0x47, 0xdb, 0x6f, 0x72]),
        (1, [0xfd, 0x67, 0xdc, 0x93, 0xc5, 0x39, 0xf8, 0x74]),
        (2, [0x5a, 0x4f, 0xa9, 0xd9, 0x09, 0x80, 0x6c, 0x0d]),
        // The example of the paper's appendix A.
        (15, [0xe5, 0x45, 0xbe, 0x49, 0x61, 0xca, 0x29, 0xa1]),
    ] {
        assert_eq!(hash(key, &message[..length]).to_le_bytes(), bytes, "{length} bytes");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2_000) })]

    #[test]
    fn siphash_is_that_of_the_standard_library(key in any::<[u64; 2]>(), message in vec(any::<u8>(), 0..32)) {
        use std::hash::Hasher as _;
        #[expect(deprecated, reason = "SipHash-2-4 by somebody else")]
        let mut other = std::hash::SipHasher::new_with_keys(key[0], key[1]);
        other.write(&message);
        let [a, b] = key.map(u64::to_le_bytes);
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&a);
        bytes[8..].copy_from_slice(&b);
        prop_assert_eq!(hash(bytes, &message), other.finish());
    }

    #[test]
    fn cookie_is_the_hash_of_its_origin(
        keys in any::<[[u64; 2]; 2]>(),
        address in any::<[u8; 16]>(),
        spi in any::<u64>(),
        port in any::<u16>(),
    ) {
        let origin = origin(&Ipv6Addr::from(address).to_string(), port, spi);
        let message = [&origin.address.octets[..], &spi.to_be_bytes(), &port.to_be_bytes()].concat();
        let [a, b] = keys[1].map(u64::to_le_bytes);
        let expected = hash([a, b].concat().try_into().expect("16 bytes"), &message);
        let Cookie([version, low, high]) = Secrets::first(keys).cookie(&origin);
        prop_assert_eq!(version.to_ne_bytes(), [1, 0, 0, 0]);
        let bytes = [low.to_ne_bytes(), high.to_ne_bytes()].concat();
        prop_assert_eq!(bytes, expected.to_le_bytes());
    }

    #[test]
    fn requests_of_any_bytes_are_read(frame in vec(any::<u8>(), 0..200)) {
        let _ = question(&frame[..]);
        let _ = asks_for_cookie(&frame[..]);
    }
}

#[test]
fn cookie_is_its_origins_alone() {
    let own = origin(STRANGER[0], 500, SPI);
    let cookie = secrets().cookie(&own);
    assert!(secrets().accept(cookie, &own));
    for other in [
        origin("8.8.8.9", 500, SPI),
        origin("9.8.8.8", 500, SPI),
        origin("2001:db8::808:808", 500, SPI),
        origin("::808:808", 500, SPI),
        origin(STRANGER[0], 501, SPI),
        origin(STRANGER[0], 500 << 8, SPI),
        origin(STRANGER[0], 500, SPI + 1),
        origin(STRANGER[0], 500, SPI.rotate_left(32)),
    ] {
        assert!(!secrets().accept(cookie, &other), "{other:?}");
    }
    for bit in 0..96 {
        let mut wrong = cookie;
        wrong.0[bit / 32] ^= 1 << (bit % 32);
        assert!(!secrets().accept(wrong, &own), "bit {bit}");
    }
    assert!(!Secrets::first([[1, 2], [3, 5]]).accept(cookie, &own), "another secret");
    assert!(!secrets().accept(Cookie::default(), &own));
}

#[test]
fn two_secrets_are_in_force() {
    let own = origin(STRANGER[1], 500, SPI);
    let mut all = vec![secrets()];
    for fresh in 0..300 {
        all.push(all[all.len() - 1].rotated([fresh, !fresh]));
    }
    for (now, secrets) in all.iter().enumerate() {
        assert!(secrets.in_force());
        for (then, made_by) in all.iter().enumerate() {
            let accepted = secrets.accept(made_by.cookie(&own), &own);
            assert_eq!(accepted, now == then || now == then + 1, "made by {then}, shown to {now}");
        }
    }
    assert!(!Secrets::default().in_force());
}

/// A request, or a response.
#[derive(Clone)]
struct Ike {
    ports: [u16; 2],
    spis: [u64; 2],
    /// Next payload, version, exchange and flags.
    kind: [u8; 4],
    id: u32,
    payloads: Vec<u8>,
}

impl Ike {
    fn request() -> Self {
        Self {
            ports: [500, 500],
            spis: [SPI, 0],
            kind: [33, 0x20, 34, 0x08],
            id: 0,
            payloads: vec![0x55; 200],
        }
    }

    /// Returns the request with a notify payload of type COOKIE in front.
    fn with_cookie(data: &[u8]) -> Self {
        let request = Self::request();
        let length = 8 + data.len() as u16;
        let mut notify = vec![request.kind[0], 0, (length >> 8) as u8, length as u8, 0, 0, 0x40, 0x06];
        notify.extend(data);
        notify.extend(request.payloads);
        Self { kind: [41, 0x20, 34, 0x08], payloads: notify, ..Self::request() }
    }

    fn message(&self) -> Vec<u8> {
        let mut message = self.spis.map(u64::to_be_bytes).concat();
        message.extend(self.kind);
        message.extend(self.id.to_be_bytes());
        message.extend((28 + self.payloads.len() as u32).to_be_bytes());
        message.extend(&self.payloads);
        message
    }

    fn frame(&self, from: &str, to: &str) -> Vec<u8> {
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]);
        let mut frame = Vec::new();
        let (message, [source, destination]) = (self.message(), self.ports);
        match (from.parse().expect("an address"), to.parse().expect("an address")) {
            (IpAddr::V4(from), IpAddr::V4(to)) => builder
                .ipv4(from.octets(), to.octets(), 64)
                .udp(source, destination)
                .write(&mut frame, &message),
            (IpAddr::V6(from), IpAddr::V6(to)) => builder
                .ipv6(from.octets(), to.octets(), 64)
                .udp(source, destination)
                .write(&mut frame, &message),
            _ => panic!("two families"),
        }
        .expect("the packet is short");
        frame
    }
}

fn bytes(cookie: Cookie) -> Vec<u8> {
    cookie.0.map(u32::to_ne_bytes).concat()
}

fn read(ike: &Ike, family: usize) -> Option<Question> {
    question(&ike.frame(STRANGER[family], GATEWAY[family])[..])
}

#[test]
fn requests_that_open_an_ike_sa_are_read() {
    for family in [0, 1] {
        let own = origin(STRANGER[family], 500, SPI);
        let cookie = secrets().cookie(&own);
        let plain =
            Question { origin: own, shown: Shown::Nothing, cookie: Cookie::default(), answerable: true };
        assert_eq!(read(&Ike::request(), family), Some(plain));
        let shown = Question { shown: Shown::Cookie, cookie, ..plain };
        assert_eq!(read(&Ike::with_cookie(&bytes(cookie)), family), Some(shown));
        let foreign = Question { shown: Shown::Foreign, ..plain };
        assert_eq!(read(&Ike::with_cookie(&[7; 24]), family), Some(foreign));
        assert_eq!(read(&Ike::with_cookie(&[7; 11]), family), Some(foreign));
        // Minor versions and reserved flags are ignored (RFC 7296 section 2.5).
        let newer = Ike { kind: [33, 0x21, 34, 0x1b], ..Ike::request() };
        assert_eq!(read(&newer, family), Some(plain));
        let from_nat = Ike { ports: [40_000, 500], ..Ike::request() };
        assert_eq!(read(&from_nat, family).expect("a request").origin.port, 40_000);
    }
}

#[test]
fn other_packets_are_no_requests() {
    for other in [
        Ike { ports: [500, 4500], ..Ike::request() },
        Ike { kind: [33, 0x10, 34, 0x08], ..Ike::request() },
        Ike { kind: [33, 0x20, 35, 0x08], ..Ike::request() },
        Ike { kind: [33, 0x20, 34, 0x28], ..Ike::request() },
    ] {
        assert!(read(&other, 0).is_none() && read(&other, 1).is_none(), "{:?}", other.kind);
    }
    let mut fragment = Ike::request().frame(STRANGER[0], GATEWAY[0]);
    fragment[20] |= 0x20;
    assert!(question(&fragment[..]).is_none());
    let mut tcp = Ike::request().frame(STRANGER[0], GATEWAY[0]);
    tcp[23] = 6;
    assert!(question(&tcp[..]).is_none());
}

#[test]
fn truncated_requests_are_no_requests() {
    for family in [0, 1] {
        let frame = Ike::request().frame(STRANGER[family], GATEWAY[family]);
        assert!((0..frame.len()).all(|length| question(&frame[..length]).is_none()));
    }
}

#[test]
fn cookie_must_be_the_first_payload_and_whole() {
    let cookie = bytes(secrets().cookie(&origin(STRANGER[0], 500, SPI)));
    let with = Ike::with_cookie(&cookie);
    let shown = |change: &dyn Fn(&mut Ike)| {
        let mut ike = with.clone();
        change(&mut ike);
        read(&ike, 0).expect("a request").shown
    };
    assert_eq!(shown(&|_| {}), Shown::Cookie);
    assert_eq!(shown(&|ike| ike.kind[0] = 33), Shown::Nothing);
    // Another notification, one with an SPI, and a payload that ends too early.
    assert_eq!(shown(&|ike| ike.payloads[7] = 5), Shown::Nothing);
    assert_eq!(shown(&|ike| ike.payloads[5] = 4), Shown::Nothing);
    assert_eq!(shown(&|ike| ike.payloads.truncate(19)), Shown::Nothing);
    assert_eq!(shown(&|ike| ike.payloads.truncate(7)), Shown::Nothing);
    assert_eq!(shown(&|ike| ike.payloads.truncate(20)), Shown::Cookie);
}

#[test]
fn only_a_request_from_one_host_that_is_longer_than_the_answer_is_answerable() {
    let answerable = |ike: &Ike, from: &str| {
        let to = GATEWAY[usize::from(from.contains(':'))];
        question(&ike.frame(from, to)[..]).expect("a request").answerable
    };
    let sized = |bytes: usize| Ike { payloads: vec![0x55; bytes - 28], ..Ike::request() };
    for from in STRANGER {
        assert!(answerable(&sized(ANSWER_BYTES + 1), from) && !answerable(&sized(ANSWER_BYTES), from));
    }
    for ike in [
        Ike { spis: [0, 0], ..Ike::request() },
        Ike { spis: [SPI, 1], ..Ike::request() },
        Ike { spis: [SPI, 1 << 32], ..Ike::request() },
        Ike { id: 1, ..Ike::request() },
        Ike { kind: [33, 0x20, 34, 0], ..Ike::request() },
        Ike { ports: [0, 500], ..Ike::request() },
    ] {
        assert!(!answerable(&ike, STRANGER[0]) && !answerable(&ike, STRANGER[1]));
    }
    for host in ["1.0.0.0", "126.0.0.1", "128.0.0.1", "223.255.255.255", "::2", "fe80::1", "2001:db8::1"] {
        assert!(answerable(&Ike::request(), host), "{host}");
    }
    for group in ["0.0.0.1", "127.0.0.1", "224.0.0.1", "255.255.255.255", "::", "::1", "ff02::1"] {
        assert!(!answerable(&Ike::request(), group), "{group}");
    }
    let mut to_group = Ike::request().frame(STRANGER[0], GATEWAY[0]);
    to_group[0] |= 1;
    assert!(!question(&to_group[..]).expect("a request").answerable);
}

/// Returns the bytes of an answer, from the IP header on.
fn answer_bytes<A: AnswerFamily>(source: A, destination: A, origin: &Origin, cookie: Cookie) -> Vec<u8> {
    let answer: Answer<A::Header> = Answer::new(source, destination, origin, cookie);
    fn whole<T: Wire>(value: &T) -> &[u8] {
        // SAFETY: `Wire` has no padding.
        unsafe { std::slice::from_raw_parts((&raw const *value).cast(), size_of::<T>()) }
    }
    whole(&answer).to_vec()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2_000) })]

    #[test]
    fn answers_are_what_rfc_7296_demands(
        source in any::<u128>(), destination in any::<u128>(), port in any::<u16>(), spi in any::<u64>(),
        key in any::<[u64; 2]>(), v6 in any::<bool>(),
    ) {
        let (from, to): (IpAddr, IpAddr) = match v6 {
            true => (Ipv6Addr::from_bits(source).into(), Ipv6Addr::from_bits(destination).into()),
            false => (Ipv4Addr::from_bits(source as u32).into(), Ipv4Addr::from_bits(destination as u32).into()),
        };
        let own = origin(&from.to_string(), port, spi);
        let cookie = Secrets::first([key; 2]).cookie(&own);
        let packet = match (from, to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => answer_bytes::<Ipv4>(from.into(), to.into(), &own, cookie),
            (IpAddr::V6(from), IpAddr::V6(to)) => answer_bytes::<Ipv6>(from.into(), to.into(), &own, cookie),
            _ => unreachable!(),
        };
        let sliced = SlicedPacket::from_ip(&packet).expect("a packet");
        let Some(TransportSlice::Udp(udp)) = sliced.transport else { panic!("no UDP") };
        prop_assert_eq!((udp.source_port(), udp.destination_port()), (500, port));
        let header = udp.to_header();
        prop_assert!(header.checksum != 0);
        let expected = match sliced.net.expect("IP") {
            etherparse::NetSlice::Ipv4(ip) => {
                let ip = ip.header();
                prop_assert_eq!((IpAddr::V4(ip.source_addr()), IpAddr::V4(ip.destination_addr())), (to, from));
                prop_assert_eq!(ip.header_checksum(), ip.to_header().calc_header_checksum());
                prop_assert!(ip.dont_fragment() && ip.ttl() == 64);
                header.calc_checksum_ipv4(&ip.to_header(), udp.payload())
            }
            etherparse::NetSlice::Ipv6(ip) => {
                let ip = ip.header();
                prop_assert_eq!((IpAddr::V6(ip.source_addr()), IpAddr::V6(ip.destination_addr())), (to, from));
                header.calc_checksum_ipv6(&ip.to_header(), udp.payload())
            }
            _ => unreachable!(),
        };
        prop_assert_eq!(header.checksum, expected.expect("short"));
        let mut message = [&spi.to_be_bytes()[..], &[0; 8], &[41, 0x20, 34, 0x20, 0, 0, 0, 0, 0, 0, 0, 48]].concat();
        message.extend([0, 0, 0, 20, 0, 0, 0x40, 0x06]);
        message.extend(bytes(cookie));
        prop_assert_eq!(udp.payload(), &message[..]);
        prop_assert_eq!(message.len(), ANSWER_BYTES);
    }
}

#[test]
fn cookies_are_asked_for_above_a_rate_and_for_ten_seconds_more() {
    let mut demand = Demand::default();
    let burst = u64::from(Demand::CALM.burst);
    assert!((0..burst).all(|_| !demand.count(START_NS)));
    assert!(!demand.is_high(START_NS));
    assert!(demand.count(START_NS) && demand.is_high(START_NS));
    let later = START_NS + 10 * SECOND_NS - 1;
    assert!(demand.is_high(later) && demand.count(later));
    assert!(!demand.is_high(later + 1) && !demand.count(later + 1));
    // At the rate itself nobody needs a cookie.
    let mut demand = Demand::default();
    let interval_ns = Demand::CALM.interval_ns();
    assert!((0..1_000).all(|number| !demand.count(START_NS + number * interval_ns)));
}
