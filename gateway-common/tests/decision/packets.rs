//! Random packets, near enough to good ones that many pass.
use std::ops::Range;

use etherparse::PacketBuilder;
use gateway_common::decide::{Decision, Identity, from_server, from_site};
use proptest::{collection::vec, prelude::*, sample::select};

use crate::world::{SITES, World, server, spi};

/// A packet at one of the two hooks that judge inner packets, and when it comes.
#[derive(Clone, Debug)]
pub struct Arrival {
    pub hook: Hook,
    pub frame: Vec<u8>,
    /// Since the packet before.
    pub after_ms: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hook {
    Site(Identity),
    Server,
}

impl Arrival {
    /// What is decided about it.
    pub fn judge(&self, world: &World, now_ns: u64) -> Decision {
        match self.hook {
            Hook::Site(identity) => from_site(&self.frame[..], world, identity, now_ns),
            Hook::Server => from_server(&self.frame[..], world, now_ns),
        }
    }
}

/// Flag bytes, good ones mostly.
fn flags() -> impl Strategy<Value = u8> {
    prop_oneof![
        9 => select(vec![0x02u8, 0x02, 0x12, 0x10, 0x10, 0x18, 0x11, 0x14, 0x04]),
        1 => any::<u8>(),
    ]
}

/// Devices of each tunnel's LAN, few so that connections meet; LANs that are equal share them.
const DEVICES: [[[u8; 4]; 2]; 4] = [
    [[192, 168, 1, 2], [192, 168, 255, 255]],
    [[10, 20, 0, 9], [10, 20, 255, 255]],
    [[192, 168, 1, 2], [192, 168, 0, 0]],
    [[10, 30, 7, 0], [10, 30, 7, 255]],
];

/// Addresses of other LANs and beside them.
const STRANGERS: &[[u8; 4]] =
    &[[192, 168, 1, 2], [10, 20, 0, 9], [10, 30, 7, 0], [10, 30, 8, 0], [192, 169, 0, 0], [8, 8, 8, 8]];

/// A tunnel of these, and a device: its own nearly always.
fn device(tunnels: &'static [u32]) -> impl Strategy<Value = (u32, [u8; 4])> {
    let stranger = proptest::option::weighted(0.08, select(STRANGERS));
    (select(tunnels), 0..2usize, stranger).prop_map(|(tunnel, which, stranger)| {
        (tunnel, stranger.unwrap_or(DEVICES[tunnel as usize - 1][which]))
    })
}

fn server_port() -> impl Strategy<Value = u16> {
    prop_oneof![15 => Just(80), 1 => any::<u16>()]
}

/// What a TCP header says beside ports and flags.
#[derive(Clone, Debug)]
struct Header {
    sequence: u32,
    acknowledgment: u32,
    window: u16,
    options: &'static [u8],
}

/// Where the devices' sequence numbers begin: soon to wrap.
const DEVICE_BASE: u32 = 0xffff_fffc;
/// Where the servers' do.
const SERVER_BASE: u32 = 5_000;

/// Number from a base on: near it mostly, some windows away, or anywhere.
fn number(base: u32) -> impl Strategy<Value = u32> {
    prop_oneof![12 => 0..8u32, 1 => 0..200_000u32, 1 => any::<u32>()]
        .prop_map(move |offset| base.wrapping_add(offset))
}

/// A header whose sequence numbers begin at one base, and acknowledgments at the other.
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

/// Ethernet, IPv4 and TCP.
fn frame(
    from: ([u8; 4], u16),
    to: ([u8; 4], u16),
    header: &Header,
    flags: u8,
    ttl: u8,
    payload: &[u8],
) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(from.0, to.0, ttl).tcp(
        from.1,
        to.1,
        header.sequence,
        header.window,
    );
    let mut frame = Vec::new();
    builder
        .options_raw(header.options)
        .expect("options fit")
        .write(&mut frame, payload)
        .expect("writing to a vector");
    frame[42..46].copy_from_slice(&header.acknowledgment.to_be_bytes());
    frame[47] = flags;
    frame
}

