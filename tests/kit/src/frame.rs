//! Frames for sending and for replay: the one builder of all test tools. Builds a described [`Packet`], or
//! its parts: [`Ethernet::around`], [`Ip::around`], [`Tcp::segment`], [`udp`], [`icmp`], [`esp`].
//!
//! Headers and checksums come from etherparse, which shares no code with the programs under test.
use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result, bail, ensure};
use etherparse::{IpFragOffset, IpNumber, Ipv4Header, Ipv6Header, TcpHeader, checksum::Sum16BitWords};

use crate::packet::{Ethernet, Ip, Network, Packet, QuotedEsp, Tcp, TcpOption, Transport, Udp};

/// Bytes of an Ethernet header without a VLAN tag, so the offset of the IP header.
pub const ETHERNET_BYTES: usize = 14;
/// Bytes of an IPv4 header without options.
pub const IPV4_BYTES: usize = 20;
/// Bytes of an IPv6 header.
pub const IPV6_BYTES: usize = 40;
/// IKE's UDP port.
pub const IKE_PORT: u16 = 500;

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const ARP: u16 = 0x0806;
const VLAN: u16 = 0x8100;

impl Packet {
    /// Builds the frame.
    pub fn frame(&self) -> Result<Vec<u8>> {
        let mut frame = match &self.network {
            Network::Raw(bytes) => bytes.clone(),
            // Not by the packet's version, which may be wrong on purpose.
            Network::Ip(ip, transport) => {
                let ether_type = if ip.source.is_ipv4() { IPV4 } else { IPV6 };
                self.ethernet.frame(ether_type, &ip.packet(transport)?)
            }
            Network::Arp { sender, target } => {
                let mut body = vec![0, 1, 8, 0, 6, 4, 0, 1];
                body.extend(self.ethernet.source);
                body.extend(sender.octets());
                body.extend([0; 6]);
                body.extend(target.octets());
                self.ethernet.frame(ARP, &body)
            }
            Network::Other(ether_type, length) => self.ethernet.frame(*ether_type, &payload(*length)),
        };
        for (at, bytes) in &self.patches {
            let place = frame.get_mut(*at..at + bytes.len()).context("a patch lies outside the frame")?;
            place.copy_from_slice(bytes);
        }
        if let Some(length) = self.cut {
            ensure!(length < frame.len(), "a cut at {length} leaves all {} bytes of the frame", frame.len());
            frame.truncate(length);
        }
        Ok(frame)
    }
}

impl Ethernet {
    /// Puts the header before an IP packet. The EtherType follows the first byte's IP version: IPv6 for 6,
    /// IPv4 for all else.
    pub fn around(&self, packet: &[u8]) -> Vec<u8> {
        let is_v6 = packet.first().is_some_and(|first| first >> 4 == 6);
        self.frame(if is_v6 { IPV6 } else { IPV4 }, packet)
    }

    /// Puts the header, with this EtherType unless the description has another, before a body.
    pub fn frame(&self, ether_type: u16, body: &[u8]) -> Vec<u8> {
        let mut frame = Vec::with_capacity(64 + body.len());
        frame.extend(self.destination);
        frame.extend(self.source);
        if let Some(id) = self.vlan {
            frame.extend(VLAN.to_be_bytes());
            frame.extend(id.to_be_bytes());
        }
        frame.extend(self.ether_type.unwrap_or(ether_type).to_be_bytes());
        frame.extend(body);
        frame.resize(frame.len() + self.padding, 0);
        frame
    }
}

impl Ip {
    /// Builds the IP packet that carries this transport.
    pub fn packet(&self, transport: &Transport) -> Result<Vec<u8>> {
        self.around(transport.protocol(self), &transport.bytes(self)?)
    }

