//! What differs between IPv4 and IPv6, so that everything else is written once.
use core::{fmt, marker::PhantomData};

use crate::wire::{
    Frame, Ipv4, Ipv4Header, Ipv6, Ipv6Header, NETWORK_OFFSET, TcpHeader, Wire, Words, ethertype, protocol,
};

/// An address family, by its address.
pub trait Family: Wire + Eq + Default + fmt::Debug + 'static {
    /// Bytes of its header without options or extension headers.
    const HEADER_BYTES: usize;
    /// Its EtherType, see [`ethertype`].
    const ETHERTYPE: u16;
    /// The ICMP that belongs to it, see [`protocol`].
    const ICMP: u8;
    /// AF_INET or AF_INET6, as Linux numbers them.
    const LINUX: u32;

    /// The header of a frame's packet, if that is as long as it says.
    fn header<F: Frame + ?Sized>(frame: &F) -> Result<Header<Self>, Fault>;
    /// The TCP packet in a frame, if it is of this family, whole and its header right, and all of that can be
    /// read directly. None says nothing: [`Family::header`] does.
    fn tcp<F: Frame + ?Sized>(frame: &F) -> Option<Tcp<Self, impl Words>>;
    /// Reads such a packet's header.
    fn tcp_header<W: Words>(words: &W) -> TcpHead<Self>;
    /// What a header at this offset says of its packet, which may be cut short; None if it is not one
    /// without options.
    fn quoted<F: Frame + ?Sized>(frame: &F, at: usize) -> Option<Quoted<Self>>;
    /// True if the header's checksum is right, or the family has none.
    fn checksum_fits<F: Frame + ?Sized>(frame: &F) -> bool;
    /// A mask of so many leading bits, at most as many as an address has.
    fn netmask(bits: u8) -> Self;
    /// The bits that the mask has.
    fn masked(self, mask: Self) -> Self;
    /// As IPv6 has it: an IPv4 address as ::ffff:a.b.c.d (RFC 4291 section 2.5.5.2).
    fn mapped(self) -> Ipv6;
    /// Whom a budget is kept for: an IPv4 address, the /64 of an IPv6 one, since that is what one
    /// subscriber gets (RFC 6177).
    fn subscriber(self) -> Ipv6;
    /// True for an address that no packet of this family may come from: an IPv4 address mapped into
    /// IPv6 (RFC 4942 section 2.2), which would pass for that IPv4 address where maps hold both.
    fn is_mapped(self) -> bool;
    /// True for a multicast group that neighbour discovery is sent to: all nodes, or the solicited-node
    /// addresses (RFC 4291 section 2.7.1).
    fn is_neighbour_group(self) -> bool;
    /// True for a message that a packet was too big for a link: ICMP "fragmentation needed and DF
    /// set" (RFC 1191 section 4), ICMPv6 "packet too big" (RFC 4443 section 3.2).
    fn is_too_big(icmp: IcmpHead) -> bool;
}

/// Type and code of an ICMP message.
pub type IcmpHead = [u8; 2];

/// What a packet's header says, extension headers left behind.
#[derive(Clone, Copy, Debug)]
pub struct Header<A> {
    /// Source address.
    pub source: A,
    /// Destination address.
    pub destination: A,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// See [`protocol`].
    pub protocol: u8,
    /// Whether the packet is whole.
    pub fragment: Fragment,
    /// Where the transport header begins, in bytes from the frame's start.
    pub transport: u8,
    /// Bytes from there to the packet's end.
    pub payload_bytes: u16,
}

/// A whole TCP packet without options or extension headers, in its frame.
#[derive(Clone, Copy, Debug)]
pub struct Tcp<A, W> {
    /// From the EtherType, which is the second half of the first one, to the TCP header.
    words: W,
    family: PhantomData<A>,
}

/// What the header of such a packet says. Most who ask want a part of it, and only that is read.
#[derive(Clone, Copy, Debug)]
pub struct TcpHead<A> {
    /// Source address.
    pub source: A,
    /// Destination address.
    pub destination: A,
    /// TTL or hop limit.
    pub hop_limit: u32,
    /// Bytes of the TCP header and what it carries.
    pub payload_bytes: u32,
}

impl<A: Family, W: Words> Tcp<A, W> {
    /// What the IP header says.
    #[inline(always)]
    pub fn head(&self) -> TcpHead<A> {
        A::tcp_header(&self.words)
    }

