//! Requests that open an IKE_SA.
use super::{
    answer::ANSWER_BYTES,
    secret::{Cookie, Origin},
};
use crate::{
    family::{Family, Header},
    wire::{
        Frame, IkeHeader, Ipv4, Ipv6, NotifyHeader, UdpHeader, ethertype, ethertype_of,
        ike::{PORT, VERSION_2, exchange, flag, notify, payload},
        protocol,
    },
};

/// A request that opens an IKE_SA (RFC 7296 section 1.2), to UDP port 500.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Question {
    /// The sender.
    pub origin: Origin,
    /// The first payload, if it is a cookie.
    pub shown: Shown,
    /// The cookie of [`Shown::Cookie`], otherwise 0.
    pub cookie: Cookie,
    /// True if the gateway may answer it with a cookie, see [`question`].
    pub answerable: bool,
}

/// The first payload of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Shown {
    /// Not a cookie. RFC 7296 section 2.6 demands that a cookie be the first payload.
    Nothing = 0,
    /// A cookie of the gateway's length.
    Cookie = 1,
    /// A cookie of another length: charon has asked for it.
    Foreign = 2,
}

/// Reads a request that opens an IKE_SA. Returns `None` for any other packet, for one on port 4500, and for an IP
/// fragment.
///
/// It is answerable only if the answer is shorter, and goes to one host: the sender of a forged request gains
/// nothing by having it answered to somebody else.
#[inline(always)]
pub fn question<F: Frame + ?Sized>(frame: &F) -> Option<Question> {
    match ethertype_of(frame)? {
        ethertype::IPV4 => question_in::<Ipv4, F>(frame),
        ethertype::IPV6 => question_in::<Ipv6, F>(frame),
        _ => None,
    }
}

#[inline(always)]
fn question_in<A: Family, F: Frame + ?Sized>(frame: &F) -> Option<Question> {
    const IKE: usize = size_of::<UdpHeader>();
    const FIRST_PAYLOAD: usize = IKE + size_of::<IkeHeader>();
    let header = A::header(frame).ok()?;
    if header.protocol != protocol::UDP || header.is_fragment() {
        return None;
    }
    let udp: UdpHeader = header.payload(frame, 0).ok()?;
    let ike: IkeHeader = header.payload(frame, IKE).ok()?;
    let opens = ike.version >> 4 == VERSION_2 >> 4
        && ike.exchange == exchange::IKE_SA_INIT
        && ike.flags & flag::RESPONSE == 0;
    if udp.destination.get() != PORT || !opens {
        return None;
    }
    let address = header.source.mapped();
    let origin = Origin { address, spi: ike.initiator_spi, port: udp.source.get() };
    let first = ike.flags & flag::INITIATOR != 0
        && ike.initiator_spi[0] | ike.initiator_spi[1] != 0
        && ike.responder_spi[0] | ike.responder_spi[1] | ike.message_id.get() == 0;
    let answerable = first
        && header.payload_bytes as usize > IKE + ANSWER_BYTES
        && udp.source.get() != 0
        && is_host(address)
        && goes_to_one_station(frame);
    let mut question = Question { origin, shown: Shown::Nothing, cookie: Cookie::default(), answerable };
    if let Some((shown, cookie)) = shown(frame, &header, FIRST_PAYLOAD, ike.next_payload) {
        (question.shown, question.cookie) = (shown, cookie);
    }
    Some(question)
}

/// Reads the first payload, if it is a cookie.
#[inline(always)]
fn shown<A, F: Frame + ?Sized>(
    frame: &F,
    header: &Header<A>,
    at: usize,
    first: u8,
) -> Option<(Shown, Cookie)> {
    const BYTES: u16 = (size_of::<NotifyHeader>() + size_of::<Cookie>()) as u16;
    if first != payload::NOTIFY {
        return None;
    }
    let notify: NotifyHeader = header.payload(frame, at).ok()?;
    if notify.kind.get() != notify::COOKIE || notify.spi_bytes != 0 {
        return None;
    }
    if notify.length.get() != BYTES {
        return Some((Shown::Foreign, Cookie::default()));
    }
    Some((Shown::Cookie, header.payload(frame, at + size_of::<NotifyHeader>()).ok()?))
}

/// Returns false for addresses that no host on the internet has: this network, loopback, multicast and reserved
/// ones (RFC 6890).
#[inline(always)]
fn is_host(address: Ipv6) -> bool {
    let [a, b, c, d] = address.words().map(u32::from_be);
    if a | b == 0 && c == 0xffff {
        let first = d >> 24;
        return first != 0 && first != 127 && first < 224;
    }
    a >> 24 != 0xff && !(a | b | c == 0 && d <= 1)
}

/// Returns false for a frame to a group of stations (IEEE 802.3): an answer would come from the group's address.
#[inline(always)]
fn goes_to_one_station<F: Frame + ?Sized>(frame: &F) -> bool {
    frame.read::<u8>(0).is_some_and(|first| first & 1 == 0)
}
