//! IKE cookies (RFC 7296 section 2.6). While strangers send more requests than usual, the gateway's network card
//! answers each request without a valid cookie with one, keeps nothing and charges nobody. Whoever returns the cookie
//! receives what is sent to its address, and is charged to its own budget only, so no number of spoofed sources
//! keeps it out.
mod answer;
mod demand;
mod proof;
mod question;
mod secret;
mod siphash;

pub use self::{
    answer::{ANSWER_BYTES, Answer, AnswerFamily},
    demand::Demand,
    proof::Proof,
    question::{Question, Shown, question},
    secret::{Cookie, Origin, Secrets},
    siphash::{Key, siphash},
};
use super::budget::{Budgets, Class};
use crate::{
    family::{Family, Header},
    wire::{
        Frame, IkeHeader, Ipv4, Ipv6, NotifyHeader, UdpHeader, ethertype, ethertype_of,
        ike::{PORT, exchange, flag, notify, payload},
        protocol,
    },
};

/// The state that all strangers share on one CPU.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct Strangers {
    /// The budget of those without a cookie.
    pub shared: Budgets,
    /// Their requests that open an IKE_SA.
    pub demand: Demand,
    /// Requests answered with a cookie.
    pub asked: u64,
    /// Requests with a valid cookie.
    pub proved: u64,
    /// Requests that charon answered with a cookie of its own.
    pub asked_by_charon: u64,
}

/// The fate of a stranger's IKE packet or fragment at the network card.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Fate {
    /// It is charged to the strangers' shared budget, and to its source's.
    Shared = 0,
    /// It is within its source's budget, and charged to that alone.
    Own = 1,
    /// Its source's budget, the only one that it is charged to, is empty.
    OwnSpent = 2,
    /// It is answered with a cookie, and charged to nobody.
    Ask = 3,
    /// It needs a cookie, and cannot be answered.
    Refuse = 4,
}

/// The sources that have shown a valid cookie.
pub trait Proofs {
    /// Returns the source's proof, valid or not.
    fn get(&mut self) -> Option<&mut Proof>;
    /// Returns the source's proof; adds one if there is none.
    fn add(&mut self) -> Option<&mut Proof>;
}

/// Decides on a stranger's packet of a class. `question` is the packet, if it opens an IKE_SA; `proofs` has its
/// source's proof.
#[inline(always)]
pub fn fate<P: Proofs>(
    question: Option<&Question>,
    class: Class,
    secrets: &Secrets,
    strangers: &mut Strangers,
    proofs: &mut P,
    now_ns: u64,
) -> Fate {
    let Some(question) = question else { return by_proof(proofs, class, now_ns) };
    if !secrets.in_force() {
        return Fate::Shared;
    }
    if question.shown == Shown::Cookie && secrets.accept(question.cookie, &question.origin) {
        strangers.proved = strangers.proved.wrapping_add(1);
        let Some(proof) = proofs.add() else { return Fate::Shared };
        proof.renew(now_ns);
        return charged(proof, class, now_ns);
    }
    if !strangers.demand.count(now_ns) {
        return Fate::Shared;
    }
    // charon may ask for a cookie of its own, after the source has shown ours.
    if question.shown != Shown::Nothing {
        let own = by_proof(proofs, class, now_ns);
        if own != Fate::Shared {
            return own;
        }
    }
    if !question.answerable {
        return Fate::Refuse;
    }
    strangers.asked = strangers.asked.wrapping_add(1);
    Fate::Ask
}

#[inline(always)]
fn by_proof<P: Proofs>(proofs: &mut P, class: Class, now_ns: u64) -> Fate {
    match proofs.get() {
        Some(proof) if proof.is_valid(now_ns) => charged(proof, class, now_ns),
        _ => Fate::Shared,
    }
}

#[inline(always)]
fn charged(proof: &mut Proof, class: Class, now_ns: u64) -> Fate {
    if proof.take(class, now_ns) { Fate::Own } else { Fate::OwnSpent }
}

/// Returns true for a leaving packet with which charon asks for a cookie of its own: a response to the first
/// request whose first payload is one.
#[inline(always)]
pub fn asks_for_cookie<F: Frame + ?Sized>(frame: &F) -> bool {
    match ethertype_of(frame) {
        Some(ethertype::IPV4) => Ipv4::header(frame).is_ok_and(|header| asks(frame, &header)),
        Some(ethertype::IPV6) => Ipv6::header(frame).is_ok_and(|header| asks(frame, &header)),
        _ => false,
    }
}

#[inline(always)]
fn asks<A, F: Frame + ?Sized>(frame: &F, header: &Header<A>) -> bool {
    const IKE: usize = size_of::<UdpHeader>();
    const FIRST_PAYLOAD: usize = IKE + size_of::<IkeHeader>();
    let read = || {
        Some((
            header.payload::<F, UdpHeader>(frame, 0).ok()?,
            header.payload::<F, IkeHeader>(frame, IKE).ok()?,
            header.payload::<F, NotifyHeader>(frame, FIRST_PAYLOAD).ok()?,
        ))
    };
    let Some((udp, ike, first)) = read() else { return false };
    header.protocol == protocol::UDP
        && !header.is_fragment()
        && udp.source.get() == PORT
        && ike.exchange == exchange::IKE_SA_INIT
        && ike.flags & flag::RESPONSE != 0
        && ike.next_payload == payload::NOTIFY
        && first.kind.get() == notify::COOKIE
}

const _: () = assert!(size_of::<Strangers>() == 8 * super::budget::CLASSES + 16 + 24);
