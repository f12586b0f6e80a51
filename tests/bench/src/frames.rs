//! Frames, built before anything is measured, so that the sender only sends.
//!
//! [`Segment::write`] does not use the kit's builder: a round builds as many frames as it sends, on a machine
//! that is emulated, so each is written into one buffer without an allocation and without a pass over its
//! payload of zeroes. A test compares it with the kit's builder, byte by byte.
use std::net::Ipv4Addr;

use gateway_common::{packet::flag, wire::protocol};

use super::rules::{PORT, device, server};

/// The gateway's MAC address, on both sides.
pub const GATEWAY_MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0, 1];
/// The MAC address of all servers.
pub const SERVER_MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0, 2];
/// The MAC address of the router before all sites.
pub const SITE_MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0, 3];

/// Ethernet, IPv4 and TCP without options.
const HEADERS_BYTES: usize = 14 + 20 + 20;
/// Both ends' window scale, the largest there is, so that windows are 1 GiB.
const WINDOW_SCALE: u8 = 14;
/// MSS 1356 and window scale, as a SYN has them.
const SYN_OPTIONS: [u8; 8] = [2, 4, 0x05, 0x4c, 1, 3, 3, WINDOW_SCALE];

/// The side that a frame is sent from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// A customer's site, out of its tunnel.
    Site,
    /// The servers' LAN.
    Lan,
}

/// The side a frame is sent from, and its customer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Origin {
    /// The side.
    pub side: Side,
    /// The customer.
    pub customer: u32,
}

/// Frames in the order they are sent in.
#[derive(Default)]
pub struct Batch {
    bytes: Vec<u8>,
    frames: Vec<(Origin, usize)>,
    /// The number of frames that a firewall lets through, by [`Side`].
    passing: [u64; 2],
}

impl Batch {
    /// Returns all frames with their origins.
    pub fn iter(&self) -> impl Iterator<Item = (Origin, &[u8])> {
        let mut start = 0;
        self.frames.iter().map(move |&(origin, end)| {
            let frame = &self.bytes[start..end];
            start = end;
            (origin, frame)
        })
    }

    /// Returns the number of frames from a side.
    pub fn sent(&self, from: Side) -> u64 {
        self.frames.iter().filter(|(origin, _)| origin.side == from).count() as u64
    }

    /// Returns the number of frames from a side that a firewall lets through.
    pub fn passing(&self, from: Side) -> u64 {
        self.passing[from as usize]
    }

    /// Adds a segment. `passes` says whether a firewall lets it through.
    pub fn push(&mut self, segment: &Segment, passes: bool) {
        segment.write(&mut self.bytes);
        self.frames.push((Origin { side: segment.from, customer: segment.customer }, self.bytes.len()));
        self.passing[segment.from as usize] += u64::from(passes);
    }
}

/// A connection between a customer's device and its server, as its ends keep it.
#[derive(Clone, Copy, Debug)]
pub struct Flow {
    /// The customer.
    pub customer: u32,
    /// The customer's device, by number.
    pub device: u32,
    /// The device's port.
    pub port: u16,
    /// The server's port.
    pub server_port: u16,
    /// Next sequence number of each [`Side`].
    pub next: [u32; 2],
    /// Sequence number of each [`Side`] that the other end has acknowledged.
    pub acknowledged: [u32; 2],
}

/// A TCP segment of a flow.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    /// The side that sends it.
    pub from: Side,
    /// The customer.
    pub customer: u32,
    /// SPI of its tunnel, which the source MAC address carries.
    pub spi: u32,
    /// Device and server, in either direction.
    pub addresses: (Ipv4Addr, Ipv4Addr),
    /// Device's and server's port.
    pub ports: (u16, u16),
    /// Sequence and acknowledgment number.
    pub numbers: (u32, u32),
    /// TCP flags.
    pub flags: u8,
    /// Protocol of the IP header; a TCP header follows in any case.
    pub protocol: u8,
    /// Bytes of the frame. A frame is never shorter than its headers.
    pub frame_bytes: usize,
}

impl Flow {
    /// Returns the next segment with these flags, filled up to this frame size, and advances the flow.
    pub fn segment(&mut self, from: Side, flags: u8, frame_bytes: usize) -> Segment {
        let (own, other) = (from as usize, 1 - from as usize);
        let acks = flags & flag::ACK != 0;
        let segment = Segment {
            from,
            customer: self.customer,
            spi: spi(self.customer),
            addresses: (device(self.device), server(self.customer)),
            ports: (self.port, self.server_port),
            numbers: (self.next[own], if acks { self.next[other] } else { 0 }),
            flags,
            protocol: protocol::TCP,
            frame_bytes,
        };
        let syn_or_fin = u32::from(flags & (flag::SYN | flag::FIN) != 0);
        self.next[own] = self.next[own].wrapping_add(segment.payload_bytes() as u32 + syn_or_fin);
        if acks {
            self.acknowledged[other] = self.next[other];
        }
        segment
    }
}

/// Returns the SPI of a customer's site.
pub fn spi(customer: u32) -> u32 {
    0x1000_0000 + customer
}

