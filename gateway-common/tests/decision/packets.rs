//! Random packets, close enough to valid ones that many pass.
use std::{net::IpAddr, ops::Range};

use etherparse::IpNumber;
use gateway_common::decide::{Decision, Identity};
use proptest::{collection::vec, prelude::*, sample::select};

use crate::world::{
    self, SITES, World, from_server, from_site, identity, ip, mark, reqid, server, spi, transport,
};

/// A packet at one of the two hooks that judge inner packets, with its time.
#[derive(Clone, Debug)]
pub struct Arrival {
    pub hook: Hook,
    pub frame: Vec<u8>,
    /// Milliseconds since the previous packet.
    pub after_ms: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hook {
    Site(Identity),
    Server,
}

impl Arrival {
    /// Decides on the packet.
    pub fn judge(&self, world: &World, now_ns: u64) -> Decision {
        match self.hook {
            Hook::Site(identity) => from_site(&self.frame[..], world, identity, now_ns),
            Hook::Server => from_server(&self.frame[..], world, now_ns),
        }
    }
}

/// Generates flag bytes, mostly valid ones.
fn flags() -> impl Strategy<Value = u8> {
    prop_oneof![
        9 => select(vec![0x02u8, 0x02, 0x12, 0x10, 0x10, 0x18, 0x11, 0x14, 0x04]),
        1 => any::<u8>(),
    ]
}

/// Returns the first or the last device of a tunnel's LAN. There are only a few devices, so that connections
/// meet; equal LANs share them.
fn device_of(tunnel: u32, last: bool, v6: bool) -> IpAddr {
    let site = &SITES[tunnel as usize - 1];
    match (v6, last) {
        (false, false) => (u32::from(site.v4.0) + 2).to_be_bytes().into(),
        (false, true) => (u32::from(site.v4.0) | u32::MAX >> site.v4.1).to_be_bytes().into(),
        (true, false) => (u128::from(site.v6.0) + 2).to_be_bytes().into(),
        (true, true) => (u128::from(site.v6.0) | u128::MAX >> site.v6.1).to_be_bytes().into(),
    }
}

/// Generates addresses of other LANs and close to them.
fn stranger(v6: bool) -> impl Strategy<Value = IpAddr> {
    let addresses = match v6 {
        false => ["192.168.0.2", "10.20.0.2", "10.30.7.2", "10.30.8.0", "192.169.0.0", "8.8.8.8"],
        true => [
            "fd00:192:168::2",
            "fd00:10:20::2",
            "fd00:10:30:7::2",
            "fd00:10:30:8::",
            "fd00:192:169::",
            "::ffff:192.168.0.2",
        ],
    };
    select(addresses.map(|address| address.parse().expect("an address")).to_vec())
}

/// Generates a tunnel and a device, nearly always of that tunnel, half of them with IPv6.
fn device(tunnels: &'static [u32]) -> impl Strategy<Value = (u32, IpAddr)> {
    let strangers = (stranger(false), stranger(true));
    let is_stranger = proptest::bool::weighted(0.08);
    (select(tunnels), any::<bool>(), any::<bool>(), strangers, is_stranger).prop_map(
        |(tunnel, last, v6, (stranger, stranger6), is_stranger)| match (is_stranger, v6) {
            (true, false) => (tunnel, stranger),
            (true, true) => (tunnel, stranger6),
            (false, _) => (tunnel, device_of(tunnel, last, v6)),
        },
    )
}

fn server_port() -> impl Strategy<Value = u16> {
    prop_oneof![15 => Just(80), 1 => any::<u16>()]
}

/// The fields of a TCP header besides ports and flags.
#[derive(Clone, Debug)]
struct Header {
    sequence: u32,
    acknowledgment: u32,
    window: u16,
    options: &'static [u8],
}

/// The devices' first sequence number, close to the wrap.
const DEVICE_BASE: u32 = 0xffff_fffc;
/// The servers' first sequence number.
const SERVER_BASE: u32 = 5_000;

/// Generates a number mostly near a base, sometimes some windows away, or anywhere.
fn number(base: u32) -> impl Strategy<Value = u32> {
    prop_oneof![12 => 0..8u32, 1 => 0..200_000u32, 1 => any::<u32>()]
        .prop_map(move |offset| base.wrapping_add(offset))
}

/// Generates a header with sequence numbers from one base and acknowledgments from the other.
fn header(own: u32, other: u32) -> impl Strategy<Value = Header> {
    const OPTIONS: [&[u8]; 4] = [
        &[2, 4, 5, 180, 4, 2, 3, 3, 7, 1, 1, 1],
        &[2, 4, 5, 180],
        &[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2],
        &[1, 1, 5, 10, 0, 0, 0, 1, 0, 0, 0, 4],
    ];
    let window = prop_oneof![8 => 1024..=65535u16, 1 => 0..4u16];
    let options = prop_oneof![2 => Just(&[][..]), 1 => select(&OPTIONS[..])];
    (number(own), number(other), window, options).prop_map(|(sequence, acknowledgment, window, options)| {
        Header { sequence, acknowledgment, window, options }
    })
}

/// Builds a frame of Ethernet, IP and TCP.
fn frame(
    from: (IpAddr, u16),
    to: (IpAddr, u16),
    header: &Header,
    flags: u8,
    hop_limit: u8,
    payload: &[u8],
) -> Vec<u8> {
    let mut frame = Vec::new();
    ip(from.0, to.0, hop_limit)
        .tcp(from.1, to.1, header.sequence, header.window)
        .options_raw(header.options)
        .expect("options fit")
        .write(&mut frame, payload)
        .expect("writing to a vector");
    let tcp = transport(from.0);
    frame[tcp + 8..tcp + 12].copy_from_slice(&header.acknowledgment.to_be_bytes());
    frame[tcp + 13] = flags;
    frame
}

/// Builds a path-MTU message about a TCP packet between the quoted ends.
fn too_big(from: IpAddr, to: IpAddr, quoted: ((IpAddr, u16), (IpAddr, u16)), cut: usize) -> Vec<u8> {
    let header = Header { sequence: 1, acknowledgment: 1, window: 1, options: &[] };
    let packet = frame(quoted.0, quoted.1, &header, 0x10, 60, &[]).split_off(14);
    let (protocol, head): (_, &[u8]) = match from {
        IpAddr::V4(_) => (IpNumber::ICMP, &[3, 4, 0, 0, 0, 0, 5, 0]),
        IpAddr::V6(_) => (IpNumber::IPV6_ICMP, &[2, 0, 0, 0, 0, 0, 5, 0]),
    };
    let mut frame = Vec::new();
    let body = [head, &packet[..packet.len() - cut]].concat();
    ip(from, to, 64).write(&mut frame, protocol, &body).expect("writing to a vector");
    frame
}

/// Generates a decapsulated packet of one of these tunnels, nearly always to its customer's server.
fn request(tunnels: &'static [u32]) -> impl Strategy<Value = (Hook, Vec<u8>)> {
    let ttl = prop_oneof![15 => Just(64), 1 => 0..4u8];
    let other_server = proptest::option::weighted(0.08, 1..4u32);
    let identity_fault = proptest::option::weighted(0.06, (0..3, 0..7u32));
    let tcp = (header(DEVICE_BASE, SERVER_BASE), flags(), payload());
    let packet = (device(tunnels), 40000..40002u16, other_server, server_port(), ttl, tcp);
    (packet, identity_fault, damage()).prop_map(
        |(((tunnel, device), from, other, port, ttl, (header, flags, payload)), fault, damage)| {
            let mut identity = world::identity(tunnel);
            match fault {
                Some((0, other)) => identity.mark = mark(other),
                Some((1, other)) => identity.spi = spi(other),
                Some((_, other)) => identity.reqid = reqid(other),
                None => {}
            }
            let customer = other.unwrap_or(SITES[tunnel as usize - 1].customer);
            let server = server(customer, device.is_ipv6());
            let frame = frame((device, from), (server, port), &header, flags, ttl, &payload);
            (Hook::Site(identity), damage.done_to(frame))
        },
    )
}

/// Generates a packet from the server of one of these tunnels' customers, nearly always to one of its
/// devices. Never damages it: on the LAN only the source address tells servers apart, so another one would
/// make it another customer's.
fn reply(tunnels: &'static [u32]) -> impl Strategy<Value = (Hook, Vec<u8>)> {
    let tcp = (header(SERVER_BASE, DEVICE_BASE), flags(), payload());
    (device(tunnels), 40000..40002u16, server_port(), 0..70u8, tcp).prop_map(
        |((tunnel, device), to, port, ttl, (header, flags, payload))| {
            let source = (server(SITES[tunnel as usize - 1].customer, device.is_ipv6()), port);
            (Hook::Server, frame(source, (device, to), &header, flags, ttl, &payload))
        },
    )
}

/// Generates a path-MTU message of a router in a site or behind the servers, nearly always about a connection
/// of one of these tunnels.
fn path_mtu(tunnels: &'static [u32]) -> impl Strategy<Value = (Hook, Vec<u8>)> {
    let parties = (device(tunnels), 40000..40002u16, server_port(), any::<bool>());
    let odd = (proptest::bool::weighted(0.05), 0..2usize, damage());
    (parties, odd).prop_map(|(((tunnel, device), port, server_port, from_site), (swapped, cut, damage))| {
        let server = server(SITES[tunnel as usize - 1].customer, device.is_ipv6());
        let mut quoted = ((device, port), (server, server_port));
        // The quoted packet went the opposite way.
        if from_site != swapped {
            quoted = (quoted.1, quoted.0);
        }
        // The ports are the first 4 of the quoted TCP header's 20 bytes; RFC 792 guarantees only 8.
        let cut = 12 + cut * 5;
        if from_site {
            (Hook::Site(identity(tunnel)), damage.done_to(too_big(device, server, quoted, cut)))
        } else {
            (Hook::Server, too_big(server, device, quoted, cut))
        }
    })
}

fn payload() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..4)
}

