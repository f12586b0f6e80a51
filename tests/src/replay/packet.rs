//! The packet language: one line says what is special about a packet, all else has defaults.
//!
//! ```text
//! 192.168.1.2:40000 > 10.200.0.11:80 S mss 1460               TCP, flags as letters SFRPAUEC, - for none
//! 198.18.0.1:500 > 203.0.113.1:500 UDP len 20                 UDP
//! 198.18.0.1:4500 > 203.0.113.1:4500 UDP spi 0xc0de0001 len 60  ESP in UDP
//! 192.168.1.2 > 10.200.0.11 ICMP echo                         ICMP: echo, frag-needed, or type N code N
//! 198.18.0.1 > 203.0.113.1 ESP spi 0xc0de0001 len 60
//! 192.168.1.2 > 10.200.0.11 PROTO 47 len 20                   any other IP protocol
//! ARP who-has 10.200.0.1 tell 10.200.0.11
//! ETHER 0x86dd len 40                                         any other EtherType
//! RAW 0200deadbeef                                            the frame's bytes
//! ```
//!
//! Words that may follow, in any order; the last of a kind counts:
//! - frame: `smac M`, `dmac M`, `vlan ID`, `ether N` (instead of the right EtherType), `pad N` (bytes
//!   behind the packet), `cut N` (the frame ends after N bytes), `patch AT:HEX` (bytes replaced at
//!   last, no checksum follows);
//! - IPv4: `ttl`, `tos`, `id`, `frag` (8-byte units), `total` (instead of the right length), `ihl` and
//!   `version` (instead of the right ones), `ipopts HEX`, `df`, `mf`;
//! - TCP: `seq`, `ack`, `win`, `doff` (instead of the right one), options in order: `mss N`,
//!   `wscale N`, `sackok`, `nop`, `opt HEX`;
//!   A case's connection needs no `seq` and `ack`: what is not said is what a TCP would send, see
//!   [`super::sequence`];
//! - UDP: `udplen` (instead of the right one), payload `marker` (four zero bytes) or `keepalive` (0xff);
//! - payload: `len N` bytes; for UDP and ESP, `spi N` puts an ESP header before it.
//!
//! Checksums are right whatever is said, but for what `patch` changes.
use std::{net::Ipv4Addr, str::FromStr};

use anyhow::{Context, Error, Result, bail, ensure};

/// A frame, described.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Packet {
    /// Ethernet.
    pub ethernet: Ethernet,
    /// What it carries.
    pub network: Network,
    /// Changes to the finished bytes, in order: offset and new bytes.
    pub patches: Vec<(usize, Vec<u8>)>,
    /// Where the frame ends instead.
    pub cut: Option<usize>,
}

/// The Ethernet header, and what is behind the packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ethernet {
    /// Source MAC address.
    pub source: [u8; 6],
    /// Destination MAC address.
    pub destination: [u8; 6],
    /// VLAN id of an 802.1Q tag.
    pub vlan: Option<u16>,
    /// Instead of the right EtherType.
    pub ether_type: Option<u16>,
    /// Zero bytes behind the packet.
    pub padding: usize,
}

/// What a frame carries.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Network {
    /// IPv4.
    Ipv4(Ip, Transport),
    /// An ARP request.
    Arp {
        /// Who asks.
        sender: Ipv4Addr,
        /// For whom.
        target: Ipv4Addr,
    },
    /// So many bytes of another EtherType.
    Other(u16, usize),
    /// These bytes are the whole frame.
    Raw(Vec<u8>),
}

/// An IPv4 header.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ip {
    /// Source address.
    pub source: Ipv4Addr,
    /// Destination address.
    pub destination: Ipv4Addr,
    /// Time to live.
    pub ttl: u8,
    /// DSCP and ECN.
    pub tos: u8,
    /// Identification.
    pub id: u16,
    /// Don't fragment.
    pub df: bool,
    /// More fragments.
    pub mf: bool,
    /// Fragment offset, in 8-byte units.
    pub fragment: u16,
    /// Options, a multiple of 4 bytes.
    pub options: Vec<u8>,
    /// Instead of the right total length.
    pub total: Option<u16>,
    /// Instead of the right header length, in words.
    pub ihl: Option<u8>,
    /// Instead of 4.
    pub version: Option<u8>,
}

/// What an IPv4 packet carries.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Transport {
    /// TCP.
    Tcp(Tcp),
    /// UDP.
    Udp(Udp),
    /// ICMP of this type and code.
    Icmp {
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
        /// Bytes of payload.
        length: usize,
    },
    /// ESP.
    Esp {
        /// SPI.
        spi: u32,
        /// Bytes behind SPI and sequence number.
        length: usize,
    },
    /// So many bytes of another protocol.
    Other(u8, usize),
}