impl Segment {
    fn options(&self) -> &'static [u8] {
        if self.flags & flag::SYN != 0 { &SYN_OPTIONS } else { &[] }
    }

    fn payload_bytes(&self) -> usize {
        self.frame_bytes.saturating_sub(HEADERS_BYTES + self.options().len())
    }

    /// Appends the frame. The payload is zeroes, so that the TCP checksum covers only headers.
    pub fn write(&self, to: &mut Vec<u8>) {
        let options = self.options();
        let tcp_bytes = 20 + options.len() + self.payload_bytes();
        let (ends, [source_mac, destination_mac]) = match self.from {
            Side::Site => {
                let [a, b, c, d] = self.spi.to_be_bytes();
                ((self.addresses, self.ports), [[0x02, 0, a, b, c, d], GATEWAY_MAC])
            }
            Side::Lan => {
                let swapped = ((self.addresses.1, self.addresses.0), (self.ports.1, self.ports.0));
                (swapped, [SERVER_MAC, GATEWAY_MAC])
            }
        };
        let ((source, destination), (source_port, destination_port)) = ends;
        let mut headers = [0u8; HEADERS_BYTES + SYN_OPTIONS.len()];
        let headers = &mut headers[..HEADERS_BYTES + options.len()];
        headers[..6].copy_from_slice(&destination_mac);
        headers[6..12].copy_from_slice(&source_mac);
        headers[12..14].copy_from_slice(&[0x08, 0x00]);
        let ip = &mut headers[14..34];
        (ip[0], ip[6], ip[8], ip[9]) = (0x45, 0x40, 64, self.protocol);
        ip[2..4].copy_from_slice(&(20 + tcp_bytes as u16).to_be_bytes());
        ip[12..16].copy_from_slice(&source.octets());
        ip[16..20].copy_from_slice(&destination.octets());
        let checksum = !fold(sum(ip));
        ip[10..12].copy_from_slice(&checksum.to_be_bytes());
        // Protocol and length, as in the pseudo-header (RFC 9293 section 3.1).
        let pseudo = sum(&ip[12..20]) + u32::from(self.protocol) + tcp_bytes as u32;
        let tcp = &mut headers[34..];
        tcp[..2].copy_from_slice(&source_port.to_be_bytes());
        tcp[2..4].copy_from_slice(&destination_port.to_be_bytes());
        tcp[4..8].copy_from_slice(&self.numbers.0.to_be_bytes());
        tcp[8..12].copy_from_slice(&self.numbers.1.to_be_bytes());
        (tcp[12], tcp[13]) = (((20 + options.len()) as u8 / 4) << 4, self.flags);
        tcp[14..16].copy_from_slice(&u16::MAX.to_be_bytes());
        tcp[20..].copy_from_slice(options);
        let checksum = !fold(pseudo + sum(tcp));
        tcp[16..18].copy_from_slice(&checksum.to_be_bytes());
        to.extend_from_slice(headers);
        to.resize(to.len() + self.payload_bytes(), 0);
    }
}

fn sum(bytes: &[u8]) -> u32 {
    bytes.as_chunks::<2>().0.iter().map(|word| u32::from(u16::from_be_bytes(*word))).sum()
}

fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// The servers' port, and one that none of them offers.
pub const SERVER_PORTS: (u16, u16) = (PORT, PORT + 1);

#[cfg(test)]
mod tests {
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};
    use gateway_tests_kit::{
        frame::tcp_as_captured,
        packet::{Ethernet, Ip},
    };

    use super::*;

    #[test]
    fn frames_have_the_size_they_should_and_are_as_the_kit_builds_them() {
        let mut flow = Flow {
            customer: 70_000,
            device: 3,
            port: 1024,
            server_port: PORT,
            next: [u32::MAX - 3, 7],
            acknowledged: [0; 2],
        };
        let mut batch = Batch::default();
        batch.push(&flow.segment(Side::Site, flag::SYN, 0), true);
        batch.push(&flow.segment(Side::Lan, flag::SYN | flag::ACK, 0), true);
        batch.push(&flow.segment(Side::Site, flag::ACK, 64), true);
        batch.push(&flow.segment(Side::Lan, flag::ACK, 1400), false);
        let sizes: Vec<_> = batch.iter().map(|(_, frame)| frame.len()).collect();
        assert_eq!(sizes, [62, 62, 64, 1400]);
        assert_eq!((batch.sent(Side::Lan), batch.passing(Side::Lan)), (2, 1));
        assert_eq!(flow.next, [7, 1354]);
        for (_, frame) in batch.iter() {
            assert_eq!(frame, rebuilt(frame));
        }
    }

    /// Builds a frame of the same contents with the kit.
    fn rebuilt(frame: &[u8]) -> Vec<u8> {
        let (mac, packet) =
            (|at: usize| frame[at..at + 6].try_into().unwrap(), SlicedPacket::from_ethernet(frame));
        let packet = packet.unwrap();
        let (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Tcp(tcp))) = (packet.net, packet.transport)
        else {
            panic!("no TCP in {frame:x?}");
        };
        let (header, payload) = (tcp.to_header(), tcp.payload());
        assert_eq!(payload, vec![0; payload.len()]);
        let addresses = (ip.header().source_addr().into(), ip.header().destination_addr().into());
        let ip = Ip { id: 0, df: true, ..Ip::new(addresses.0, addresses.1) };
        let segment = tcp_as_captured(&ip, &header, payload);
        Ethernet::new(mac(6), mac(0)).around(&ip.around(protocol::TCP, &segment).unwrap())
    }
}
