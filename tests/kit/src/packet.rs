//! The packet language: a line states what is special about a packet; everything else has defaults.
//!
//! ```text
//! 192.168.1.2:40000 > 10.200.0.11:80 S mss 1460               TCP, flags as letters SFRPAUEC, - for none
//! 198.18.0.1:500 > 203.0.113.1:500 UDP len 20                 UDP
//! 198.18.0.1:4500 > 203.0.113.1:4500 UDP spi 0xc0de0001 len 60  ESP in UDP
//! [fd00:1::2]:40000 > [fd00:200::11]:80 S                     TCP over IPv6
//! 192.168.1.2 > 10.200.0.11 ICMP echo                         ICMP: echo, too-big, or type N code N
//! fe80::9 > fe80::113 ICMP solicit ttl 255                    ICMPv6 also: advert, router-solicit, router-advert, redirect
//! 198.18.0.1 > 203.0.113.1 ESP spi 0xc0de0001 len 60
//! 192.168.1.2 > 10.200.0.11 PROTO 47 len 20                   any other IP protocol
//! ARP who-has 10.200.0.1 tell 10.200.0.11
//! ETHER 0x86dd len 40                                         any other EtherType
//! RAW 0200deadbeef                                            the frame's bytes
//! ```
//!
//! Further words may follow in any order; of words of one kind, the last counts:
//! - frame: `smac M`, `dmac M`, `vlan TAG` (priority and ID), `untagged`, `ether N` (overrides the EtherType), `pad N` (bytes after the
//!   packet), `cut N` (the frame ends after N bytes), `patch AT:HEX` (replaces bytes last, without updating
//!   checksums);
//! - IP: `ttl` (or hop limit), `tos`, `id`, `frag` (8-byte units), `mf`, `total` (overrides the length, in
//!   IPv6 the payload's), `version` (overrides the version), `source` (overrides the source address);
//! - IPv4: `ihl` (overrides the header length), `ipopts HEX`, `df`;
//! - IPv6: `frag`, `mf` and `atomic` add a fragment header, `ext N` an extension header of that kind before
//!   it;
//! - ICMP: `about A > B`, two endpoints: quotes header and ports of a TCP packet between them; `about-esp A > B
//!   SPI` quotes header and SPI of an ESP packet, in UDP if A and B have ports; `mtu N` announces an MTU;
//! - TCP: `seq`, `ack`, `win`, `doff` (overrides the data offset), options in order: `mss N`, `wscale N`,
//!   `sackok`, `nop`, `opt HEX`; in cases, `seq` and `ack` default to the numbers that a TCP would send, see
//!   `sequence` of the replay;
//! - UDP: `udplen` (overrides the length), payload `marker` (four zero bytes) or `keepalive` (0xff), or IKE: `init
//!   SPI` (the header of a request that opens an IKE_SA; `len` counts the bytes behind it), `cookie HEX` (its first
//!   payload is this cookie), `asks SPI HEX` (the response with nothing but a cookie);
//! - payload: `len N` bytes; for UDP and ESP, `spi N` puts an ESP header before the payload.
//!
//! Checksums are always right, unless `patch` changes them or their packet.
use std::net::IpAddr;

/// Destination MAC address of a frame, unless it states another: the gateway's.
pub const GATEWAY_MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0, 1];

/// The description of a frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Packet {
    /// Ethernet.
    pub ethernet: Ethernet,
    /// The packet in the frame.
    pub network: Network,
    /// Changes of the finished bytes, in order: offset and new bytes.
    pub patches: Vec<(usize, Vec<u8>)>,
    /// Overrides the length of the frame.
    pub cut: Option<usize>,
}

/// The Ethernet header, and padding after the packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ethernet {
    /// Source MAC address.
    pub source: [u8; 6],
    /// Destination MAC address.
    pub destination: [u8; 6],
    /// VLAN id of an 802.1Q tag.
    pub vlan: Option<u16>,
    /// Overrides the EtherType.
    pub ether_type: Option<u16>,
    /// Number of zero bytes after the packet.
    pub padding: usize,
}

/// The payload of a frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Network {
    /// An IPv4 or IPv6 packet, according to its addresses.
    Ip(Ip, Transport),
    /// An ARP request.
    Arp {
        /// Address of the sender.
        sender: std::net::Ipv4Addr,
        /// Address that the sender looks for.
        target: std::net::Ipv4Addr,
    },
    /// Another EtherType, with this many bytes.
    Other(u16, usize),
    /// The bytes of the whole frame.
    Raw(Vec<u8>),
}