/// A decapsulated packet of one of these tunnels, to its customer's server nearly always.
fn request(tunnels: &'static [u32]) -> impl Strategy<Value = (Hook, Vec<u8>)> {
    let ttl = prop_oneof![15 => Just(64), 1 => 0..4u8];
    let other_server = proptest::option::weighted(0.08, 1..4u32);
    let identity_fault = proptest::option::weighted(0.06, (any::<bool>(), 0..7u32));
    let tcp = (header(DEVICE_BASE, SERVER_BASE), flags(), payload());
    let packet = (device(tunnels), 40000..40002u16, other_server, server_port(), ttl, tcp);
    (packet, identity_fault, damage()).prop_map(
        |(((tunnel, device), from, other, port, ttl, (header, flags, payload)), fault, damage)| {
            let mut identity = Identity { reqid: tunnel, spi: spi(tunnel), mark: tunnel };
            match fault {
                Some((true, mark)) => identity.mark = mark,
                Some((false, owner)) => identity.spi = spi(owner),
                None => {}
            }
            let customer = other.unwrap_or(SITES[tunnel as usize - 1].0);
            let frame = frame((device, from), (server(customer), port), &header, flags, ttl, &payload);
            (Hook::Site(identity), damage.done_to(frame))
        },
    )
}

/// From the server of one of these tunnels' customers to one of its devices nearly always. Never
/// damaged: another source address would make it another customer's, as the LAN tells servers
/// apart by nothing else.
fn reply(tunnels: &'static [u32]) -> impl Strategy<Value = (Hook, Vec<u8>)> {
    let tcp = (header(SERVER_BASE, DEVICE_BASE), flags(), payload());
    (device(tunnels), 40000..40002u16, server_port(), 0..70u8, tcp).prop_map(
        |((tunnel, device), to, port, ttl, (header, flags, payload))| {
            let source = (server(SITES[tunnel as usize - 1].0), port);
            (Hook::Server, frame(source, (device, to), &header, flags, ttl, &payload))
        },
    )
}

fn payload() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..4)
}

/// Bytes changed, and the frame cut or lengthened.
#[derive(Clone, Debug)]
struct Damage {
    changes: Vec<(usize, u8)>,
    more_bytes: isize,
}

fn damage() -> impl Strategy<Value = Damage> {
    let changes = prop_oneof![12 => Just(vec![]), 1 => vec((12..60usize, any::<u8>()), 1..4)];
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

/// Milliseconds between packets: at once, or long enough for one timeout or another.
fn pause() -> impl Strategy<Value = u64> {
    prop_oneof![20 => 0..10u64, 1 => select(vec![9_999, 10_000, 30_000, 60_000, 120_000, 7_440_000])]
}

/// Packets of these tunnels, and of their customers' servers.
pub fn arrival(tunnels: &'static [u32]) -> BoxedStrategy<Arrival> {
    (prop_oneof![3 => request(tunnels), 2 => reply(tunnels)], pause())
        .prop_map(|((hook, frame), after_ms)| Arrival { hook, frame, after_ms })
        .boxed()
}

/// Packets of all.
pub fn any_arrival() -> BoxedStrategy<Arrival> {
    arrival(&[1, 1, 1, 2, 3, 4])
}

/// A handshake, whole and well-formed, of one of a tunnel's own devices.
fn handshake(tunnels: &'static [u32]) -> impl Strategy<Value = Vec<Arrival>> {
    (select(tunnels), 0..2usize, 40000..40002u16).prop_map(|(tunnel, which, port)| {
        let device = (DEVICES[tunnel as usize - 1][which], port);
        let server = (server(SITES[tunnel as usize - 1].0), 80);
        let site = Hook::Site(Identity { reqid: tunnel, spi: spi(tunnel), mark: tunnel });
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

/// Packets of these tunnels and their servers, with handshakes among them: at random hardly any
/// connection would be established.
pub fn history(tunnels: &'static [u32], length: Range<usize>) -> BoxedStrategy<Vec<Arrival>> {
    let part = prop_oneof![9 => arrival(tunnels).prop_map(|arrival| vec![arrival]), 1 => handshake(tunnels)];
    vec(part, length).prop_map(|parts| parts.concat()).boxed()
}

/// The same of all.
pub fn any_history(length: Range<usize>) -> BoxedStrategy<Vec<Arrival>> {
    history(&[1, 1, 1, 2, 3, 4], length)
}
