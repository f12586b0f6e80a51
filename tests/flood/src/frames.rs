//! The frames of a flood, made before it starts, so that sending them is all the flooder does.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;
use etherparse::{
    EtherType, Ethernet2Header, IpFragOffset, IpHeaders, IpNumber, Ipv4Extensions, Ipv4Header,
    Ipv6Extensions, Ipv6FragmentHeader, Ipv6Header, TcpHeader, UdpHeader, ip_number,
};
use gateway_tests_kit::random::Random;

use super::party::{ATTACKER, GATEWAY, GATEWAY_MAC, PORT, Party, ROUTER_MAC};

/// Where the IP header begins.
const IP: usize = 14;
/// Where TCP begins in an IPv4 frame.
const TCP: usize = IP + 20;
const TTL: u8 = 64;
const IKE_PORT: u16 = 500;

/// Frames, one after the other.
#[derive(Default)]
pub struct Pool {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Pool {
    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let starts = [0].into_iter().chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| &self.bytes[start..*end])
    }

    fn push(&mut self, frame: &[u8]) {
        self.bytes.extend_from_slice(frame);
        self.ends.push(self.bytes.len());
    }
}

/// What a TCP segment says; its checksum is put right.
#[derive(Clone, Copy)]
pub struct Segment {
    /// Source and destination.
    pub addresses: (IpAddr, IpAddr),
    /// Source and destination.
    pub ports: (u16, u16),
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgment number; with one comes the flag ACK.
    pub ack: Option<u32>,
    /// SYN, RST.
    pub syn_rst: (bool, bool),
}

impl Segment {
    /// As the attacker's site sends it.
    pub fn frame(&self) -> Result<Vec<u8>> {
        let mut header = TcpHeader::new(self.ports.0, self.ports.1, self.seq, 64_000);
        (header.syn, header.rst) = self.syn_rst;
        header.ack = self.ack.is_some();
        header.acknowledgment_number = self.ack.unwrap_or(0);
        header.checksum = match self.addresses {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                header.calc_checksum_ipv4_raw(from.octets(), to.octets(), &[])?
            }
            (from, to) => header.calc_checksum_ipv6_raw(v6(from).octets(), v6(to).octets(), &[])?,
        };
        packet(Wire::Site, self.addresses, ip_number::TCP, Fragment::No, &header.to_bytes())
    }
}

/// Everything that a site should not send, so many frames of it. Half are SYNs of random tuples in the
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
            packet(Wire::Site, addresses, ip_number::TCP, fragment, &[0x55; 64])
        }
        11 | 12 => Segment { ack: Some(random.word()), syn_rst: (false, kind == 12), ..syn }.frame(),
        13 => match random.below(4) {
            // A length beyond the packet's end.
            0 => with(&|frame| frame[IP + 2] = 0xff),
            // A header checksum that is wrong.
            1 => with(&|frame| frame[IP + 10] ^= 0x55),
            // A TCP header of 4 bytes.
            2 => with(&|frame| frame[TCP + 12] = 0x10),
            // SYN and FIN.
            _ => with(&|frame| frame[TCP + 13] |= 0x01),
        },
        14 => {
            let udp = UdpHeader { source_port: 1, destination_port: 53, length: 8, checksum: 0 };
            packet(Wire::Site, (device4, server4), ip_number::UDP, Fragment::No, &udp.to_bytes())
        }
        _ => packet(
            Wire::Site,
            (device6, server6),
            ip_number::IPV6_ICMP,
            Fragment::No,
            &[128, 0, 0, 0, 0, 1, 0, 1],
        ),
    }
}

