//! The outer filter on random frames of both families, with etherparse as the judge of accepted frames, and
//! on each kind of frame that it knows.
mod frame;
mod kinds;
mod neighbour;
mod seen;
mod settings;

use std::net::IpAddr;

use frame::frame;
use gateway_common::{
    outer::{
        Outer, check_neighbour_on_lan, classify_incoming, classify_outgoing, classify_to_lan,
        is_neighbour_on_lan,
    },
    wire::{Ipv4, Ipv6},
};
use proptest::{collection::vec, prelude::*, test_runner::FileFailurePersistence::Direct};
use seen::{is_arp, neighbour_group, seen};
use settings::{INTERNET, LAN, LINK, OWNER, SERVER, SPI, ip, nobody_owns, owner_of, settings};

/// Seeds that once failed, tried again in each run. proptest creates the file at the first failure.
const REGRESSIONS: &str = "tests/outer/regressions";

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: Some(Box::new(Direct(REGRESSIONS))),
        ..ProptestConfig::with_cases(20_000)
    })]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..100), v6: bool, mark: u32) {
        let mut bytes = bytes;
        if v6 && bytes.len() > 14 {
            bytes[12..15].copy_from_slice(&[0x86, 0xdd, 0x60]);
        }
        let settings = settings();
        let _ = classify_incoming(&bytes[..], &settings, nobody_owns);
        let _ = classify_outgoing(&bytes[..], &settings, mark, nobody_owns);
        let _ = classify_to_lan(&bytes[..], &settings);
        let _ = is_neighbour_on_lan(&bytes[..]);
        let _ = check_neighbour_on_lan(&bytes[..], &settings, |_| true, |_| true, &mut false);
    }

    #[test]
    fn arriving_frames_are_for_the_gateway_and_of_known_kinds(frame in frame()) {
        if let Ok(arrival) = classify_incoming(&frame[..], &settings(), owner_of) && !is_arp(&frame) {
            let seen = seen(&frame);
            prop_assert!(seen.is_some());
            let seen = seen.unwrap();
            let own = [INTERNET[0], INTERNET[1], LINK[1]].map(ip).contains(&seen.destination);
            let outer = arrival.outer;
            prop_assert!(own || outer == Outer::Neighbour && neighbour_group(seen.destination));
            prop_assert!(seen.justifies(outer, seen.source, seen.word(2), &[134, 135, 136]), "{:?}", outer);
            prop_assert_eq!(IpAddr::from(arrival.source), seen.source);
            prop_assert!(outer != Outer::PathMtu || seen.quotes_esp_of_ours(), "{:?}", seen.payload);
        }
    }

    #[test]
    fn leaving_frames_are_the_gateways_and_of_the_marked_tunnel(frame in frame(), mark in 0..3u32) {
        if let Ok(outer) = classify_outgoing(&frame[..], &settings(), mark, owner_of) && !is_arp(&frame) {
            let seen = seen(&frame);
            prop_assert!(seen.is_some());
            let seen = seen.unwrap();
            let own = [INTERNET[0], INTERNET[1], LINK[1]].map(ip).contains(&seen.source);
            // RFC 4862 section 5.4.2.
            let tentative = seen.source == ip("::") && outer == Outer::Neighbour && seen.payload[0] == 135;
            prop_assert!(own || tentative);
            prop_assert!(outer != Outer::PathMtu);
            prop_assert!(seen.justifies(outer, seen.destination, seen.word(0), &[133, 135, 136]), "{:?}", outer);
            prop_assert!(outer != Outer::Esp(SPI) || mark == OWNER);
            let syn = outer == Outer::Management && seen.payload[13] & 0x12 == 0x02;
            prop_assert!(!syn, "the gateway opens a connection");
        }
    }

    #[test]
    fn frames_to_the_lan_are_neighbour_discovery_or_the_gateways_path_mtu_errors(frame in frame()) {
        if let Ok(outer) = classify_to_lan(&frame[..], &settings()) && !is_arp(&frame) {
            let seen = seen(&frame);
            prop_assert!(seen.is_some());
            let seen = seen.unwrap();
            let tentative = seen.source == ip("::") && outer == Outer::Neighbour && seen.payload[0] == 135;
            prop_assert!(tentative || LAN.map(ip).contains(&seen.source));
            prop_assert!(matches!(outer, Outer::PathMtu | Outer::Neighbour));
            prop_assert!(seen.justifies(outer, seen.destination, 0, &[135, 136]));
        }
    }

    #[test]
    fn neighbours_on_the_lan_are_servers_or_of_the_link(frame in frame()) {
        let mut anonymous = false;
        let v4 = |address: Ipv4| IpAddr::from(address.octets) == ip(SERVER[0]);
        let v6 = |address: Ipv6| IpAddr::from(address) == ip(SERVER[1]);
        let checked = check_neighbour_on_lan(&frame[..], &settings(), v4, v6, &mut anonymous);
        if is_neighbour_on_lan(&frame[..]) && !is_arp(&frame) && checked.is_ok() {
            let seen = seen(&frame).expect("a packet");
            let server = seen.source == ip(SERVER[1]);
            prop_assert_eq!(anonymous, !server);
            prop_assert!(server || seen.source == ip("::") || seen.source == ip(LINK[1]), "{}", seen.source);
            prop_assert!([LAN[1]].map(ip).contains(&seen.destination) || neighbour_group(seen.destination));
        }
    }

    #[test]
    fn only_neighbour_discovery_passes_undecided_on_the_lan(frame in frame()) {
        if is_neighbour_on_lan(&frame[..]) && !is_arp(&frame) {
            let seen = seen(&frame);
            prop_assert!(seen.is_some_and(|seen| seen.justifies(Outer::Neighbour, seen.source, 0, &[135, 136])));
        }
    }
}
