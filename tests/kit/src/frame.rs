//! A described packet as bytes, with checksums that etherparse computes from scratch.
use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result, ensure};
use etherparse::{IpFragOffset, IpNumber, Ipv4Header, Ipv6Header, TcpHeader, checksum::Sum16BitWords};

use crate::packet::{Ethernet, Ip, Network, Packet, Tcp, TcpOption, Transport, Udp};

/// Offset of the IP header in a frame.
const IP: usize = 14;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const ARP: u16 = 0x0806;
const VLAN: u16 = 0x8100;

impl Packet {
    /// Its frame.
    pub fn frame(&self) -> Result<Vec<u8>> {
        let mut frame = match &self.network {
            Network::Raw(bytes) => bytes.clone(),
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

/// SPI, and 1 as the sequence number: RFC 4303 section 2.
pub fn esp_header(spi: u32) -> [u8; 8] {
    let [a, b, c, d] = spi.to_be_bytes();
    [a, b, c, d, 0, 0, 0, 1]
}

/// So many bytes that differ from their neighbours.
fn payload(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i % 251) as u8).collect()
}

impl Ethernet {
    fn frame(&self, right_type: u16, body: &[u8]) -> Vec<u8> {
        let mut frame = Vec::with_capacity(64 + body.len());
        frame.extend(self.destination);
        frame.extend(self.source);
        if let Some(id) = self.vlan {
            frame.extend(VLAN.to_be_bytes());
            frame.extend(id.to_be_bytes());
        }
        frame.extend(self.ether_type.unwrap_or(right_type).to_be_bytes());
        frame.extend(body);
        frame.resize(frame.len() + self.padding, 0);
        frame
    }
}

impl Ip {
    fn packet(&self, transport: &Transport) -> Result<Vec<u8>> {
        let body = transport.bytes(self)?;
        let protocol = transport.protocol(self);
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let header = Ipv4Header {
                    source: source.octets(),
                    destination: destination.octets(),
                    protocol: IpNumber(protocol),
                    ..Ipv4Header::default()
                };
                self.v4(header, &body)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let header = Ipv6Header {
                    source: source.octets(),
                    destination: destination.octets(),
                    ..Ipv6Header::default()
                };
                self.v6(header, protocol, &body)
            }
            _ => anyhow::bail!("the addresses are of different families"),
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

    /// RFC 9293 section 3.1, RFC 8200 section 8.1.
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
            Self::Icmp { .. } if ip.source.is_ipv6() => IpNumber::IPV6_ICMP.0,
            Self::Icmp { .. } => IpNumber::ICMP.0,
            Self::Esp { .. } => IpNumber::ENCAPSULATING_SECURITY_PAYLOAD.0,
            Self::Other(protocol, _) => *protocol,
        }
    }

    fn bytes(&self, ip: &Ip) -> Result<Vec<u8>> {
        match self {
            Self::Tcp(tcp) => tcp.bytes(ip),
            Self::Udp(udp) => udp.bytes(ip),
            Self::Icmp { kind, code, about, length } => {
                let mut bytes = vec![*kind, *code, 0, 0, 0, 0, 0, 0];
                if let Some([source, destination]) = about {
                    bytes.extend(quote(*source, *destination)?);
                }
                bytes.extend(payload(*length));
                let sum = match ip.source {
                    IpAddr::V4(_) => Sum16BitWords::new(),
                    IpAddr::V6(_) => ip.pseudo_header(self.protocol(ip), bytes.len()),
                };
                let sum = sum.add_slice(&bytes).ones_complement();
                bytes[2..4].copy_from_slice(&sum.to_ne_bytes());
                Ok(bytes)
            }
            Self::Esp { spi, length } => Ok([&esp_header(*spi)[..], &payload(*length)].concat()),
            Self::Other(_, length) => Ok(payload(*length)),
        }
    }
}

/// IP header and 8 bytes of a TCP packet that was too big, which is all that RFC 792 promises.
fn quote(source: (IpAddr, u16), destination: (IpAddr, u16)) -> Result<Vec<u8>> {
    const LARGE: usize = 1400;
    const KEPT: usize = 8;
    let tcp = Tcp {
        ports: [source.1, destination.1],
        flags: 0x10,
        seq: None,
        ack: None,
        window: 64240,
        options: Vec::new(),
        data_offset: None,
        length: LARGE,
    };
    let header = if source.0.is_ipv4() { 20 } else { 40 };
    let mut packet = Ip::new(source.0, destination.0).packet(&Transport::Tcp(tcp))?;
    packet.truncate(header + KEPT);
    Ok(packet)
}

impl Tcp {
    fn bytes(&self, ip: &Ip) -> Result<Vec<u8>> {
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
        bytes.extend(payload(self.length));
        let sum = ip.pseudo_header(IpNumber::TCP.0, bytes.len()).add_slice(&bytes).ones_complement();
        bytes[16..18].copy_from_slice(&sum.to_ne_bytes());
        Ok(bytes)
    }
}

impl Udp {
    fn bytes(&self, ip: &Ip) -> Result<Vec<u8>> {
        let body = [&self.head[..], &payload(self.length)].concat();
        let length = u16::try_from(8 + body.len())?;
        let mut bytes = [self.ports[0], self.ports[1], length, 0].map(u16::to_be_bytes).concat();
        bytes.extend(body);
        let sum = ip.pseudo_header(IpNumber::UDP.0, bytes.len()).add_slice(&bytes);
        // RFC 768: a sum of 0 means there is none.
        bytes[6..8].copy_from_slice(&sum.to_ones_complement_with_no_zero().to_ne_bytes());
        bytes[4..6].copy_from_slice(&self.udp_length.unwrap_or(length).to_be_bytes());
        Ok(bytes)
    }
}

/// Puts an IPv4 source into a frame; UDP's checksum, 0, says that there is none.
pub fn spoof(frame: &mut [u8], source: Ipv4Addr) {
    frame[IP + 12..IP + 16].copy_from_slice(&source.octets());
    frame[IP + 10..IP + 12].fill(0);
    let words = frame[IP..IP + 20].as_chunks::<2>().0.iter().map(|word| u32::from(u16::from_be_bytes(*word)));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    frame[IP + 10..IP + 12].copy_from_slice(&(!(folded as u16)).to_be_bytes());
}
