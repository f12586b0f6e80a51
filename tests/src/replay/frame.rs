//! A described packet as bytes, with checksums that etherparse computes from scratch.
use anyhow::{Context, Result, ensure};
use etherparse::{
    Icmpv4Header, Icmpv4Type, IpFragOffset, IpNumber, Ipv4Header, TcpHeader, UdpHeader,
    checksum::Sum16BitWords,
};

use super::packet::{Ethernet, Ip, Network, Packet, Tcp, TcpOption, Transport, Udp};

const IPV4: u16 = 0x0800;
const ARP: u16 = 0x0806;
const VLAN: u16 = 0x8100;

impl Packet {
    /// Its frame.
    pub fn frame(&self) -> Result<Vec<u8>> {
        let mut frame = match &self.network {
            Network::Raw(bytes) => bytes.clone(),
            Network::Ipv4(ip, transport) => self.ethernet.frame(IPV4, &ip.packet(transport)?),
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
        let mut header = self.header(transport.protocol());
        header.options = self.options[..].try_into()?;
        header.total_len = self.total.unwrap_or((header.header_len() + body.len()).try_into()?);
        let mut bytes = header.to_bytes().to_vec();
        bytes[0] = self.version.unwrap_or(4) << 4 | self.ihl.unwrap_or(header.ihl());
        bytes[10..12].fill(0);
        let sum = Sum16BitWords::new().add_slice(&bytes).ones_complement();
        bytes[10..12].copy_from_slice(&sum.to_ne_bytes());
        bytes.extend(body);
        Ok(bytes)
    }

    fn header(&self, protocol: u8) -> Ipv4Header {
        Ipv4Header {
            dscp: (self.tos >> 2).try_into().expect("six bits"),
            ecn: (self.tos & 3).try_into().expect("two bits"),
            identification: self.id,
            dont_fragment: self.df,
            more_fragments: self.mf,
            fragment_offset: IpFragOffset::try_new(self.fragment & 0x1fff).expect("thirteen bits"),
            time_to_live: self.ttl,
            protocol: IpNumber(protocol),
            source: self.source.octets(),
            destination: self.destination.octets(),
            ..Ipv4Header::default()
        }
    }
}

impl Transport {
    fn protocol(&self) -> u8 {
        match self {
            Self::Tcp(_) => IpNumber::TCP.0,
            Self::Udp(_) => IpNumber::UDP.0,
            Self::Icmp { .. } => IpNumber::ICMP.0,
            Self::Esp { .. } => IpNumber::ENCAPSULATING_SECURITY_PAYLOAD.0,
            Self::Other(protocol, _) => *protocol,
        }
    }

    fn bytes(&self, ip: &Ip) -> Result<Vec<u8>> {
        match self {
            Self::Tcp(tcp) => tcp.bytes(ip),
            Self::Udp(udp) => udp.bytes(ip),
            Self::Icmp { kind, code, length } => {
                let kind = Icmpv4Type::Unknown { type_u8: *kind, code_u8: *code, bytes5to8: [0; 4] };
                let body = payload(*length);
                let mut bytes = Icmpv4Header::with_checksum(kind, &body).to_bytes().to_vec();
                bytes.extend(body);
                Ok(bytes)
            }
            Self::Esp { spi, length } => Ok([&esp_header(*spi)[..], &payload(*length)].concat()),
            Self::Other(_, length) => Ok(payload(*length)),
        }
    }
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
        let sum = Sum16BitWords::new()
            .add_4bytes(ip.source.octets())
            .add_4bytes(ip.destination.octets())
            .add_2bytes([0, IpNumber::TCP.0])
            .add_2bytes(u16::try_from(bytes.len())?.to_be_bytes())
            .add_slice(&bytes)
            .ones_complement();
        bytes[16..18].copy_from_slice(&sum.to_ne_bytes());
        Ok(bytes)
    }
}

impl Udp {
    fn bytes(&self, ip: &Ip) -> Result<Vec<u8>> {
        let body = [&self.head[..], &payload(self.length)].concat();
        let mut header =
            UdpHeader::with_ipv4_checksum(self.ports[0], self.ports[1], &ip.header(IpNumber::UDP.0), &body)?;
        header.length = self.udp_length.unwrap_or(header.length);
        Ok([&header.to_bytes()[..], &body].concat())
    }
}