/// A TCP segment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tcp {
    /// Source and destination port.
    pub ports: [u16; 2],
    /// Flags, as on the wire.
    pub flags: u8,
    /// Sequence number, if it is said.
    pub seq: Option<u32>,
    /// Acknowledgment number, if it is said.
    pub ack: Option<u32>,
    /// Window.
    pub window: u16,
    /// Options, in order.
    pub options: Vec<TcpOption>,
    /// Instead of the right data offset, in words.
    pub data_offset: Option<u8>,
    /// Bytes of payload.
    pub length: usize,
}

/// A TCP option.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TcpOption {
    /// Maximum segment size.
    Mss(u16),
    /// Any other, or a malformed one: its bytes.
    Bytes(Vec<u8>),
}

/// A UDP datagram.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Udp {
    /// Source and destination port.
    pub ports: [u16; 2],
    /// Instead of the right length.
    pub udp_length: Option<u16>,
    /// What the payload begins with.
    pub head: Vec<u8>,
    /// Bytes of payload behind that.
    pub length: usize,
}

/// Flag letters, from bit 0.
pub const FLAG_LETTERS: &str = "FSRPAUEC";

impl FromStr for Packet {
    type Err = Error;

    fn from_str(line: &str) -> Result<Self> {
        parse(line).with_context(|| format!("packet {line:?}"))
    }
}

fn parse(line: &str) -> Result<Packet> {
    let mut words = Words { words: line.split_whitespace() };
    let mut packet = Packet {
        ethernet: Ethernet {
            source: [0x52, 0x54, 0, 0, 0, 2],
            destination: [0x52, 0x54, 0, 0, 0, 1],
            vlan: None,
            ether_type: None,
            padding: 0,
        },
        network: network(&mut words)?,
        patches: Vec::new(),
        cut: None,
    };
    while let Some(word) = words.words.next() {
        let known = frame_word(&mut packet, word, &mut words)?
            || match &mut packet.network {
                Network::Ipv4(ip, transport) => {
                    ip_word(ip, word, &mut words)? || transport.word(word, &mut words)?
                }
                Network::Other(_, length) if word == "len" => {
                    *length = words.number()?;
                    true
                }
                _ => false,
            };
        ensure!(known, "{word:?} does not belong here");
    }
    Ok(packet)
}

struct Words<'a> {
    words: std::str::SplitWhitespace<'a>,
}

impl<'a> Words<'a> {
    fn next(&mut self) -> Result<&'a str> {
        self.words.next().context("the line ends too early")
    }

    /// A number, decimal or with 0x.
    fn number<T: TryFrom<u64>>(&mut self) -> Result<T> {
        number(self.next()?)
    }

    fn hex(&mut self) -> Result<Vec<u8>> {
        hex(self.next()?)
    }

    fn expect(&mut self, word: &str) -> Result<()> {
        let found = self.next()?;
        ensure!(found == word, "{found:?} stands where {word:?} should");
        Ok(())
    }
}

/// A number that fits `T`, decimal or with 0x.
pub fn number<T: TryFrom<u64>>(text: &str) -> Result<T> {
    let value = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    let value = value.with_context(|| format!("{text:?} is no number"))?;
    T::try_from(value).ok().with_context(|| format!("{text} is too large here"))
}

fn hex(text: &str) -> Result<Vec<u8>> {
    ensure!(text.len().is_multiple_of(2) && text.is_ascii(), "{text:?} is not an even number of hex digits");
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).with_context(|| format!("{text:?} is not hex")))
        .collect()
}

fn mac(text: &str) -> Result<[u8; 6]> {
    hex(&text.replace(':', ""))?.try_into().ok().with_context(|| format!("{text:?} is no MAC address"))
}

fn network(words: &mut Words) -> Result<Network> {
    match words.next()? {
        "ARP" => {
            words.expect("who-has")?;
            let target = words.next()?.parse()?;
            words.expect("tell")?;
            Ok(Network::Arp { sender: words.next()?.parse()?, target })
        }
        "ETHER" => Ok(Network::Other(words.number()?, 0)),
        "RAW" => Ok(Network::Raw(words.hex()?)),
        source => {
            let (source, source_port) = endpoint(source)?;
            words.expect(">")?;
            let (destination, destination_port) = endpoint(words.next()?)?;
            let ip = Ip {
                source,
                destination,
                ttl: 64,
                tos: 0,
                id: 0x1234,
                df: false,
                mf: false,
                fragment: 0,
                options: Vec::new(),
                total: None,
                ihl: None,
                version: None,
            };
            Ok(Network::Ipv4(ip, transport(words, source_port.zip(destination_port))?))
        }
    }
}

/// An address, with a port or without.
pub fn endpoint(text: &str) -> Result<(Ipv4Addr, Option<u16>)> {
    let (address, port) = match text.split_once(':') {
        Some((address, port)) => (address, Some(number(port)?)),
        None => (text, None),
    };
    Ok((address.parse().with_context(|| format!("{address:?} is no IPv4 address"))?, port))
}

