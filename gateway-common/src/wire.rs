//! Headers as they are on the wire, and reading them from a frame.
//!
//! The structures are naturally aligned from an IP header's first byte on, which the kernel keeps
//! 4-aligned (NET_IP_ALIGN), so that a field is one load in eBPF.
use core::fmt;

/// Bytes of an Ethernet header.
pub const ETHERNET_BYTES: usize = network_types::eth::EthHdr::LEN;
/// Offset of the network header in a frame.
pub const NETWORK_OFFSET: usize = ETHERNET_BYTES;

/// EtherType numbers (IEEE 802), host byte order.
pub mod ethertype {
    use network_types::eth::EtherType;
    /// IPv4, RFC 894.
    pub const IPV4: u16 = u16::from_be(EtherType::Ipv4 as u16);
    /// IPv6, RFC 2464.
    pub const IPV6: u16 = u16::from_be(EtherType::Ipv6 as u16);
    /// ARP, RFC 826.
    pub const ARP: u16 = u16::from_be(EtherType::Arp as u16);
}

/// IP protocol numbers (IANA).
pub mod protocol {
    use network_types::ip::IpProto;
    /// ICMP, RFC 792.
    pub const ICMP: u8 = IpProto::Icmp as u8;
    /// TCP, RFC 9293.
    pub const TCP: u8 = IpProto::Tcp as u8;
    /// UDP, RFC 768.
    pub const UDP: u8 = IpProto::Udp as u8;
    /// ESP, RFC 4303.
    pub const ESP: u8 = IpProto::Esp as u8;
    /// ICMPv6, RFC 4443.
    pub const ICMPV6: u8 = IpProto::Ipv6Icmp as u8;
    /// The fragment header of IPv6, RFC 8200 section 4.5.
    pub const IPV6_FRAGMENT: u8 = IpProto::Ipv6Frag as u8;
}

/// UDP ports of IKE.
pub mod ike {
    /// IKEv2, RFC 7296 section 2.
    pub const PORT: u16 = 500;
    /// IKEv2 and ESP through NAT, RFC 3948.
    pub const NAT_PORT: u16 = 4500;
}

/// A frame to read headers from: a packet in eBPF, a slice on the host.
pub trait Frame {
    /// The header at this offset in bytes, if the frame holds all of it.
    fn read<T: Wire>(&self, offset: usize) -> Option<T>;
    /// So many words from this offset on, if the frame holds all of them.
    fn words<const N: usize>(&self, offset: usize) -> Option<impl Words>;
    /// Bytes of the whole frame, also of those that cannot be read directly.
    fn length(&self) -> usize;
    /// Bytes of payload in each of the segments that GRO merged into it; 0 if it did not.
    #[inline(always)]
    fn segment_bytes(&self) -> u32 {
        0
    }

    /// Takes steps until one is the last, at most so many. In eBPF by `bpf_loop`, whose body the
    /// verifier looks at once and not once for each round.
    #[inline(always)]
    fn repeat<S: Step>(most: u32, state: &mut S) {
        for _ in 0..most {
            if !state.step() {
                return;
            }
        }
    }
}

/// Words of a frame. Each is read when it is asked for: eBPF has registers for few, and a word that was put
/// aside costs as much as one that is read again.
pub trait Words: Copy {
    /// This one of them, as it lies in memory.
    fn raw(&self, index: usize) -> u32;

    /// This one of them, in host byte order.
    #[inline(always)]
    fn get(&self, index: usize) -> u32 {
        u32::from_be(self.raw(index))
    }
}

/// What [`Frame::repeat`] repeats.
pub trait Step {
    /// False if this was the last step.
    fn step(&mut self) -> bool;
}

/// A type that any bytes of its size are a value of.
///
/// # Safety
/// No padding, no invalid bit patterns.
pub unsafe trait Wire: Copy {}

