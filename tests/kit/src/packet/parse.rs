//! Parser of the packet language.
use std::{net::IpAddr, str::FromStr};

use anyhow::{Context, Error, Result, bail, ensure};

use super::{Ethernet, GATEWAY_MAC, Ip, Network, Packet, QuotedEsp, Tcp, TcpOption, Transport, Udp};
use crate::{
    frame::{esp_header, ike_sa_init},
    text::{endpoint, hex, mac, number, tcp_flags},
};

impl FromStr for Packet {
    type Err = Error;

    fn from_str(line: &str) -> Result<Self> {
        read(line).with_context(|| format!("packet {line:?}"))
    }
}

fn read(line: &str) -> Result<Packet> {
    let mut words = Words { words: line.split_whitespace() };
    let mut packet = Packet {
        ethernet: Ethernet::new([0x52, 0x54, 0, 0, 0, 2], GATEWAY_MAC),
        network: network(&mut words)?,
        patches: Vec::new(),
        cut: None,
    };
    while let Some(word) = words.words.next() {
        let known = frame_word(&mut packet, word, &mut words)?
            || match &mut packet.network {
                Network::Ip(ip, transport) => {
                    ip_word(ip, word, &mut words)? || transport.word(word, &mut words)?
                }
                Network::Other(_, length) if word == "len" => {
                    *length = words.number()?;
                    true
                }
                _ => false,
            };
        ensure!(known, "{word:?} is not a word for this packet");
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

    /// Parses the next word as a number, decimal or hexadecimal with 0x.
    fn number<T: TryFrom<u64>>(&mut self) -> Result<T> {
        number(self.next()?)
    }

    fn hex(&mut self) -> Result<Vec<u8>> {
        hex(self.next()?)
    }

    fn expect(&mut self, word: &str) -> Result<()> {
        let found = self.next()?;
        ensure!(found == word, "expected {word:?}, found {found:?}");
        Ok(())
    }
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
            ensure!(source.is_ipv4() == destination.is_ipv4(), "the addresses are of different families");
            let ports = source_port.zip(destination_port);
            let transport = transport(words, ports, source.is_ipv6())?;
            Ok(Network::Ip(Ip::new(source, destination), transport))
        }
    }
}

fn transport(words: &mut Words, ports: Option<(u16, u16)>, v6: bool) -> Result<Transport> {
    let word = words.next()?;
    let with_ports = || ports.map(<[u16; 2]>::from).with_context(|| format!("{word} needs ports"));
    Ok(match word {
        "UDP" => Transport::Udp(Udp {
            ports: with_ports()?,
            udp_length: None,
            head: Vec::new(),
            ike: false,
            length: 0,
        }),
        "ICMP" => {
            let (kind, code) = match words.next()? {
                "echo" => (if v6 { 128 } else { 8 }, 0),
                "too-big" => {
                    if v6 {
                        (2, 0)
                    } else {
                        (3, 4)
                    }
                }
                "router-solicit" if v6 => (133, 0),
                "router-advert" if v6 => (134, 0),
                "solicit" if v6 => (135, 0),
                "advert" if v6 => (136, 0),
                "redirect" if v6 => (137, 0),
                "type" => {
                    let kind = words.number()?;
                    words.expect("code")?;
                    (kind, words.number()?)
                }
                other => bail!("{other:?} is not an ICMP message; use `type N code N`"),
            };
            Transport::Icmp { kind, code, about: None, about_esp: None, mtu: 0, length: 0 }
        }
        "ESP" => Transport::Esp { spi: 0xc0de_0001, length: 0 },
        "PROTO" => Transport::Other(words.number()?, 0),
        flags => {
            let flags = tcp_flags(flags)?;
            Transport::Tcp(Tcp::new(with_ports()?, flags))
        }
    })
}

fn frame_word(packet: &mut Packet, word: &str, words: &mut Words) -> Result<bool> {
    let ethernet = &mut packet.ethernet;
    match word {
        "smac" => ethernet.source = mac(words.next()?)?,
        "dmac" => ethernet.destination = mac(words.next()?)?,
        "vlan" => ethernet.vlan = Some(words.number()?),
        "untagged" => ethernet.vlan = None,
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
        "source" => ip.source = words.next()?.parse()?,
        "ttl" => ip.ttl = words.number()?,
        "tos" => ip.tos = words.number()?,
        "id" => ip.id = words.number()?,
        "df" => ip.df = true,
        "mf" => ip.mf = true,
        "frag" => ip.fragment = words.number()?,
        "atomic" => ip.atomic = true,
        "ext" => ip.extension = Some(words.number()?),
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
            (Self::Icmp { about, .. }, "about") => {
                let end = |words: &mut Words| -> Result<(IpAddr, u16)> {
                    let (address, port) = endpoint(words.next()?)?;
                    Ok((address, port.context("a quote needs ports")?))
                };
                let source = end(words)?;
                words.expect(">")?;
                *about = Some([source, end(words)?]);
            }
            (Self::Icmp { about_esp, .. }, "about-esp") => {
                let (source, source_port) = endpoint(words.next()?)?;
                words.expect(">")?;
                let (destination, destination_port) = endpoint(words.next()?)?;
                let ports = source_port.zip(destination_port).map(<[u16; 2]>::from);
                *about_esp = Some(QuotedEsp { source, destination, ports, spi: words.number()? });
            }
            (Self::Icmp { mtu, .. }, "mtu") => *mtu = words.number()?,
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

/// Offsets in an IKE header (RFC 7296 section 3.1).
const NEXT_PAYLOAD: usize = 16;
const FLAGS: usize = 19;

impl Udp {
    /// Appends a notify payload with a cookie (RFC 7296 section 3.10) to the IKE header.
    fn add_cookie(&mut self, data: &[u8]) -> Result<()> {
        const NOTIFY: u8 = 41;
        const COOKIE: [u8; 2] = 16390_u16.to_be_bytes();
        let next = std::mem::replace(&mut self.head[NEXT_PAYLOAD], NOTIFY);
        let [high, low] = u16::try_from(8 + data.len())?.to_be_bytes();
        self.head.extend([next, 0, high, low, 0, 0, COOKIE[0], COOKIE[1]]);
        self.head.extend(data);
        Ok(())
    }

    fn word(&mut self, word: &str, words: &mut Words) -> Result<bool> {
        match word {
            "udplen" => self.udp_length = Some(words.number()?),
            "len" => self.length = words.number()?,
            "marker" => self.head = vec![0; 4],
            "keepalive" => self.head = vec![0xff],
            "spi" => self.head = esp_header(words.number()?).to_vec(),
            "init" => {
                const SECURITY_ASSOCIATION: u8 = 33;
                self.head = ike_sa_init(words.number()?).to_vec();
                self.head[NEXT_PAYLOAD] = SECURITY_ASSOCIATION;
                self.ike = true;
            }
            "cookie" => {
                ensure!(self.ike, "`cookie` follows `init SPI`");
                self.add_cookie(&words.hex()?)?;
            }
            "asks" => {
                const RESPONSE: u8 = 0x20;
                self.head = ike_sa_init(words.number()?).to_vec();
                self.head[FLAGS] = RESPONSE;
                self.ike = true;
                self.add_cookie(&words.hex()?)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}
