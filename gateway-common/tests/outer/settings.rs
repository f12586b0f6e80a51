//! The gateway's settings, its addresses and those around it, and the owner of the only SPI.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use gateway_common::{
    layout::{Addresses, ManagementRule, OutboundSpi, Prefix, Settings},
    limits::{MANAGEMENT_RULES, OWN_ADDRESSES},
    tcp::STATE_SLOTS,
    time::Ticks,
    wire::{Ipv6, protocol},
};

/// Addresses of the gateway, a manager and a stranger, and the unspecified address, in IPv4 and IPv6.
pub const INTERNET: [&str; 2] = ["203.0.113.1", "2001:db8:113::1"];
pub const LINK: [&str; 2] = ["203.0.113.1", "fe80::1"];
pub const LAN: [&str; 2] = ["10.200.0.1", "fd00:200::1"];
pub const MANAGER: [&str; 2] = ["198.51.100.7", "2001:db8:51::7"];
pub const STRANGER: [&str; 2] = ["8.8.8.8", "2001:db8:8::8"];
pub const SERVER: [&str; 2] = ["10.200.0.11", "fd00:200::11"];
pub const NOBODY: [&str; 2] = ["0.0.0.0", "::"];
pub const GROUPS: [&str; 4] = ["ff02::1", "ff02::1:ff00:1", "ff02::2", "ff05::1:ff00:1"];
pub const SPI: u32 = 0xbeef_0001;
pub const OWNER: u32 = 1;

pub fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

pub fn addresses(of: [&[&str]; 2]) -> Addresses {
    let (mut v4, mut v6) = ([Default::default(); OWN_ADDRESSES], [Default::default(); OWN_ADDRESSES]);
    for (to, from) in v4.iter_mut().zip(of[0]) {
        *to = from.parse::<Ipv4Addr>().expect("an address").into();
    }
    for (to, from) in v6.iter_mut().zip(of[1]) {
        *to = from.parse::<Ipv6Addr>().expect("an address").into();
    }
    Addresses { v4_count: of[0].len() as u32, v6_count: of[1].len() as u32, v4, v6 }
}

pub fn settings() -> Settings {
    let mut management = [ManagementRule::default(); MANAGEMENT_RULES];
    for (rule, (from, bits)) in management.iter_mut().zip([(MANAGER[0], 96 + 24), (MANAGER[1], 48)]) {
        let from = Prefix::new(Ipv6::from(ip(from)), bits);
        *rule = ManagementRule { from, port: 22, protocol: protocol::TCP, _reserved: 0 };
    }
    Settings {
        ready: 1,
        internet_ifindex: 2,
        lan_ifindex: 1,
        lan_mtu: 1500,
        xdp: 1,
        adopt_midstream: 0,
        management_count: 2,
        _reserved: 0,
        internet: addresses([&[INTERNET[0]], &[INTERNET[1], LINK[1]]]),
        lan: addresses([&[LAN[0]], &[LAN[1]]]),
        management,
        timeouts: [Ticks::default(); STATE_SLOTS],
    }
}

pub fn nobody_owns(_: OutboundSpi) -> Option<u32> {
    None
}

pub fn owner_of(outbound: OutboundSpi) -> Option<u32> {
    (outbound.spi == SPI).then_some(OWNER)
}