impl Frame for [u8] {
    #[inline]
    fn read<T: Wire>(&self, offset: usize) -> Option<T> {
        let bytes = self.get(offset..offset.checked_add(size_of::<T>())?)?;
        // SAFETY: `bytes` has T's size, every pattern is a T (Wire), and the read is unaligned.
        Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
    }

    #[inline]
    fn words<const N: usize>(&self, offset: usize) -> Option<impl Words> {
        let (words, []) = self.get(offset..offset.checked_add(4 * N)?)?.as_chunks::<4>() else { return None };
        Some(words)
    }

    fn length(&self) -> usize {
        self.len()
    }
}

impl Words for &[[u8; 4]] {
    #[inline]
    fn raw(&self, index: usize) -> u32 {
        u32::from_ne_bytes(self[index])
    }
}

/// 16 bits in network byte order.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct Be16(u16);

impl Be16 {
    /// In host byte order.
    #[inline(always)]
    pub const fn get(self) -> u16 {
        u16::from_be(self.0)
    }
}

/// 32 bits in network byte order.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct Be32(u32);

impl Be32 {
    /// In host byte order.
    #[inline(always)]
    pub const fn get(self) -> u32 {
        u32::from_be(self.0)
    }
}

/// An IPv4 address; bytes, so that `bpftool map dump` shows it as people read it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(C, align(4))]
pub struct Ipv4 {
    /// As on the wire.
    pub octets: [u8; 4],
}

impl Ipv4 {
    /// As a number, most significant octet first.
    #[inline(always)]
    pub const fn bits(self) -> u32 {
        u32::from_be_bytes(self.octets)
    }

    /// From a word as it lies in memory.
    #[inline(always)]
    pub const fn from_word(word: u32) -> Self {
        Self { octets: word.to_ne_bytes() }
    }

    /// A word as it lies in memory.
    #[inline(always)]
    pub const fn word(self) -> u32 {
        u32::from_ne_bytes(self.octets)
    }

    /// From a number, most significant octet first.
    #[inline(always)]
    pub const fn from_bits(bits: u32) -> Self {
        Self { octets: bits.to_be_bytes() }
    }
}

impl From<core::net::Ipv4Addr> for Ipv4 {
    fn from(address: core::net::Ipv4Addr) -> Self {
        Self { octets: address.octets() }
    }
}

impl From<Ipv4> for core::net::Ipv4Addr {
    fn from(address: Ipv4) -> Self {
        address.octets.into()
    }
}

impl fmt::Debug for Ipv4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        core::net::Ipv4Addr::from(*self).fmt(f)
    }
}

/// An IPv6 address; bytes, so that `bpftool map dump` shows it in the order that people write.
#[derive(Clone, Copy, Eq, PartialOrd, Ord, Default)]
#[repr(C, align(4))]
pub struct Ipv6 {
    /// As on the wire.
    pub octets: [u8; 16],
}

impl Ipv6 {
    /// Four words as they lie in memory.
    #[inline(always)]
    pub const fn words(self) -> [u32; 4] {
        // SAFETY: same size, and any bytes are words.
        unsafe { core::mem::transmute(self.octets) }
    }

    /// From four words as they lie in memory.
    #[inline(always)]
    pub const fn from_words(words: [u32; 4]) -> Self {
        // SAFETY: same size, and any words are bytes.
        Self { octets: unsafe { core::mem::transmute::<[u32; 4], [u8; 16]>(words) } }
    }
}

impl PartialEq for Ipv6 {
    /// Word by word: eBPF has no memcmp to call.
    #[inline(always)]
    fn eq(&self, other: &Self) -> bool {
        let (a, b) = (self.words(), other.words());
        (a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3]) == 0
    }
}

impl core::hash::Hash for Ipv6 {
    fn hash<H: core::hash::Hasher>(&self, state: &mut H) {
        self.octets.hash(state);
    }
}

impl From<core::net::Ipv6Addr> for Ipv6 {
    fn from(address: core::net::Ipv6Addr) -> Self {
        Self { octets: address.octets() }
    }
}