/// Changed bytes, and a frame cut or extended.
#[derive(Clone, Debug)]
struct Damage {
    changes: Vec<(usize, u8)>,
    more_bytes: isize,
}

fn damage() -> impl Strategy<Value = Damage> {
    let changes = prop_oneof![12 => Just(vec![]), 1 => vec((12..80usize, any::<u8>()), 1..4)];
    let more_bytes = prop_oneof![12 => Just(0), 1 => -40..20isize];
    (changes, more_bytes).prop_map(|(changes, more_bytes)| Damage { changes, more_bytes })
}

impl Damage {
    fn done_to(&self, mut frame: Vec<u8>) -> Vec<u8> {
        for (at, byte) in &self.changes {
            if let Some(old) = frame.get_mut(*at) {
                *old = *byte;
            }
        }
        let length = frame.len().saturating_add_signed(self.more_bytes);
        frame.resize(length, 0);
        frame
    }
}

/// Generates milliseconds between packets: none, or enough for one of the timeouts.
fn pause() -> impl Strategy<Value = u64> {
    prop_oneof![20 => 0..10u64, 1 => select(vec![9_999, 10_000, 30_000, 60_000, 120_000, 7_440_000])]
}

/// Generates packets of these tunnels and of their customers' servers.
pub fn arrival(tunnels: &'static [u32]) -> BoxedStrategy<Arrival> {
    (prop_oneof![6 => request(tunnels), 4 => reply(tunnels), 1 => path_mtu(tunnels)], pause())
        .prop_map(|((hook, frame), after_ms)| Arrival { hook, frame, after_ms })
        .boxed()
}

