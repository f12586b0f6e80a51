//! The answer to a request without a valid cookie: an IKE_SA_INIT response that holds nothing but a cookie (RFC 7296
//! section 2.6).
use super::secret::{Cookie, Origin};
use crate::{
    family::Family,
    wire::{
        Be16, Be32, IkeHeader, Ipv4, Ipv4Header, Ipv6, Ipv6Header, NotifyHeader, UdpHeader, Wire,
        ike::{PORT, VERSION_2, exchange, flag, notify, payload},
        protocol,
    },
};

/// Bytes of the answer behind the UDP header.
pub const ANSWER_BYTES: usize = size_of::<Message>();

/// An answer's packet, from the IP header on.
#[derive(Clone, Copy)]
#[repr(C, align(4))]
pub struct Answer<H> {
    ip: H,
    datagram: Datagram,
}

#[derive(Clone, Copy)]
#[repr(C, align(4))]
struct Datagram {
    udp: UdpHeader,
    message: Message,
}

#[derive(Clone, Copy)]
#[repr(C, align(4))]
struct Message {
    ike: IkeHeader,
    notify: NotifyHeader,
    cookie: Cookie,
}

/// An address family, and the IP header of its answers.
pub trait AnswerFamily: Family {
    /// The header.
    type Header: Wire;
    /// Returns the header of a UDP packet with this many bytes behind it.
    fn answer_header(source: Self, destination: Self, payload_bytes: u16) -> Self::Header;
    /// Returns the sum of an address's words, in memory order.
    fn sum(self) -> u64;
}

impl<H: Wire> Answer<H> {
    /// Builds the answer to a request from `origin`, whose IP header had these addresses.
    #[inline(always)]
    pub fn new<A: AnswerFamily<Header = H>>(
        source: A,
        destination: A,
        origin: &Origin,
        cookie: Cookie,
    ) -> Self {
        const BYTES: u16 = size_of::<Datagram>() as u16;
        let (from, to) = (destination, source);
        let mut datagram = Datagram {
            udp: UdpHeader {
                source: Be16::new(PORT),
                destination: Be16::new(origin.port),
                length: Be16::new(BYTES),
                checksum: Be16::new(0),
            },
            message: message(origin.spi, cookie),
        };
        // The pseudo-header of RFC 768 and RFC 8200 section 8.1: addresses, length and protocol.
        let pseudo = from.sum() + to.sum() + u64::from((u32::from(BYTES) + u32::from(protocol::UDP)).to_be());
        let sum = folded(pseudo + datagram.sum());
        // RFC 768: 0 stands for no checksum.
        datagram.udp.checksum = Be16::from_raw(if sum == 0xffff { sum } else { !sum });
        Self { ip: A::answer_header(from, to, BYTES), datagram }
    }
}

#[inline(always)]
fn message(initiator_spi: [u32; 2], cookie: Cookie) -> Message {
    const NOTIFY_BYTES: u16 = (size_of::<NotifyHeader>() + size_of::<Cookie>()) as u16;
    Message {
        ike: IkeHeader {
            initiator_spi,
            // "the responder's SPI will be zero" (RFC 7296 section 2.6).
            responder_spi: [0; 2],
            next_payload: payload::NOTIFY,
            version: VERSION_2,
            exchange: exchange::IKE_SA_INIT,
            flags: flag::RESPONSE,
            message_id: Be32::new(0),
            length: Be32::new(ANSWER_BYTES as u32),
        },
        notify: NotifyHeader {
            next_payload: payload::NONE,
            critical: 0,
            length: Be16::new(NOTIFY_BYTES),
            protocol: 0,
            spi_bytes: 0,
            kind: Be16::new(notify::COOKIE),
        },
        cookie,
    }
}

impl Datagram {
    /// Returns the sum of the words, in memory order.
    #[inline(always)]
    fn sum(&self) -> u64 {
        const WORDS: usize = size_of::<Datagram>() / 4;
        // SAFETY: same size and alignment, no padding (asserted below).
        let words: &[u32; WORDS] = unsafe { &*(&raw const *self).cast() };
        let (mut sum, mut i) = (0, 0);
        while i < WORDS {
            sum += u64::from(words[i]);
            i += 1;
        }
        sum
    }
}

impl AnswerFamily for Ipv4 {
    type Header = Ipv4Header;

    #[inline(always)]
    fn answer_header(source: Self, destination: Self, payload_bytes: u16) -> Ipv4Header {
        let mut header = Ipv4Header {
            version_length: 0x45,
            traffic_class: 0,
            total_length: Be16::new(Self::HEADER_BYTES as u16 + payload_bytes),
            identification: Be16::new(0),
            // Don't fragment: the identification is the same for all (RFC 6864 section 4.1).
            fragment: Be16::new(0x4000),
            ttl: HOPS,
            protocol: protocol::UDP,
            checksum: Be16::new(0),
            source,
            destination,
        };
        header.checksum = Be16::from_raw(!(header.sum() as u16));
        header
    }

    #[inline(always)]
    fn sum(self) -> u64 {
        u64::from(self.word())
    }
}

impl AnswerFamily for Ipv6 {
    type Header = Ipv6Header;

    #[inline(always)]
    fn answer_header(source: Self, destination: Self, payload_bytes: u16) -> Ipv6Header {
        Ipv6Header {
            version: 0x60,
            flow_label: [0; 3],
            payload_length: Be16::new(payload_bytes),
            next_header: protocol::UDP,
            hop_limit: HOPS,
            source,
            destination,
        }
    }

    #[inline(always)]
    fn sum(self) -> u64 {
        let [a, b, c, d] = self.words();
        u64::from(a) + u64::from(b) + u64::from(c) + u64::from(d)
    }
}

/// TTL and hop limit of answers, as of everything that Linux sends.
const HOPS: u8 = 64;

/// Folds a sum of 32-bit words into 16 bits (RFC 1071 section 1).
#[inline(always)]
const fn folded(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

// SAFETY: repr(C), integers only and no padding (see the sizes below), so any bytes are a value (`Wire`).
unsafe impl<H: Wire> Wire for Answer<H> {}

const _: () = assert!(ANSWER_BYTES == 48 && size_of::<Datagram>() == 8 + ANSWER_BYTES);
const _: () = assert!(size_of::<Answer<Ipv4Header>>() == 76 && size_of::<Answer<Ipv6Header>>() == 96);