    /// A word of the TCP header, in host byte order.
    #[inline(always)]
    pub fn word(&self, index: usize) -> u32 {
        self.words.get(IP + A::HEADER_BYTES / 4 + index)
    }
}

/// Of the words that a [`Tcp`] is read from, the first one of the IP header.
const IP: usize = 1;
/// Where they begin in a frame.
const WORDS_OFFSET: usize = NETWORK_OFFSET - 4 * IP;

/// What a header says of a packet that is not there.
#[derive(Clone, Copy, Debug)]
pub struct Quoted<A> {
    /// Source address.
    pub source: A,
    /// Destination address.
    pub destination: A,
    /// See [`protocol`].
    pub protocol: u8,
}

/// Whether a packet is whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Fragment {
    /// It is.
    No = 0,
    /// It begins with the transport header, and others follow.
    First = 1,
    /// It holds no transport header.
    Later = 2,
}

/// What is wrong with a header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// It is longer than the frame, or contradicts itself.
    Malformed,
    /// It has IPv4 options, or IPv6 extension headers other than one fragment header.
    Options,
}

impl<A: Family> Header<A> {
    /// A header this many bytes into the payload, where the IP header says there is one: what
    /// follows in the frame may be padding.
    #[inline(always)]
    pub fn payload<F: Frame + ?Sized, T: Wire>(&self, frame: &F, offset: usize) -> Result<T, Fault> {
        if (self.payload_bytes as usize) < offset + size_of::<T>() {
            return Err(Fault::Malformed);
        }
        frame.read(self.transport as usize + offset).ok_or(Fault::Malformed)
    }

    /// True for the first or a later fragment.
    #[inline(always)]
    pub fn is_fragment(&self) -> bool {
        self.fragment as u8 != Fragment::No as u8
    }

    /// True for a later fragment.
    #[inline(always)]
    pub fn is_later_fragment(&self) -> bool {
        self.fragment as u8 == Fragment::Later as u8
    }
}

/// RFC 791 section 3.1.
impl Family for Ipv4 {
    const HEADER_BYTES: usize = size_of::<Ipv4Header>();
    const ETHERTYPE: u16 = ethertype::IPV4;
    const ICMP: u8 = protocol::ICMP;
    const LINUX: u32 = 2;

    #[inline(always)]
    fn header<F: Frame + ?Sized>(frame: &F) -> Result<Header<Self>, Fault> {
        let header: Ipv4Header = frame.read(NETWORK_OFFSET).ok_or(Fault::Malformed)?;
        match header.version_length {
            0x45 => {}
            0x46..=0x4f => return Err(Fault::Options),
            _ => return Err(Fault::Malformed),
        }
        let total = header.total_length.get();
        if (total as usize) < Self::HEADER_BYTES || NETWORK_OFFSET + total as usize > frame.length() {
            return Err(Fault::Malformed);
        }
        Ok(Header {
            source: header.source,
            destination: header.destination,
            hop_limit: header.ttl,
            protocol: header.protocol,
            fragment: fragment(header.fragment.get() & 0x1fff != 0, header.fragment.get() & 0x2000 != 0),
            transport: (NETWORK_OFFSET + Self::HEADER_BYTES) as u8,
            payload_bytes: total - Self::HEADER_BYTES as u16,
        })
    }

    #[inline(always)]
    fn tcp<F: Frame + ?Sized>(frame: &F) -> Option<Tcp<Self, impl Words>> {
        const HEADERS_BYTES: usize = Ipv4::HEADER_BYTES + size_of::<TcpHeader>();
        let words = frame.words::<{ IP + HEADERS_BYTES / 4 }>(WORDS_OFFSET)?;
        let total = (words.get(IP) & 0xffff) as usize;
        let plain = words.get(0) & 0xffff == u32::from(Self::ETHERTYPE)
            && words.get(IP) >> 24 == 0x45
            && words.get(IP + 1) & 0x3fff == 0
            && words.get(IP + 2) >> 16 & 0xff == u32::from(protocol::TCP);
        if !plain || total < HEADERS_BYTES || NETWORK_OFFSET + total > frame.length() || !sum_fits(&words) {
            return None;
        }
        Some(Tcp { words, family: PhantomData })
    }

