//! The outer filter over random frames, with etherparse as the judge of what got through.
use etherparse::{Ipv4HeaderSlice, PacketBuilder};
use gateway_common::{
    layout::{ManagementRule, Prefix, Settings, Ticks},
    limits::{MANAGEMENT_RULES, OWN_ADDRESSES},
    outer::{Outer, arriving, leaving, to_lan},
    tcp::STATE_SLOTS,
    wire::{Ipv4, protocol},
};
use proptest::{collection::vec, prelude::*, sample::select, test_runner::FileFailurePersistence::Direct};

/// Where seeds that once failed are kept, to be tried again.
const REGRESSIONS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/outer.regressions");

const INTERNET: [u8; 4] = [203, 0, 113, 1];
const LAN: [u8; 4] = [10, 200, 0, 1];
const MANAGER: [u8; 4] = [198, 51, 100, 7];
const SPI: u32 = 0xbeef_0001;
const OWNER: u32 = 1;

fn settings() -> Settings {
    let mut settings = Settings {
        ready: 1,
        lan_ifindex: 1,
        internet_address_count: 1,
        lan_address_count: 1,
        management_count: 1,
        adopt_midstream: 0,
        internet_ifindex: 2,
        internet_addresses: [Ipv4::default(); OWN_ADDRESSES],
        lan_addresses: [Ipv4::default(); OWN_ADDRESSES],
        management: [ManagementRule::default(); MANAGEMENT_RULES],
        timeouts: [Ticks::default(); STATE_SLOTS],
    };
    settings.internet_addresses[0] = Ipv4 { octets: INTERNET };
    settings.lan_addresses[0] = Ipv4 { octets: LAN };
    settings.management[0] = ManagementRule {
        from: Prefix::new(Ipv4 { octets: [198, 51, 100, 0] }, 24),
        port: 22,
        protocol: protocol::TCP,
        _reserved: 0,
    };
    settings
}

fn address() -> impl Strategy<Value = [u8; 4]> {
    select(vec![INTERNET, INTERNET, LAN, MANAGER, MANAGER, [8, 8, 8, 8], [0; 4], [192, 168, 1, 2]])
}

/// Frames of all kinds that the filter knows, and their damaged kin.
fn frame() -> impl Strategy<Value = Vec<u8>> {
    let protocol = select(vec![50u8, 17, 17, 6, 6, 1, 47, 4]);
    let port = || select(vec![500u16, 4500, 22, 80, 53]);
    let payload = prop_oneof![
        Just(SPI.to_be_bytes().to_vec()),
        Just(vec![3, 4, 0, 0]),
        Just(vec![8, 0, 0, 0]),
        Just(vec![0; 8]),
        vec(any::<u8>(), 0..12),
    ];
    let fragment = prop_oneof![6 => Just(0x0000u16), 1 => select(vec![0x2000u16, 0x2005, 0x0005, 0x4000])];
    let changes = prop_oneof![6 => Just(vec![]), 1 => vec((12..50usize, any::<u8>()), 1..3)];
    let packet = (address(), address(), protocol, port(), port(), payload, fragment, changes);
    (packet, proptest::option::weighted(0.1, 0..50usize)).prop_map(
        |((source, destination, protocol, from, to, payload, fragment, changes), cut)| {
            let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(source, destination, 64);
            let mut frame = Vec::new();
            match protocol {
                17 => builder.udp(from, to).write(&mut frame, &payload),
                6 => builder.tcp(from, to, 1, 1).write(&mut frame, &payload),
                _ => builder.write(&mut frame, protocol.into(), &payload),
            }
            .expect("writing to a vector");
            frame[20..22].copy_from_slice(&fragment.to_be_bytes());
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

/// Ports of UDP and TCP, type and code of ICMP: the first words behind the header.
fn words(frame: &[u8]) -> [u16; 2] {
    [34, 36].map(|at| frame.get(at..at + 2).map_or(0, |word| u16::from_be_bytes([word[0], word[1]])))
}

/// Whether what a filter let through may go through, its far end being `peer` and the gateway's
/// own port `port`.
fn justified(outer: Outer, header: &Ipv4HeaderSlice, peer: [u8; 4], port: u16, frame: &[u8]) -> bool {
    let protocol = header.protocol().0;
    let later = header.fragments_offset().value() != 0;
    let whole = !header.is_fragmenting_payload();
    match outer {
        Outer::Arp => false,
        Outer::Esp(spi) => spi != 0 && !later && (protocol == 50 || protocol == 17 && port == 4500),
        Outer::Ike => protocol == 17 && !later && (port == 500 || port == 4500),
        Outer::PathMtu => protocol == 1 && whole && frame[34..36] == [3, 4],
        Outer::Management => protocol == 6 && whole && port == 22 && peer[..3] == MANAGER[..3],
        Outer::Fragment => later && (protocol == 50 || protocol == 17),
    }
}

/// The IPv4 header if it is one without options, in a frame that holds the whole packet.
fn header(frame: &[u8]) -> Option<Ipv4HeaderSlice<'_>> {
    let header = Ipv4HeaderSlice::from_slice(frame.get(14..)?).ok()?;
    let fits = 14 + usize::from(header.total_len()) <= frame.len() && header.total_len() >= 20;
    (frame[12..14] == [8, 0] && header.ihl() == 5 && fits).then_some(header)
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: Some(Box::new(Direct(REGRESSIONS))),
        ..ProptestConfig::with_cases(10_000)
    })]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..80), mark: u32) {
        let settings = settings();
        let _ = arriving(&bytes[..], &settings);
        let _ = leaving(&bytes[..], &settings, mark, |_| None);
        let _ = to_lan(&bytes[..], &settings);
    }

    #[test]
    fn what_arrives_is_for_the_gateway_and_of_a_kind_it_takes(frame in frame()) {
        if let Ok(outer) = arriving(&frame[..], &settings()) && outer != Outer::Arp {
            let header = header(&frame);
            prop_assert!(header.is_some());
            let header = header.unwrap();
            prop_assert_eq!(header.destination(), INTERNET);
            prop_assert!(justified(outer, &header, header.source(), words(&frame)[1], &frame), "{:?}", outer);
        }
    }

    #[test]
    fn what_leaves_is_the_gateways_and_of_the_marked_tunnel(frame in frame(), mark in 0..3u32) {
        let owner_of = |outbound: gateway_common::layout::OutboundSpi| (outbound.spi == SPI).then_some(OWNER);
        if let Ok(outer) = leaving(&frame[..], &settings(), mark, owner_of) && outer != Outer::Arp {
            let header = header(&frame);
            prop_assert!(header.is_some());
            let header = header.unwrap();
            prop_assert_eq!(header.source(), INTERNET);
            prop_assert!(outer != Outer::PathMtu);
            prop_assert!(justified(outer, &header, header.destination(), words(&frame)[0], &frame), "{:?}", outer);
            prop_assert!(outer != Outer::Esp(SPI) || mark == OWNER);
        }
    }

    #[test]
    fn what_reaches_the_lan_is_arp_or_a_path_mtu_error_of_the_gateway(frame in frame()) {
        match to_lan(&frame[..], &settings()) {
            Ok(Outer::Arp) => prop_assert_eq!(&frame[12..14], &[8, 6]),
            Ok(outer) => {
                let header = header(&frame);
                prop_assert!(header.is_some());
                let header = header.unwrap();
                prop_assert_eq!((outer, header.source()), (Outer::PathMtu, LAN));
                prop_assert!(justified(outer, &header, header.destination(), 0, &frame));
            }
            Err(_) => {}
        }
    }
}
