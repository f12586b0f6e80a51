//! The frames of a flood, built before it starts, so that the flooder only sends.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;
use etherparse::ip_number;
use gateway_common::packet::flag;
use gateway_tests_kit::{
    frame::{self, ETHERNET_BYTES, IPV4_BYTES, icmp, ike_request, ike_sa_init, udp},
    packet::{Ethernet, Ip, Tcp},
    random::Random,
};

use super::party::{ATTACKER, GATEWAY, GATEWAY_MAC, PORT, Party, ROUTER_MAC};

/// Offset of TCP in an IPv4 frame.
const TCP: usize = ETHERNET_BYTES + IPV4_BYTES;

/// Frames, one after the other.
#[derive(Default)]
pub struct Pool {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Pool {
    /// Returns all frames in order.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let starts = [0].into_iter().chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| &self.bytes[start..*end])
    }

    fn push(&mut self, frame: &[u8]) {
        self.bytes.extend_from_slice(frame);
        self.ends.push(self.bytes.len());
    }
}

/// A TCP segment of the attacker's site.
#[derive(Clone, Copy)]
pub struct Segment {
    /// Source and destination address.
    pub addresses: (IpAddr, IpAddr),
    /// Source and destination port.
    pub ports: (u16, u16),
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgment number; `Some` also sets the flag ACK.
    pub ack: Option<u32>,
    /// The flags SYN and RST.
    pub syn_rst: (bool, bool),
}

impl Segment {
    /// Builds the frame.
    pub fn frame(&self) -> Result<Vec<u8>> {
        const WINDOW: u16 = 64_000;
        let (syn, rst) = self.syn_rst;
        let set = |on: bool, flag: u8| if on { flag } else { 0 };
        let flags = set(syn, flag::SYN) | set(rst, flag::RST) | set(self.ack.is_some(), flag::ACK);
        let tcp = Tcp {
            seq: Some(self.seq),
            ack: self.ack,
            window: WINDOW,
            ..Tcp::new([self.ports.0, self.ports.1], flags)
        };
        let ip = ip(self.addresses, Fragment::No);
        Ok(site().around(&ip.around(ip_number::TCP.0, &tcp.segment(&ip, &[])?)?))
    }
}

/// Builds `count` frames of everything that a site should not send. Half are SYNs of random tuples in the
/// site's LAN.
pub fn from_site(count: usize) -> Result<Pool> {
    let mut random = Random::new(1);
    let mut pool = Pool::default();
    for number in 0..count {
        pool.push(&site_frame(number % 16, &mut random)?);
    }
    Ok(pool)
}

fn site_frame(kind: usize, random: &mut Random) -> Result<Vec<u8>> {
    let (server4, server6) = (IpAddr::V4(ATTACKER.server4()), IpAddr::V6(ATTACKER.server6()));
    let host = random.below(60_000) as u16 + 10;
    let (device4, device6) = (IpAddr::V4(ATTACKER.lan4(host)), IpAddr::V6(ATTACKER.lan6(host)));
    let syn = Segment {
        addresses: (device4, server4),
        ports: (random.below(60_000) as u16 + 1024, PORT),
        seq: random.word(),
        ack: None,
        syn_rst: (true, false),
    };
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = syn.frame()?;
        change(&mut frame);
        Ok(frame)
    };
    match kind {
        0..5 => syn.frame(),
        5..8 => Segment { addresses: (device6, server6), ..syn }.frame(),
        // From elsewhere: a victim's LAN, or anywhere.
        8 if random.per_mille(500) => {
            let from = IpAddr::V4(Ipv4Addr::from(random.word()));
            Segment { addresses: (from, server4), ..syn }.frame()
        }
        8 => Segment { addresses: (IpAddr::V6(Party { id: 1 }.lan6(host)), server6), ..syn }.frame(),
        // To a victim's server, or to another port of its own.
        9 if random.per_mille(500) => {
            Segment { addresses: (device4, IpAddr::V4(Party { id: 1 }.server4())), ..syn }.frame()
        }
        9 => Segment { ports: (syn.ports.0, 443), ..syn }.frame(),
        10 => {
            let addresses = if random.per_mille(500) { (device4, server4) } else { (device6, server6) };
            let fragment = if random.per_mille(500) { Fragment::First } else { Fragment::Later };
            Ok(site().around(&ip(addresses, fragment).around(ip_number::TCP.0, &[0x55; 64])?))
        }
        11 | 12 => Segment { ack: Some(random.word()), syn_rst: (false, kind == 12), ..syn }.frame(),
        13 => match random.below(4) {
            // An IP length beyond the end of the frame.
            0 => with(&|frame| frame[ETHERNET_BYTES + 2] = 0xff),
            // A wrong IP header checksum.
            1 => with(&|frame| frame[ETHERNET_BYTES + 10] ^= 0x55),
            // A TCP header of 4 bytes.
            2 => with(&|frame| frame[TCP + 12] = 0x10),
            // SYN and FIN.
            _ => with(&|frame| frame[TCP + 13] |= flag::FIN),
        },
        14 => {
            let ip = ip((device4, server4), Fragment::No);
            Ok(site().around(&ip.around(ip_number::UDP.0, &udp(&ip, [1, 53], &[])?)?))
        }
        _ => {
            const ECHO_REQUEST: u8 = 128;
            let ip = ip((device6, server6), Fragment::No);
            let echo = icmp(&ip, [ECHO_REQUEST, 0], [0, 1, 0, 1], &[]);
            Ok(site().around(&ip.around(ip_number::IPV6_ICMP.0, &echo)?))
        }
    }
}