/// An IPv4 or IPv6 header.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ip {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// DSCP and ECN, or traffic class.
    pub tos: u8,
    /// Identification; in IPv6 that of the fragment header, and the flow label.
    pub id: u16,
    /// Don't fragment.
    pub df: bool,
    /// More fragments.
    pub mf: bool,
    /// Fragment offset, in 8-byte units.
    pub fragment: u16,
    /// IPv6: adds a fragment header even to the only fragment (RFC 6946).
    pub atomic: bool,
    /// IPv6: adds an extension header of this kind.
    pub extension: Option<u8>,
    /// IPv4: options, a multiple of 4 bytes.
    pub options: Vec<u8>,
    /// Overrides the total length (IPv4) or the payload length (IPv6).
    pub total: Option<u16>,
    /// IPv4: overrides the header length, in 32-bit words.
    pub ihl: Option<u8>,
    /// Overrides the version.
    pub version: Option<u8>,
}

/// The payload of an IP packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Transport {
    /// TCP.
    Tcp(Tcp),
    /// UDP.
    Udp(Udp),
    /// ICMP or ICMPv6 of this type and code.
    Icmp {
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
        /// Source and destination of the TCP packet that the message quotes.
        about: Option<[(IpAddr, u16); 2]>,
        /// The ESP packet that the message quotes.
        about_esp: Option<QuotedEsp>,
        /// The MTU in bytes that the message announces.
        mtu: u32,
        /// Bytes of payload.
        length: usize,
    },
    /// ESP.
    Esp {
        /// SPI.
        spi: u32,
        /// Bytes after SPI and sequence number.
        length: usize,
    },
    /// Another protocol, with this many bytes.
    Other(u8, usize),
}

/// An ESP packet that an ICMP message quotes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct QuotedEsp {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Source and destination port, if ESP is in UDP.
    pub ports: Option<[u16; 2]>,
    /// SPI.
    pub spi: u32,
}

/// A TCP segment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tcp {
    /// Source and destination port.
    pub ports: [u16; 2],
    /// Flags, as on the wire.
    pub flags: u8,
    /// Sequence number, if stated.
    pub seq: Option<u32>,
    /// Acknowledgment number, if stated.
    pub ack: Option<u32>,
    /// Window.
    pub window: u16,
    /// Options, in order.
    pub options: Vec<TcpOption>,
    /// Overrides the data offset, in 32-bit words.
    pub data_offset: Option<u8>,
    /// Bytes of payload.
    pub length: usize,
}

/// A TCP option.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TcpOption {
    /// Maximum segment size.
    Mss(u16),
    /// The bytes of any other option, perhaps a malformed one.
    Bytes(Vec<u8>),
}

/// A UDP datagram.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Udp {
    /// Source and destination port.
    pub ports: [u16; 2],
    /// Overrides the length.
    pub udp_length: Option<u16>,
    /// First bytes of the payload.
    pub head: Vec<u8>,
    /// True if they are an IKE header, whose length is still to be set.
    pub ike: bool,
    /// Bytes of payload after those.
    pub length: usize,
}

/// Letters of the TCP flags, from bit 0.
pub const FLAG_LETTERS: &str = "FSRPAUEC";

impl Ip {
    /// Returns a header with default fields.
    pub fn new(source: IpAddr, destination: IpAddr) -> Self {
        Self {
            source,
            destination,
            ttl: 64,
            tos: 0,
            id: 0x1234,
            df: false,
            mf: false,
            fragment: 0,
            atomic: false,
            extension: None,
            options: Vec::new(),
            total: None,
            ihl: None,
            version: None,
        }
    }
}

impl Ethernet {
    /// Returns a header without anything special.
    pub fn new(source: [u8; 6], destination: [u8; 6]) -> Self {
        Self { source, destination, vlan: None, ether_type: None, padding: 0 }
    }
}

impl Tcp {
    /// Returns a segment without options or payload. `ports` are source and destination.
    pub fn new(ports: [u16; 2], flags: u8) -> Self {
        Self {
            ports,
            flags,
            seq: None,
            ack: None,
            window: 64240,
            options: Vec::new(),
            data_offset: None,
            length: 0,
        }
    }
}

mod parse;
#[cfg(test)]
mod tests;
