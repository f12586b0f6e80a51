//! The fast path's view of a packet: plain TCP, which nearly every packet is, read in place word by word.
use core::marker::PhantomData;

use super::{
    options::TIMESTAMP_ALONE,
    segment::{Kind, flag},
};
use crate::{
    family::Family,
    seq::Seq,
    wire::{Frame, Ipv4, Ipv6, NETWORK_OFFSET, TcpHeader, Words, protocol},
};

/// A family whose plain TCP packets can be read word by word.
pub trait FastFamily: Family {
    /// Returns the frame's TCP packet if it is of this family, whole, without IP options, with a correct
    /// header, and directly readable. With `exact`, the frame must also end with the packet. `None` does not mean
    /// that the packet is malformed: [`Family::header`] decides that.
    fn tcp<F: Frame + ?Sized>(frame: &F, exact: bool) -> Option<FastPacket<Self, impl Words>>;
    /// Reads the IP header of such a packet.
    fn tcp_header<W: Words>(words: &W) -> FastHeader<Self>;
}

/// A whole TCP packet without IP options or extension headers, in its frame.
#[derive(Clone, Copy, Debug)]
pub struct FastPacket<A, W> {
    /// From the EtherType, which is the second half of the first word, to the TCP header.
    words: W,
    family: PhantomData<A>,
}

/// The IP header of a [`FastPacket`]. Most callers use a part of it, and only that part is read.
#[derive(Clone, Copy, Debug)]
pub struct FastHeader<A> {
    /// Source address.
    pub source: A,
    /// Destination address.
    pub destination: A,
    /// TTL or hop limit.
    pub hop_limit: u32,
    /// Bytes of the TCP header and its data.
    pub payload_bytes: u32,
}

impl<A: FastFamily, W: Words> FastPacket<A, W> {
    /// Returns the IP header.
    #[inline(always)]
    pub fn head(&self) -> FastHeader<A> {
        A::tcp_header(&self.words)
    }

    /// Source port.
    #[inline(always)]
    pub fn source_port(&self) -> u32 {
        self.word(PORTS) >> 16
    }

    /// Destination port.
    #[inline(always)]
    pub fn destination_port(&self) -> u32 {
        self.word(PORTS) & 0xffff
    }

    /// Sequence number.
    #[inline(always)]
    pub fn sequence(&self) -> Seq {
        Seq(self.word(SEQUENCE))
    }

    /// Acknowledgment number.
    #[inline(always)]
    pub fn acknowledgment(&self) -> Seq {
        Seq(self.word(ACKNOWLEDGMENT))
    }

    /// Window, unscaled.
    #[inline(always)]
    pub fn window(&self) -> u32 {
        self.word(HEAD) & 0xffff
    }

    /// Returns true if [`crate::packet::Segment::parse`] accepts the TCP header.
    #[inline(always)]
    pub fn is_segment(&self) -> bool {
        let head = self.word(HEAD);
        let header_bytes = (head >> 28) * 4;
        header_bytes >= TCP_HEADER_BYTES
            && header_bytes <= self.head().payload_bytes
            && Kind::of((head >> 16) as u8).is_some()
    }

    /// Returns a word of the TCP header, host byte order.
    #[inline(always)]
    fn word(&self, index: usize) -> u32 {
        self.words.get(IP + A::HEADER_BYTES / 4 + index)
    }
}

/// A segment with ACK but without SYN, FIN, RST, URG, and without options other than a timestamp.
#[derive(Clone, Copy, Debug)]
pub struct FastSegment<'a, A, W> {
    /// Bytes of its TCP header.
    pub header_bytes: u32,
    pub(crate) tcp: &'a FastPacket<A, W>,
}

impl<'a, A: FastFamily, W: Words> FastSegment<'a, A, W> {
    /// Returns the packet's segment; `None` for every other kind of segment and for malformed ones.
    #[inline(always)]
    pub fn of<F: Frame + ?Sized>(frame: &F, tcp: &'a FastPacket<A, W>) -> Option<Self> {
        const TIMESTAMP_BYTES: u32 = 12;
        /// The word of data offset, flags and window: RFC 9293 section 3.1.
        const fn head(data_offset: u32, flags: u8) -> u32 {
            (data_offset << 28) | ((flags as u32) << 16)
        }
        const MASK: u32 = head(15, flag::FIN | flag::SYN | flag::RST | flag::ACK | flag::URG);
        const WITHOUT_OPTIONS: u32 = head(5, flag::ACK);
        const WITH_TIMESTAMP: u32 = head(8, flag::ACK);
        let header_bytes = match tcp.word(HEAD) & MASK {
            WITHOUT_OPTIONS => TCP_HEADER_BYTES,
            WITH_TIMESTAMP => {
                let at = NETWORK_OFFSET + A::HEADER_BYTES + size_of::<TcpHeader>();
                let header_bytes = TCP_HEADER_BYTES + TIMESTAMP_BYTES;
                if header_bytes > tcp.head().payload_bytes || frame.read::<[u8; 4]>(at)? != TIMESTAMP_ALONE {
                    return None;
                }
                header_bytes
            }
            _ => return None,
        };
        Some(Self { header_bytes, tcp })
    }
}

