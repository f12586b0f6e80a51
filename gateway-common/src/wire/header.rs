//! Headers as they are on the wire.
//!
//! The structures are naturally aligned from an IP header's first byte on, which the kernel keeps 4-aligned
//! (NET_IP_ALIGN), so every field is one load in eBPF.
use super::{
    address::{Ipv4, Ipv6},
    frame::{Be16, Be32, Frame, Wire},
    number::ethertype,
};

/// Bytes of an Ethernet header.
pub const ETHERNET_BYTES: usize = network_types::eth::EthHdr::LEN;

/// Offset of the network header in a frame.
pub const NETWORK_OFFSET: usize = ETHERNET_BYTES;

/// Returns the frame's EtherType in host byte order.
#[inline(always)]
pub fn ethertype_of<F: Frame + ?Sized>(frame: &F) -> Option<u16> {
    frame.read::<Be16>(12).map(Be16::get)
}

/// Bytes of an 802.1Q tag.
pub const VLAN_TAG_BYTES: usize = 4;
/// The bits of a tag's control information that hold the VLAN's id (IEEE 802.1Q section 9.6).
const VLAN_ID_MASK: u16 = 0x0fff;

/// Returns true for a frame with a priority tag before IPv4, IPv6 or ARP. The tag has VLAN id 0: the frame
/// belongs to no VLAN, as if it were untagged (IEEE 802.1Q section 9.6).
#[inline(always)]
pub fn has_priority_tag<F: Frame + ?Sized>(frame: &F) -> bool {
    if ethertype_of(frame) != Some(ethertype::VLAN) {
        return false;
    }
    let Some([high, low, a, b]) = frame.read::<[u8; 4]>(ETHERNET_BYTES) else { return false };
    let inside = u16::from_be_bytes([a, b]);
    u16::from_be_bytes([high, low]) & VLAN_ID_MASK == 0
        && (inside == ethertype::IPV4 || inside == ethertype::IPV6 || inside == ethertype::ARP)
}

/// Returns true for a frame that is not for this interface: its packet type (linux/if_packet.h) says that it
/// has another MAC address, or the tag that the kernel took out of it names a VLAN. The kernel drops such a
/// frame, but only after TC.
#[inline(always)]
pub const fn is_foreign(packet_type: u32, vlan_tag: u32) -> bool {
    const OTHER_HOST: u32 = 3;
    packet_type == OTHER_HOST || vlan_tag & VLAN_ID_MASK as u32 != 0
}

/// IPv4 header without options, RFC 791 section 3.1.
#[derive(Clone, Copy)]
#[repr(C, align(4))]
pub struct Ipv4Header {
    /// Version (4 bits) and header length in 32-bit words (4 bits).
    pub version_length: u8,
    /// DSCP and ECN.
    pub traffic_class: u8,
    /// Bytes of header and payload.
    pub total_length: Be16,
    /// Identification.
    pub identification: Be16,
    /// Flags (3 bits) and fragment offset in 8-byte units (13 bits).
    pub fragment: Be16,
    /// Time to live.
    pub ttl: u8,
    /// See [`super::protocol`].
    pub protocol: u8,
    /// One's complement sum of the header.
    pub checksum: Be16,
    /// Source address.
    pub source: Ipv4,
    /// Destination address.
    pub destination: Ipv4,
}

impl Ipv4Header {
    /// Returns the one's complement sum of a header without options, checksum included: 0xffff if the
    /// checksum is correct (RFC 1071). Byte order does not matter.
    #[inline(always)]
    pub const fn sum(&self) -> u32 {
        let words = [
            u16::from_ne_bytes([self.version_length, self.traffic_class]) as u32,
            self.total_length.raw() as u32,
            self.identification.raw() as u32,
            self.fragment.raw() as u32,
            u16::from_ne_bytes([self.ttl, self.protocol]) as u32,
            self.checksum.raw() as u32,
        ];
        let source = u32::from_ne_bytes(self.source.octets);
        let destination = u32::from_ne_bytes(self.destination.octets);
        let mut sum = words[0] + words[1] + words[2] + words[3] + words[4] + words[5];
        sum += (source & 0xffff) + (source >> 16) + (destination & 0xffff) + (destination >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
        (sum & 0xffff) + (sum >> 16)
    }
}

/// IPv6 header, RFC 8200 section 3.
#[derive(Clone, Copy)]
#[repr(C, align(4))]
pub struct Ipv6Header {
    /// Version (4 bits) and the first half of the traffic class.
    pub version: u8,
    /// The rest of the traffic class, and the flow label.
    pub flow_label: [u8; 3],
    /// Bytes after this header.
    pub payload_length: Be16,
    /// See [`super::protocol`].
    pub next_header: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Source address.
    pub source: Ipv6,
    /// Destination address.
    pub destination: Ipv6,
}

/// TCP header without options, RFC 9293 section 3.1.
#[derive(Clone, Copy)]
#[repr(C, align(4))]
pub struct TcpHeader {
    /// Source port.
    pub source: Be16,
    /// Destination port.
    pub destination: Be16,
    /// Sequence number.
    pub sequence: Be32,
    /// Acknowledgment number.
    pub acknowledgment: Be32,
    /// Header length in 32-bit words (4 bits), reserved (4 bits).
    pub data_offset: u8,
    /// CWR, ECE, URG, ACK, PSH, RST, SYN, FIN.
    pub flags: u8,
    /// Receive window, unscaled.
    pub window: Be16,
    /// Checksum.
    pub checksum: Be16,
    /// Urgent pointer.
    pub urgent: Be16,
}

/// UDP header, RFC 768.
#[derive(Clone, Copy)]
#[repr(C, align(2))]
pub struct UdpHeader {
    /// Source port.
    pub source: Be16,
    /// Destination port.
    pub destination: Be16,
    /// Bytes of header and payload.
    pub length: Be16,
    /// Checksum, 0 for none.
    pub checksum: Be16,
}

// SAFETY: repr(C), integers only, so any bytes are a value (`Wire`).
unsafe impl Wire for Ipv4Header {}

// SAFETY: as above.
unsafe impl Wire for Ipv6Header {}

// SAFETY: as above.
unsafe impl Wire for TcpHeader {}

// SAFETY: as above.
unsafe impl Wire for UdpHeader {}

const _: () = assert!(size_of::<Ipv4Header>() == 20 && size_of::<TcpHeader>() == 20);
const _: () = assert!(size_of::<UdpHeader>() == 8 && size_of::<Ipv6Header>() == 40);