/// Generates packets of all tunnels.
pub fn any_arrival() -> BoxedStrategy<Arrival> {
    arrival(&[1, 1, 1, 2, 3, 4])
}

/// Generates a complete, well-formed handshake of one of a tunnel's own devices.
fn handshake(tunnels: &'static [u32]) -> impl Strategy<Value = Vec<Arrival>> {
    (select(tunnels), any::<[bool; 2]>(), 40000..40002u16).prop_map(|(tunnel, [last, v6], port)| {
        let device = (device_of(tunnel, last, v6), port);
        let server = (server(SITES[tunnel as usize - 1].customer, v6), 80);
        let site = Hook::Site(identity(tunnel));
        let (device_next, server_next) = (DEVICE_BASE.wrapping_add(1), SERVER_BASE + 1);
        [
            (site, device, server, 0x02, DEVICE_BASE, 0),
            (Hook::Server, server, device, 0x12, SERVER_BASE, device_next),
            (site, device, server, 0x10, device_next, server_next),
        ]
        .map(|(hook, from, to, flags, sequence, acknowledgment)| {
            let header = Header { sequence, acknowledgment, window: 2000, options: &[] };
            Arrival { hook, frame: frame(from, to, &header, flags, 64, &[]), after_ms: 0 }
        })
        .to_vec()
    })
}

/// Generates packets of these tunnels and their servers, with handshakes among them: random packets alone
/// would hardly ever establish a connection.
pub fn history(tunnels: &'static [u32], length: Range<usize>) -> BoxedStrategy<Vec<Arrival>> {
    let part = prop_oneof![9 => arrival(tunnels).prop_map(|arrival| vec![arrival]), 1 => handshake(tunnels)];
    vec(part, length).prop_map(|parts| parts.concat()).boxed()
}

/// Does the same with all tunnels.
pub fn any_history(length: Range<usize>) -> BoxedStrategy<Vec<Arrival>> {
    history(&[1, 1, 1, 2, 3, 4], length)
}