fn transport(words: &mut Words, ports: Option<(u16, u16)>) -> Result<Transport> {
    let word = words.next()?;
    let with_ports = || ports.map(<[u16; 2]>::from).with_context(|| format!("{word} needs ports"));
    Ok(match word {
        "UDP" => Transport::Udp(Udp { ports: with_ports()?, udp_length: None, head: Vec::new(), length: 0 }),
        "ICMP" => {
            let (kind, code) = match words.next()? {
                "echo" => (8, 0),
                "frag-needed" => (3, 4),
                "type" => {
                    let kind = words.number()?;
                    words.expect("code")?;
                    (kind, words.number()?)
                }
                other => bail!("{other:?} is no ICMP message; say type N code N"),
            };
            Transport::Icmp { kind, code, length: 0 }
        }
        "ESP" => Transport::Esp { spi: 0xc0de_0001, length: 0 },
        "PROTO" => Transport::Other(words.number()?, 0),
        flags => Transport::Tcp(Tcp {
            flags: tcp_flags(flags)?,
            ports: with_ports()?,
            seq: None,
            ack: None,
            window: 64240,
            options: Vec::new(),
            data_offset: None,
            length: 0,
        }),
    })
}

fn tcp_flags(text: &str) -> Result<u8> {
    if text == "-" {
        return Ok(0);
    }
    text.chars().try_fold(0, |flags, letter| {
        let bit = FLAG_LETTERS.find(letter).with_context(|| format!("{letter:?} is no TCP flag"))?;
        Ok(flags | 1 << bit)
    })
}

fn frame_word(packet: &mut Packet, word: &str, words: &mut Words) -> Result<bool> {
    let ethernet = &mut packet.ethernet;
    match word {
        "smac" => ethernet.source = mac(words.next()?)?,
        "dmac" => ethernet.destination = mac(words.next()?)?,
        "vlan" => ethernet.vlan = Some(words.number()?),
        "ether" => ethernet.ether_type = Some(words.number()?),
        "pad" => ethernet.padding = words.number()?,
        "cut" => packet.cut = Some(words.number()?),
        "patch" => {
            let (at, bytes) = words.next()?.split_once(':').context("patch needs AT:HEX")?;
            packet.patches.push((number(at)?, hex(bytes)?));
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn ip_word(ip: &mut Ip, word: &str, words: &mut Words) -> Result<bool> {
    match word {
        "ttl" => ip.ttl = words.number()?,
        "tos" => ip.tos = words.number()?,
        "id" => ip.id = words.number()?,
        "df" => ip.df = true,
        "mf" => ip.mf = true,
        "frag" => ip.fragment = words.number()?,
        "ipopts" => {
            ip.options = words.hex()?;
            ensure!(
                ip.options.len().is_multiple_of(4) && ip.options.len() <= 40,
                "IP options are 4 to 40 bytes"
            );
        }
        "total" => ip.total = Some(words.number()?),
        "ihl" => ip.ihl = Some(words.number()?),
        "version" => ip.version = Some(words.number()?),
        _ => return Ok(false),
    }
    Ok(true)
}

impl Transport {
    fn word(&mut self, word: &str, words: &mut Words) -> Result<bool> {
        match (self, word) {
            (Self::Tcp(tcp), _) => return tcp.word(word, words),
            (Self::Udp(udp), _) => return udp.word(word, words),
            (Self::Esp { spi, .. }, "spi") => *spi = words.number()?,
            (Self::Icmp { length, .. } | Self::Esp { length, .. } | Self::Other(_, length), "len") => {
                *length = words.number()?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}

impl Tcp {
    fn word(&mut self, word: &str, words: &mut Words) -> Result<bool> {
        match word {
            "seq" => self.seq = Some(words.number()?),
            "ack" => self.ack = Some(words.number()?),
            "win" => self.window = words.number()?,
            "doff" => self.data_offset = Some(words.number()?),
            "len" => self.length = words.number()?,
            "mss" => {
                let option = TcpOption::Mss(words.number()?);
                match self.options.iter_mut().find(|option| matches!(option, TcpOption::Mss(_))) {
                    Some(earlier) => *earlier = option,
                    None => self.options.push(option),
                }
            }
            "wscale" => self.options.push(TcpOption::Bytes(vec![3, 3, words.number()?])),
            "sackok" => self.options.push(TcpOption::Bytes(vec![4, 2])),
            "nop" => self.options.push(TcpOption::Bytes(vec![1])),
            "opt" => self.options.push(TcpOption::Bytes(words.hex()?)),
            _ => return Ok(false),
        }
        Ok(true)
    }
}

impl Udp {
    fn word(&mut self, word: &str, words: &mut Words) -> Result<bool> {
        match word {
            "udplen" => self.udp_length = Some(words.number()?),
            "len" => self.length = words.number()?,
            "marker" => self.head = vec![0; 4],
            "keepalive" => self.head = vec![0xff],
            "spi" => self.head = super::frame::esp_header(words.number()?).to_vec(),
            _ => return Ok(false),
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests;