/// What the internet sends: IPv4 frames whose source [`spoof`] is to change, and IPv6 frames as they are.
pub fn from_internet() -> Result<(Pool, Pool)> {
    let mut random = Random::new(2);
    let (mut v4, mut v6) = (Pool::default(), Pool::default());
    for _ in 0..4096 {
        let subnet = random.word();
        let from6 = Ipv6Addr::new(0x2001, 0xdb8, (subnet >> 16) as u16, subnet as u16, 0, 0, 0, 1);
        for (pool, from) in [(&mut v4, IpAddr::V4(Ipv4Addr::UNSPECIFIED)), (&mut v6, IpAddr::V6(from6))] {
            let spi = [&(random.word() & 0x3fff_ffff | 0x100).to_be_bytes()[..], &[0xa5; 60]].concat();
            pool.push(&ike(from, 0)?);
            pool.push(&ike(from, 1)?);
            pool.push(&packet(Wire::Internet, to(from), ip_number::ENCAP_SEC, Fragment::No, &spi)?);
            pool.push(&packet(Wire::Internet, to(from), ip_number::ENCAP_SEC, Fragment::Later, &[0xa5; 64])?);
        }
    }
    Ok((v4, v6))
}

/// An IKE packet that carries a number where the initiator's SPI stands (RFC 7296 section 3.1).
pub fn ike(source: IpAddr, number: u64) -> Result<Vec<u8>> {
    const VERSION_2: u8 = 0x20;
    const IKE_SA_INIT: u8 = 34;
    let mut message = [0u8; 28];
    message[..8].copy_from_slice(&number.to_be_bytes());
    (message[17], message[18], message[27]) = (VERSION_2, IKE_SA_INIT, 28);
    let length = (8 + message.len()) as u16;
    let mut udp = UdpHeader { source_port: IKE_PORT, destination_port: IKE_PORT, length, checksum: 0 };
    if let (IpAddr::V6(from), IpAddr::V6(to)) = to(source) {
        udp.checksum = udp.calc_checksum_ipv6_raw(from.octets(), to.octets(), &message)?;
    }
    let bytes = [&udp.to_bytes()[..], &message].concat();
    packet(Wire::Internet, to(source), ip_number::UDP, Fragment::No, &bytes)
}

fn to(source: IpAddr) -> (IpAddr, IpAddr) {
    (source, GATEWAY[usize::from(source.is_ipv6())])
}

#[derive(Clone, Copy)]
enum Wire {
    Site,
    Internet,
}

#[derive(Clone, Copy, PartialEq)]
enum Fragment {
    No,
    First,
    Later,
}

fn packet(
    wire: Wire,
    (source, destination): (IpAddr, IpAddr),
    protocol: IpNumber,
    fragment: Fragment,
    payload: &[u8],
) -> Result<Vec<u8>> {
    let offset = IpFragOffset::try_new(if fragment == Fragment::Later { 64 } else { 0 })?;
    let (ip, ether_type) = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let mut header =
                Ipv4Header::new(payload.len() as u16, TTL, protocol, source.octets(), destination.octets())?;
            header.more_fragments = fragment == Fragment::First;
            header.fragment_offset = offset;
            header.header_checksum = header.calc_header_checksum();
            (IpHeaders::Ipv4(header, Ipv4Extensions::default()), EtherType::IPV4)
        }
        (source, destination) => {
            let extension = (fragment != Fragment::No)
                .then(|| Ipv6FragmentHeader::new(protocol, offset, fragment == Fragment::First, 7));
            let header = Ipv6Header {
                traffic_class: 0,
                flow_label: Default::default(),
                payload_length: (payload.len() + if extension.is_some() { 8 } else { 0 }) as u16,
                next_header: if extension.is_some() { ip_number::IPV6_FRAG } else { protocol },
                hop_limit: TTL,
                source: v6(source).octets(),
                destination: v6(destination).octets(),
            };
            let extensions = Ipv6Extensions { fragment: extension, ..Default::default() };
            (IpHeaders::Ipv6(header, extensions), EtherType::IPV6)
        }
    };
    let mac = match wire {
        Wire::Site => ATTACKER.mac(),
        Wire::Internet => ROUTER_MAC,
    };
    let mut frame = Ethernet2Header { source: mac, destination: GATEWAY_MAC, ether_type }.to_bytes().to_vec();
    ip.write(&mut frame)?;
    frame.extend_from_slice(payload);
    Ok(frame)
}

fn v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}