    /// Puts the header, and in IPv6 the extension headers, before a body of this protocol.
    pub fn around(&self, protocol: u8, body: &[u8]) -> Result<Vec<u8>> {
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let header = Ipv4Header {
                    source: source.octets(),
                    destination: destination.octets(),
                    protocol: IpNumber(protocol),
                    ..Ipv4Header::default()
                };
                self.v4(header, body)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let header = Ipv6Header {
                    source: source.octets(),
                    destination: destination.octets(),
                    ..Ipv6Header::default()
                };
                self.v6(header, protocol, body)
            }
            _ => bail!("the addresses are of different families"),
        }
    }

    fn v4(&self, header: Ipv4Header, body: &[u8]) -> Result<Vec<u8>> {
        let mut header = Ipv4Header {
            dscp: (self.tos >> 2).try_into().expect("six bits"),
            ecn: (self.tos & 3).try_into().expect("two bits"),
            identification: self.id,
            dont_fragment: self.df,
            more_fragments: self.mf,
            fragment_offset: IpFragOffset::try_new(self.fragment & 0x1fff).expect("thirteen bits"),
            time_to_live: self.ttl,
            options: self.options[..].try_into()?,
            ..header
        };
        header.total_len = self.total.unwrap_or((header.header_len() + body.len()).try_into()?);
        let mut bytes = header.to_bytes().to_vec();
        bytes[0] = self.version.unwrap_or(4) << 4 | self.ihl.unwrap_or(header.ihl());
        bytes[10..12].fill(0);
        let sum = Sum16BitWords::new().add_slice(&bytes).ones_complement();
        bytes[10..12].copy_from_slice(&sum.to_ne_bytes());
        bytes.extend(body);
        Ok(bytes)
    }

    fn v6(&self, header: Ipv6Header, protocol: u8, body: &[u8]) -> Result<Vec<u8>> {
        const FRAGMENT: u8 = IpNumber::IPV6_FRAGMENTATION_HEADER.0;
        let fragmented = self.atomic || self.mf || self.fragment != 0;
        let mut next = if fragmented { FRAGMENT } else { protocol };
        let mut extensions = Vec::new();
        if let Some(kind) = self.extension {
            // RFC 8200 section 4.2: eight bytes, all but two of them padding (PadN).
            extensions.extend([next, 0, 1, 4, 0, 0, 0, 0]);
            next = kind;
        }
        if fragmented {
            let [high, low] = (self.fragment << 3 | u16::from(self.mf)).to_be_bytes();
            let [a, b, c, d] = u32::from(self.id).to_be_bytes();
            extensions.extend([protocol, 0, high, low, a, b, c, d]);
        }
        let header = Ipv6Header {
            traffic_class: self.tos,
            flow_label: u32::from(self.id).try_into().expect("sixteen bits"),
            payload_length: self.total.unwrap_or((extensions.len() + body.len()).try_into()?),
            next_header: IpNumber(next),
            hop_limit: self.ttl,
            ..header
        };
        let mut bytes = header.to_bytes().to_vec();
        bytes[0] = self.version.unwrap_or(6) << 4 | bytes[0] & 15;
        bytes.extend(extensions);
        bytes.extend(body);
        Ok(bytes)
    }

    /// Returns the sum over the pseudo-header (RFC 9293 section 3.1, RFC 8200 section 8.1).
    fn pseudo_header(&self, protocol: u8, length: usize) -> Sum16BitWords {
        let octets = |address: IpAddr| match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        Sum16BitWords::new()
            .add_slice(&octets(self.source))
            .add_slice(&octets(self.destination))
            .add_2bytes([0, protocol])
            .add_4bytes((length as u32).to_be_bytes())
    }
}

impl Transport {
    fn protocol(&self, ip: &Ip) -> u8 {
        match self {
            Self::Tcp(_) => IpNumber::TCP.0,
            Self::Udp(_) => IpNumber::UDP.0,
            Self::Icmp { .. } => icmp_protocol(ip),
            Self::Esp { .. } => IpNumber::ENCAPSULATING_SECURITY_PAYLOAD.0,
            Self::Other(protocol, _) => *protocol,
        }
    }

    fn bytes(&self, ip: &Ip) -> Result<Vec<u8>> {
        match self {
            Self::Tcp(tcp) => tcp.segment(ip, &payload(tcp.length)),
            Self::Udp(udp) => udp.datagram(ip),
            Self::Icmp { kind, code, about, about_esp, mtu, length } => {
                let quoted = match (about, about_esp) {
                    (Some([source, destination]), _) => quote(*source, *destination)?,
                    (None, Some(esp)) => esp.quote()?,
                    (None, None) => Vec::new(),
                };
                Ok(icmp(ip, [*kind, *code], mtu.to_be_bytes(), &[quoted, payload(*length)].concat()))
            }
            Self::Esp { spi, length } => Ok(esp(*spi, &payload(*length))),
            Self::Other(_, length) => Ok(payload(*length)),
        }
    }
}