    #[inline(always)]
    fn tcp_header<W: Words>(words: &W) -> TcpHead<Self> {
        TcpHead {
            source: Self::from_word(words.raw(IP + 3)),
            destination: Self::from_word(words.raw(IP + 4)),
            hop_limit: words.get(IP + 2) >> 24,
            payload_bytes: (words.get(IP) & 0xffff) - Self::HEADER_BYTES as u32,
        }
    }

    #[inline(always)]
    fn quoted<F: Frame + ?Sized>(frame: &F, at: usize) -> Option<Quoted<Self>> {
        let header: Ipv4Header = frame.read(at)?;
        let plain = header.version_length == 0x45 && header.fragment.get() & 0x1fff == 0;
        let Ipv4Header { source, destination, protocol, .. } = header;
        plain.then_some(Quoted { source, destination, protocol })
    }

    #[inline(always)]
    fn checksum_fits<F: Frame + ?Sized>(frame: &F) -> bool {
        frame.read::<Ipv4Header>(NETWORK_OFFSET).is_some_and(|header| header.sum() == 0xffff)
    }

    fn netmask(bits: u8) -> Self {
        Self::from_bits(u32::MAX.checked_shl(32 - u32::from(bits.min(32))).unwrap_or(0))
    }

    #[inline(always)]
    fn masked(self, mask: Self) -> Self {
        // Byte order does not matter to a mask.
        let bits = u32::from_ne_bytes(self.octets) & u32::from_ne_bytes(mask.octets);
        Self { octets: bits.to_ne_bytes() }
    }

    #[inline(always)]
    fn mapped(self) -> Ipv6 {
        Ipv6::from_words([0, 0, 0xffff_u32.to_be(), u32::from_ne_bytes(self.octets)])
    }

    #[inline(always)]
    fn subscriber(self) -> Ipv6 {
        self.mapped()
    }

    #[inline(always)]
    fn is_mapped(self) -> bool {
        false
    }

    #[inline(always)]
    fn is_neighbour_group(self) -> bool {
        false
    }

    #[inline(always)]
    fn is_too_big(icmp: IcmpHead) -> bool {
        icmp == [3, 4]
    }
}

/// RFC 8200 section 3. Of extension headers only a fragment header may follow: nothing that belongs
/// here has others, and a chain of them is a way past filters (RFC 7045, RFC 9098).
impl Family for Ipv6 {
    const HEADER_BYTES: usize = size_of::<Ipv6Header>();
    const ETHERTYPE: u16 = ethertype::IPV6;
    const ICMP: u8 = protocol::ICMPV6;
    const LINUX: u32 = 10;

    #[inline(always)]
    fn header<F: Frame + ?Sized>(frame: &F) -> Result<Header<Self>, Fault> {
        const FRAGMENT_HEADER_BYTES: u16 = 8;
        let fixed: Ipv6Header = frame.read(NETWORK_OFFSET).ok_or(Fault::Malformed)?;
        let payload = fixed.payload_length.get();
        let end = NETWORK_OFFSET + Self::HEADER_BYTES + payload as usize;
        if fixed.version >> 4 != 6 || end > frame.length() {
            return Err(Fault::Malformed);
        }
        let header = Header {
            source: fixed.source,
            destination: fixed.destination,
            hop_limit: fixed.hop_limit,
            protocol: fixed.next_header,
            fragment: Fragment::No,
            transport: (NETWORK_OFFSET + Self::HEADER_BYTES) as u8,
            payload_bytes: payload,
        };
        if is_extension(fixed.next_header) {
            return Err(Fault::Options);
        }
        if fixed.next_header != protocol::IPV6_FRAGMENT {
            return Ok(header);
        }
        // RFC 8200 section 4.5: next header, reserved, offset (13 bits), reserved, M.
        let [protocol, _, high, low]: [u8; 4] = header.payload(frame, 0)?;
        let offset = u16::from_be_bytes([high, low]);
        if payload < FRAGMENT_HEADER_BYTES {
            return Err(Fault::Malformed);
        }
        if is_extension(protocol) || protocol == protocol::IPV6_FRAGMENT {
            return Err(Fault::Options);
        }
        Ok(Header {
            protocol,
            // Also an atomic fragment (RFC 6946), which is whole: it begins with the transport header.
            fragment: fragment(offset & 0xfff8 != 0, true),
            transport: header.transport + FRAGMENT_HEADER_BYTES as u8,
            payload_bytes: payload - FRAGMENT_HEADER_BYTES,
            ..header
        })
    }

