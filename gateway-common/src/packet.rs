//! The inner packet: what was decapsulated, or what a server sends. Parsed once, checked here.
use crate::{
    reason::Reason,
    wire::{Be16, Frame, Ipv4, Ipv4Header, NETWORK_OFFSET, TRANSPORT_OFFSET, TcpHeader, ethertype, protocol},
};

/// An IPv4 packet without options that is no fragment and is as long as it says.
#[derive(Clone, Copy, Debug)]
pub struct Inner {
    /// Source address.
    pub source: Ipv4,
    /// Destination address.
    pub destination: Ipv4,
    /// Time to live, as received.
    pub ttl: u8,
    /// See [`protocol`].
    pub protocol: u8,
    /// Bytes behind the IPv4 header.
    pub payload_bytes: u16,
}

impl Inner {
    /// RFC 791 section 3.1; RFC 1812 section 5.2.2 for what a router must check.
    #[inline(always)]
    pub fn parse<F: Frame + ?Sized>(frame: &F) -> Result<Self, Reason> {
        if ethertype_of(frame) != Some(ethertype::IPV4) {
            return Err(Reason::InnerNotIpv4);
        }
        let header: Ipv4Header = frame.read(NETWORK_OFFSET).ok_or(Reason::InnerMalformed)?;
        match header.version_length {
            0x45 => {}
            0x46..=0x4f => return Err(Reason::InnerHasIpOptions),
            _ => return Err(Reason::InnerMalformed),
        }
        let total = header.total_length.get();
        if (total as usize) < size_of::<Ipv4Header>() || NETWORK_OFFSET + total as usize > frame.length() {
            return Err(Reason::InnerMalformed);
        }
        if header.is_fragment() {
            return Err(Reason::InnerFragment);
        }
        Ok(Self {
            source: header.source,
            destination: header.destination,
            ttl: header.ttl,
            protocol: header.protocol,
            payload_bytes: total - size_of::<Ipv4Header>() as u16,
        })
    }
}

/// A TCP segment with flags that a TCP sends.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    /// Source port.
    pub source: u16,
    /// Destination port.
    pub destination: u16,
    /// The kind of segment by its flags.
    pub kind: Kind,
    /// Bytes of the TCP header, 20 to 60.
    pub header_bytes: u16,
}

/// A segment's kind; what nf_conntrack distinguishes (nf_conntrack_proto_tcp.c, `get_conntrack_index`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// SYN without ACK.
    Syn = 0,
    /// SYN and ACK.
    SynAck = 1,
    /// FIN and ACK.
    Fin = 2,
    /// ACK alone.
    Ack = 3,
    /// RST, with or without ACK.
    Rst = 4,
}

/// TCP flags, RFC 9293 section 3.1.
pub mod flag {
    /// No more data from sender.
    pub const FIN: u8 = 0x01;
    /// Synchronize sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset the connection.
    pub const RST: u8 = 0x04;
    /// Push function.
    pub const PSH: u8 = 0x08;
    /// Acknowledgment field significant.
    pub const ACK: u8 = 0x10;
    /// Urgent pointer field significant.
    pub const URG: u8 = 0x20;
}

impl Kind {
    /// The combinations nf_conntrack takes for valid (`tcp_valid_flags`; PSH, ECE and CWR go with
    /// any): SYN, SYN URG, SYN ACK, RST, RST ACK, FIN ACK, FIN ACK URG, ACK, ACK URG.
    #[inline(always)]
    pub const fn of(flags: u8) -> Option<Self> {
        const FIN_ACK: u8 = flag::FIN | flag::ACK;
        const SYN_ACK: u8 = flag::SYN | flag::ACK;
        const RST_ACK: u8 = flag::RST | flag::ACK;
        const URG: u8 = flag::URG;
        match flags & (flag::FIN | flag::SYN | flag::RST | flag::ACK | flag::URG) {
            flag::ACK => Some(Self::Ack),
            0x30 => Some(Self::Ack), // ACK URG
            flag::SYN => Some(Self::Syn),
            0x22 => Some(Self::Syn), // SYN URG
            SYN_ACK => Some(Self::SynAck),
            FIN_ACK => Some(Self::Fin),
            f if f == FIN_ACK | URG => Some(Self::Fin),
            flag::RST | RST_ACK => Some(Self::Rst),
            _ => None,
        }
    }
}

impl Segment {
    /// The segment in this packet; RFC 9293 section 3.1.
    #[inline(always)]
    pub fn parse<F: Frame + ?Sized>(frame: &F, inner: &Inner) -> Result<Self, Reason> {
        if inner.protocol != protocol::TCP {
            return Err(Reason::ProtocolNotAllowed);
        }
        if (inner.payload_bytes as usize) < size_of::<TcpHeader>() {
            return Err(Reason::TcpMalformed);
        }
        let header: TcpHeader = frame.read(TRANSPORT_OFFSET).ok_or(Reason::TcpMalformed)?;
        let header_bytes = u16::from(header.data_offset >> 4) * 4;
        if (header_bytes as usize) < size_of::<TcpHeader>() || header_bytes > inner.payload_bytes {
            return Err(Reason::TcpMalformed);
        }
        let kind = Kind::of(header.flags).ok_or(Reason::TcpFlagsInvalid)?;
        Ok(Self { source: header.source.get(), destination: header.destination.get(), kind, header_bytes })
    }
}

/// The frame's EtherType in host byte order.
#[inline(always)]
pub fn ethertype_of<F: Frame + ?Sized>(frame: &F) -> Option<u16> {
    frame.read::<Be16>(12).map(Be16::get)
}

/// Room for TCP options, which take at most 40 bytes: the next power of two.
pub const OPTIONS_BUFFER_BYTES: usize = 64;

/// Where the value of the MSS option stands in these TCP options, of which `length` bytes count,
/// and the value; RFC 9293 section 3.2. Hostile options end the search.
#[inline(always)]
pub fn find_mss(options: &[u8; OPTIONS_BUFFER_BYTES], length: usize) -> Option<(usize, u16)> {
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    const MSS: u8 = 2;
    const MOST_BYTES: usize = 40;
    let length = length.min(MOST_BYTES);
    let mut at = 0usize;
    // Each round eats a byte at least, so this sees every option there can be.
    for _ in 0..MOST_BYTES {
        let kind = *options.get(at)?;
        if at >= length || kind == END {
            return None;
        }
        if kind == NO_OPERATION {
            at += 1;
            continue;
        }
        let size = *options.get(at + 1)? as usize;
        if size < 2 || at + size > length {
            return None;
        }
        if kind == MSS {
            let value = (*options.get(at + 2)?, *options.get(at + 3)?);
            return (size == 4).then_some((at + 2, u16::from_be_bytes([value.0, value.1])));
        }
        at += size;
    }
    None
}