const TCP_HEADER_BYTES: u32 = size_of::<TcpHeader>() as u32;

/// Index of the IP header's first word in a [`FastPacket`].
const IP: usize = 1;
/// Offset of those words in a frame.
const WORDS_OFFSET: usize = NETWORK_OFFSET - 4 * IP;

/// Word of the TCP header (RFC 9293 section 3.1): both ports.
const PORTS: usize = 0;
/// Word of the TCP header: sequence number.
const SEQUENCE: usize = 1;
/// Word of the TCP header: acknowledgment number.
const ACKNOWLEDGMENT: usize = 2;
/// Word of the TCP header: data offset, flags and window.
const HEAD: usize = 3;

impl FastFamily for Ipv4 {
    #[inline(always)]
    fn tcp<F: Frame + ?Sized>(frame: &F, exact: bool) -> Option<FastPacket<Self, impl Words>> {
        const HEADERS_BYTES: usize = Ipv4::HEADER_BYTES + size_of::<TcpHeader>();
        let words = frame.words::<{ IP + HEADERS_BYTES / 4 }>(WORDS_OFFSET)?;
        let total = (words.get(IP) & 0xffff) as usize;
        let plain = words.get(0) & 0xffff == u32::from(Self::ETHERTYPE)
            && words.get(IP) >> 24 == 0x45
            && words.get(IP + 1) & 0x3fff == 0
            && words.get(IP + 2) >> 16 & 0xff == u32::from(protocol::TCP);
        let length = frame.length();
        if !plain
            || total < HEADERS_BYTES
            || !ends(NETWORK_OFFSET + total, length, exact)
            || !sum_fits(&words)
        {
            return None;
        }
        Some(FastPacket { words, family: PhantomData })
    }

    #[inline(always)]
    fn tcp_header<W: Words>(words: &W) -> FastHeader<Self> {
        FastHeader {
            source: Self::from_word(words.raw(IP + 3)),
            destination: Self::from_word(words.raw(IP + 4)),
            hop_limit: words.get(IP + 2) >> 24,
            payload_bytes: (words.get(IP) & 0xffff) - Self::HEADER_BYTES as u32,
        }
    }
}

impl FastFamily for Ipv6 {
    #[inline(always)]
    fn tcp<F: Frame + ?Sized>(frame: &F, exact: bool) -> Option<FastPacket<Self, impl Words>> {
        const TCP_BYTES: usize = size_of::<TcpHeader>();
        let words = frame.words::<{ IP + (Ipv6::HEADER_BYTES + TCP_BYTES) / 4 }>(WORDS_OFFSET)?;
        let payload = (words.get(IP + 1) >> 16) as usize;
        let plain = words.get(0) & 0xffff == u32::from(Self::ETHERTYPE)
            && words.get(IP) >> 28 == 6
            && words.get(IP + 1) >> 8 & 0xff == u32::from(protocol::TCP);
        let end = NETWORK_OFFSET + Self::HEADER_BYTES + payload;
        if !plain || payload < TCP_BYTES || !ends(end, frame.length(), exact) {
            return None;
        }
        Some(FastPacket { words, family: PhantomData })
    }

    #[inline(always)]
    fn tcp_header<W: Words>(words: &W) -> FastHeader<Self> {
        let address = |at: usize| [0, 1, 2, 3].map(|word| words.raw(at + word));
        FastHeader {
            source: Self::from_words(address(IP + 2)),
            destination: Self::from_words(address(IP + 6)),
            hop_limit: words.get(IP + 1) & 0xff,
            payload_bytes: words.get(IP + 1) >> 16,
        }
    }
}

/// Returns true if a packet that ends at `end` is in its frame of `length` bytes, or with `exact`, fills it.
#[inline(always)]
fn ends(end: usize, length: usize, exact: bool) -> bool {
    if exact { end == length } else { end <= length }
}

/// Returns true if the checksum of the IPv4 header among these words is correct: the one's complement sum
/// of the header is then 0xffff (RFC 1071). Byte order does not matter.
#[inline(always)]
fn sum_fits<W: Words>(words: &W) -> bool {
    let sum: u64 = [0, 1, 2, 3, 4].map(|word: usize| u64::from(words.raw(IP + word))).iter().sum();
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    // At most 17 bits; the carry is still to be added.
    let sum = (sum & 0xffff) + (sum >> 16);
    sum == 0xffff || sum == 0x1_fffe
}