    #[inline(always)]
    fn tcp<F: Frame + ?Sized>(frame: &F) -> Option<Tcp<Self, impl Words>> {
        const TCP_BYTES: usize = size_of::<TcpHeader>();
        let words = frame.words::<{ IP + (Ipv6::HEADER_BYTES + TCP_BYTES) / 4 }>(WORDS_OFFSET)?;
        let payload = (words.get(IP + 1) >> 16) as usize;
        let plain = words.get(0) & 0xffff == u32::from(Self::ETHERTYPE)
            && words.get(IP) >> 28 == 6
            && words.get(IP + 1) >> 8 & 0xff == u32::from(protocol::TCP);
        if !plain || payload < TCP_BYTES || NETWORK_OFFSET + Self::HEADER_BYTES + payload > frame.length() {
            return None;
        }
        Some(Tcp { words, family: PhantomData })
    }

    #[inline(always)]
    fn tcp_header<W: Words>(words: &W) -> TcpHead<Self> {
        let address = |at: usize| [0, 1, 2, 3].map(|word| words.raw(at + word));
        TcpHead {
            source: Self::from_words(address(IP + 2)),
            destination: Self::from_words(address(IP + 6)),
            hop_limit: words.get(IP + 1) & 0xff,
            payload_bytes: words.get(IP + 1) >> 16,
        }
    }

    #[inline(always)]
    fn quoted<F: Frame + ?Sized>(frame: &F, at: usize) -> Option<Quoted<Self>> {
        let header: Ipv6Header = frame.read(at)?;
        let Ipv6Header { source, destination, next_header: protocol, .. } = header;
        (header.version >> 4 == 6).then_some(Quoted { source, destination, protocol })
    }

    #[inline(always)]
    fn checksum_fits<F: Frame + ?Sized>(_: &F) -> bool {
        true
    }

    fn netmask(bits: u8) -> Self {
        let bits = u128::MAX.checked_shl(128 - u32::from(bits.min(128))).unwrap_or(0);
        Self { octets: bits.to_be_bytes() }
    }

    #[inline(always)]
    fn masked(self, mask: Self) -> Self {
        let (a, b) = (self.words(), mask.words());
        Self::from_words([a[0] & b[0], a[1] & b[1], a[2] & b[2], a[3] & b[3]])
    }

    #[inline(always)]
    fn mapped(self) -> Ipv6 {
        self
    }

    #[inline(always)]
    fn subscriber(self) -> Ipv6 {
        let words = self.words();
        Self::from_words([words[0], words[1], 0, 0])
    }

    #[inline(always)]
    fn is_mapped(self) -> bool {
        let words = self.words();
        words[0] | words[1] | (words[2] ^ 0xffff_u32.to_be()) == 0
    }

    #[inline(always)]
    fn is_neighbour_group(self) -> bool {
        let words = self.words().map(u32::from_be);
        words[0] == 0xff02_0000
            && words[1] == 0
            && ((words[2] == 0 && words[3] == 1) || (words[2] == 1 && words[3] >> 24 == 0xff))
    }

    #[inline(always)]
    fn is_too_big(icmp: IcmpHead) -> bool {
        icmp == [2, 0]
    }
}

/// True if the checksum of the IPv4 header among these words is right: their one's complement sum is 0xffff (RFC
/// 1071). Byte order does not matter to it.
#[inline(always)]
fn sum_fits<W: Words>(words: &W) -> bool {
    let sum: u64 = [0, 1, 2, 3, 4].map(|word: usize| u64::from(words.raw(IP + word))).iter().sum();
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    // At most 17 bits, of which the carry is left to add.
    let sum = (sum & 0xffff) + (sum >> 16);
    sum == 0xffff || sum == 0x1_fffe
}

#[inline(always)]
const fn fragment(later: bool, more: bool) -> Fragment {
    match (later, more) {
        (true, _) => Fragment::Later,
        (false, true) => Fragment::First,
        (false, false) => Fragment::No,
    }
}

/// Extension headers but the fragment header; IANA, "IPv6 Extension Header Types".
#[inline(always)]
const fn is_extension(next_header: u8) -> bool {
    matches!(next_header, 0 | 43 | 51 | 60 | 135 | 139 | 140 | 253 | 254)
}