impl Tcp {
    /// Builds the segment with this payload in place of the described one.
    pub fn segment(&self, ip: &Ip, payload: &[u8]) -> Result<Vec<u8>> {
        let mut options = Vec::new();
        for option in &self.options {
            match option {
                TcpOption::Mss(mss) => {
                    options.extend([2, 4]);
                    options.extend(mss.to_be_bytes());
                }
                TcpOption::Bytes(bytes) => options.extend(bytes),
            }
        }
        options.resize(options.len().next_multiple_of(4), 0);
        let mut header = TcpHeader::new(self.ports[0], self.ports[1], self.seq.unwrap_or(1000), self.window);
        header.acknowledgment_number = self.ack.unwrap_or(0);
        header.set_options_raw(&options).context("TCP options are 40 bytes at most")?;
        let mut bytes = header.to_bytes().to_vec();
        if let Some(words) = self.data_offset {
            bytes[12] = words << 4;
        }
        bytes[13] = self.flags;
        Ok(finish_tcp(ip, bytes, payload))
    }
}

/// Builds a TCP segment with a header as it was captured, but for the checksum, which is set anew.
pub fn tcp_as_captured(ip: &Ip, header: &TcpHeader, payload: &[u8]) -> Vec<u8> {
    finish_tcp(ip, header.to_bytes().to_vec(), payload)
}

/// Appends the payload to a TCP header and sets the checksum.
fn finish_tcp(ip: &Ip, mut bytes: Vec<u8>, payload: &[u8]) -> Vec<u8> {
    bytes[16..18].fill(0);
    bytes.extend(payload);
    let sum = ip.pseudo_header(IpNumber::TCP.0, bytes.len()).add_slice(&bytes).ones_complement();
    bytes[16..18].copy_from_slice(&sum.to_ne_bytes());
    bytes
}

impl Udp {
    fn datagram(&self, ip: &Ip) -> Result<Vec<u8>> {
        let mut message = [&self.head[..], &payload(self.length)].concat();
        if self.ike {
            const LENGTH: std::ops::Range<usize> = 24..28;
            let length = u32::try_from(message.len())?;
            message[LENGTH].copy_from_slice(&length.to_be_bytes());
        }
        let mut bytes = udp(ip, self.ports, &message)?;
        if let Some(length) = self.udp_length {
            bytes[4..6].copy_from_slice(&length.to_be_bytes());
        }
        Ok(bytes)
    }
}

/// Builds a UDP datagram. `ports` are source and destination.
pub fn udp(ip: &Ip, ports: [u16; 2], payload: &[u8]) -> Result<Vec<u8>> {
    let length = u16::try_from(8 + payload.len())?;
    let mut bytes = [ports[0], ports[1], length, 0].map(u16::to_be_bytes).concat();
    bytes.extend(payload);
    let sum = ip.pseudo_header(IpNumber::UDP.0, bytes.len()).add_slice(&bytes);
    // RFC 768: a sum of 0 means there is none.
    bytes[6..8].copy_from_slice(&sum.to_ones_complement_with_no_zero().to_ne_bytes());
    Ok(bytes)
}

/// Builds an ICMP or ICMPv6 message: type and code, the four bytes behind the checksum, and the body.
pub fn icmp(ip: &Ip, type_and_code: [u8; 2], rest_of_header: [u8; 4], body: &[u8]) -> Vec<u8> {
    let mut bytes = [&type_and_code[..], &[0; 2], &rest_of_header, body].concat();
    let sum = match ip.source {
        IpAddr::V4(_) => Sum16BitWords::new(),
        IpAddr::V6(_) => ip.pseudo_header(icmp_protocol(ip), bytes.len()),
    };
    let sum = sum.add_slice(&bytes).ones_complement();
    bytes[2..4].copy_from_slice(&sum.to_ne_bytes());
    bytes
}