/// Builds frames of the internet: IPv4 frames whose source [`frame::spoof`] replaces, and IPv6 frames.
///
/// All ESP over IPv6 comes from one source. It exceeds that source's budget on a slow or busy machine too, where
/// ESP from many sources stays within the budget that they share.
pub fn from_internet() -> Result<(Pool, Pool)> {
    const ESP: u8 = ip_number::ENCAP_SEC.0;
    const LOUD: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0xffff, 0, 0, 0, 1);
    let mut random = Random::new(2);
    let (mut v4, mut v6) = (Pool::default(), Pool::default());
    for _ in 0..4096 {
        let subnet = random.word();
        let from6 = Ipv6Addr::new(0x2001, 0xdb8, (subnet >> 16) as u16, subnet as u16, 0, 0, 0, 1);
        for (pool, from) in [(&mut v4, IpAddr::V4(Ipv4Addr::UNSPECIFIED)), (&mut v6, IpAddr::V6(from6))] {
            let spi = [&(random.word() & 0x3fff_ffff | 0x100).to_be_bytes()[..], &[0xa5; 60]].concat();
            let of_esp = if from.is_ipv6() { LOUD.into() } else { from };
            let (whole, later) = (ip(to(of_esp), Fragment::No), ip(to(from), Fragment::Later));
            pool.push(&init(from, u64::from(random.word()) + 1, &[])?);
            pool.push(&auth(from, 1)?);
            pool.push(&internet().around(&whole.around(ESP, &spi)?));
            pool.push(&internet().around(&later.around(ESP, &[0xa5; 64])?));
        }
    }
    Ok((v4, v6))
}

/// Builds an IKE packet to the gateway that carries a number as the initiator's SPI.
pub fn ike(source: IpAddr, number: u64) -> Result<Vec<u8>> {
    Ok(internet().around(&frame::ike(&ip(to(source), Fragment::No), &ike_sa_init(number))?))
}

/// Builds a request that opens an IKE_SA, as long as a site's. `cookie`: the notify payload that it begins with.
pub fn init(source: IpAddr, spi: u64, cookie: &[u8]) -> Result<Vec<u8>> {
    const IKE_SA_INIT: u8 = 34;
    const SECURITY_ASSOCIATION: u8 = 33;
    const NOTIFY: u8 = 41;
    let first = if cookie.is_empty() { SECURITY_ASSOCIATION } else { NOTIFY };
    request(source, &ike_request(spi, IKE_SA_INIT, first, &[cookie, &[0x55; 250]].concat()))
}

/// Builds a message of IKE_AUTH.
pub fn auth(source: IpAddr, spi: u64) -> Result<Vec<u8>> {
    const IKE_AUTH: u8 = 35;
    const ENCRYPTED_FRAGMENT: u8 = 53;
    request(source, &ike_request(spi, IKE_AUTH, ENCRYPTED_FRAGMENT, &[0x55; 250]))
}

fn request(source: IpAddr, message: &[u8]) -> Result<Vec<u8>> {
    Ok(internet().around(&frame::ike(&ip(to(source), Fragment::No), message)?))
}

fn to(source: IpAddr) -> (IpAddr, IpAddr) {
    (source, GATEWAY[usize::from(source.is_ipv6())])
}

/// The Ethernet header of the attacker's site.
fn site() -> Ethernet {
    Ethernet::new(ATTACKER.mac(), GATEWAY_MAC)
}

/// The Ethernet header of the internet.
fn internet() -> Ethernet {
    Ethernet::new(ROUTER_MAC, GATEWAY_MAC)
}

#[derive(Clone, Copy, PartialEq)]
enum Fragment {
    No,
    First,
    Later,
}

fn ip((source, destination): (IpAddr, IpAddr), fragment: Fragment) -> Ip {
    Ip {
        id: if fragment == Fragment::No { 0 } else { 7 },
        df: true,
        mf: fragment == Fragment::First,
        fragment: if fragment == Fragment::Later { 64 } else { 0 },
        ..Ip::new(source, destination)
    }
}