impl From<Ipv6> for core::net::Ipv6Addr {
    fn from(address: Ipv6) -> Self {
        address.octets.into()
    }
}

/// As an address of either family is kept in maps that hold both: IPv4 as ::ffff:a.b.c.d.
impl From<core::net::IpAddr> for Ipv6 {
    fn from(address: core::net::IpAddr) -> Self {
        match address {
            core::net::IpAddr::V4(address) => address.to_ipv6_mapped().into(),
            core::net::IpAddr::V6(address) => address.into(),
        }
    }
}

/// The other way round.
impl From<Ipv6> for core::net::IpAddr {
    fn from(address: Ipv6) -> Self {
        core::net::Ipv6Addr::from(address).to_canonical()
    }
}

impl fmt::Debug for Ipv6 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        core::net::IpAddr::from(*self).fmt(f)
    }
}

/// RFC 791 section 3.1, without options.
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
    /// See [`protocol`].
    pub protocol: u8,
    /// One's complement sum of the header.
    pub checksum: Be16,
    /// Source address.
    pub source: Ipv4,
    /// Destination address.
    pub destination: Ipv4,
}

/// RFC 8200 section 3.
#[derive(Clone, Copy)]
#[repr(C, align(4))]
pub struct Ipv6Header {
    /// Version (4 bits) and the first half of the traffic class.
    pub version: u8,
    /// The rest of the traffic class, and the flow label.
    pub flow_label: [u8; 3],
    /// Bytes behind this header.
    pub payload_length: Be16,
    /// See [`protocol`].
    pub next_header: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Source address.
    pub source: Ipv6,
    /// Destination address.
    pub destination: Ipv6,
}

/// RFC 9293 section 3.1, without options.
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

/// RFC 768.
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

// SAFETY: all are integers, or arrays of integers, without padding (see the sizes below).
unsafe impl Wire for u8 {}
// SAFETY: as above.
unsafe impl Wire for Be16 {}
// SAFETY: as above.
unsafe impl Wire for Be32 {}
// SAFETY: as above.
unsafe impl<const N: usize> Wire for [u8; N] {}
// SAFETY: as above.
unsafe impl Wire for Ipv4 {}
// SAFETY: as above.
unsafe impl Wire for Ipv6 {}
// SAFETY: as above.
unsafe impl Wire for Ipv4Header {}
// SAFETY: as above.
unsafe impl Wire for Ipv6Header {}
// SAFETY: as above.
unsafe impl Wire for TcpHeader {}
// SAFETY: as above.
unsafe impl Wire for UdpHeader {}

const _: () = assert!(size_of::<Ipv4Header>() == 20 && size_of::<TcpHeader>() == 20);
const _: () = assert!(size_of::<UdpHeader>() == 8 && size_of::<Ipv4>() == 4);
const _: () = assert!(size_of::<Ipv6Header>() == 40 && size_of::<Ipv6>() == 16);
const _: () = assert!(ethertype::IPV4 == 0x0800 && ethertype::ARP == 0x0806);

impl Ipv4Header {
    /// One's complement sum of a header without options, checksum included: 0xffff if that is right
    /// (RFC 1071). Byte order does not matter to it.
    #[inline(always)]
    pub const fn sum(&self) -> u32 {
        let words = [
            u16::from_ne_bytes([self.version_length, self.traffic_class]) as u32,
            self.total_length.0 as u32,
            self.identification.0 as u32,
            self.fragment.0 as u32,
            u16::from_ne_bytes([self.ttl, self.protocol]) as u32,
            self.checksum.0 as u32,
        ];
        let source = u32::from_ne_bytes(self.source.octets);
        let destination = u32::from_ne_bytes(self.destination.octets);
        let mut sum = words[0] + words[1] + words[2] + words[3] + words[4] + words[5];
        sum += (source & 0xffff) + (source >> 16) + (destination & 0xffff) + (destination >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
        (sum & 0xffff) + (sum >> 16)
    }
}