/// Returns the protocol number of ICMP in the packet's family.
pub fn icmp_protocol(ip: &Ip) -> u8 {
    if ip.source.is_ipv6() { IpNumber::IPV6_ICMP.0 } else { IpNumber::ICMP.0 }
}

/// Builds an ESP payload that no key has encrypted: header and body.
pub fn esp(spi: u32, body: &[u8]) -> Vec<u8> {
    [&esp_header(spi)[..], body].concat()
}

/// Returns an ESP header: the SPI, and 1 as the sequence number (RFC 4303 section 2).
pub fn esp_header(spi: u32) -> [u8; 8] {
    let [a, b, c, d] = spi.to_be_bytes();
    [a, b, c, d, 0, 0, 0, 1]
}

/// Returns the header of an IKE_SA_INIT request from this initiator's SPI (RFC 7296 section 3.1), with
/// nothing behind it.
pub fn ike_sa_init(initiator_spi: u64) -> [u8; 28] {
    const VERSION_2: u8 = 0x20;
    const IKE_SA_INIT: u8 = 34;
    const INITIATOR: u8 = 0x08;
    let mut message = [0; 28];
    message[..8].copy_from_slice(&initiator_spi.to_be_bytes());
    (message[17], message[18], message[19], message[27]) = (VERSION_2, IKE_SA_INIT, INITIATOR, 28);
    message
}

/// Returns a request of an initiator (RFC 7296 section 3.1): an exchange, the type of its first payload, and its
/// payloads.
pub fn ike_request(initiator_spi: u64, exchange: u8, first: u8, payloads: &[u8]) -> Vec<u8> {
    let mut message = [&ike_sa_init(initiator_spi)[..], payloads].concat();
    (message[16], message[18]) = (first, exchange);
    let length = message.len() as u32;
    message[24..28].copy_from_slice(&length.to_be_bytes());
    message
}

/// Builds the IP packet of an IKE message. In IPv4 it has no UDP checksum, so that [`spoof`] can change the
/// source.
pub fn ike(ip: &Ip, message: &[u8]) -> Result<Vec<u8>> {
    let mut datagram = udp(ip, [IKE_PORT; 2], message)?;
    if ip.source.is_ipv4() {
        datagram[6..8].fill(0);
    }
    ip.around(IpNumber::UDP.0, &datagram)
}

/// Replaces the source address of an IPv4 frame and sets the header checksum. Transport checksums are left:
/// the frame carries none that covers the address.
pub fn spoof(frame: &mut [u8], source: Ipv4Addr) {
    let header = &mut frame[ETHERNET_BYTES..ETHERNET_BYTES + IPV4_BYTES];
    header[12..16].copy_from_slice(&source.octets());
    header[10..12].fill(0);
    let sum = Sum16BitWords::new().add_slice(header).ones_complement();
    header[10..12].copy_from_slice(&sum.to_ne_bytes());
}

/// Returns the IP header and 8 bytes of a TCP packet that was too big, which is all that RFC 792 promises.
fn quote(source: (IpAddr, u16), destination: (IpAddr, u16)) -> Result<Vec<u8>> {
    const ACK: u8 = 0x10;
    const LARGE: usize = 1400;
    const KEPT: usize = 8;
    let tcp = Tcp { length: LARGE, ..Tcp::new([source.1, destination.1], ACK) };
    let header = if source.0.is_ipv4() { IPV4_BYTES } else { IPV6_BYTES };
    let mut packet = Ip::new(source.0, destination.0).packet(&Transport::Tcp(tcp))?;
    packet.truncate(header + KEPT);
    Ok(packet)
}

impl QuotedEsp {
    /// Returns the headers of the packet up to the ESP sequence number.
    fn quote(&self) -> Result<Vec<u8>> {
        let ip = Ip::new(self.source, self.destination);
        let head = esp_header(self.spi).to_vec();
        let transport = match self.ports {
            Some(ports) => Transport::Udp(Udp { ports, udp_length: None, head, ike: false, length: 0 }),
            None => Transport::Esp { spi: self.spi, length: 0 },
        };
        ip.packet(&transport)
    }
}

/// Returns a payload of bytes that differ from their neighbours.
fn payload(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i % 251) as u8).collect()
}
