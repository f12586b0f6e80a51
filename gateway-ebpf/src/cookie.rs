//! IKE cookies at the network card, see `gateway_common::outer::cookie`.
use aya_ebpf::bindings::BPF_NOEXIST;
use gateway_common::{
    layout::LayoutFamily,
    outer::{
        Class,
        cookie::{self, Answer, AnswerFamily, Fate, Proof, Proofs, Question, Secrets},
    },
    wire::{ETHERNET_BYTES, Frame as _, Ipv4, Ipv6, NETWORK_OFFSET, ethertype, ethertype_of},
};

use crate::{
    access::Xdp,
    maps::{COOKIES, PROVEN, STRANGERS},
};

/// Decides on a stranger's packet of a class. On [`Fate::Ask`] the packet is the answer afterwards, to be sent back.
/// Out of line: keeps its locals off the caller's 512-byte stack.
#[inline(never)]
pub fn fate(packet: Xdp, subscriber: &Ipv6, class: Class, now_ns: u64) -> Fate {
    let (Some(strangers), Some(secrets)) = (STRANGERS.get_ptr_mut(0), COOKIES.get(0)) else {
        return Fate::Shared;
    };
    let question = if class as u8 == Class::Ike as u8 { cookie::question(&packet) } else { None };
    let mut proofs = Proven { subscriber };
    // SAFETY: this CPU's own slot.
    let strangers = unsafe { &mut *strangers };
    let fate = cookie::fate(question.as_ref(), class, secrets, strangers, &mut proofs, now_ns);
    if fate as u8 != Fate::Ask as u8 {
        return fate;
    }
    let answered = match (question, ethertype_of(&packet)) {
        (Some(question), Some(ethertype::IPV4)) => answer::<Ipv4>(packet, &question, secrets),
        (Some(question), _) => answer::<Ipv6>(packet, &question, secrets),
        _ => false,
    };
    if answered { Fate::Ask } else { Fate::Refuse }
}

/// Turns a request into its answer.
#[inline(always)]
fn answer<A: AnswerFamily + LayoutFamily>(packet: Xdp, question: &Question, secrets: &Secrets) -> bool {
    const ADDRESSES_BYTES: usize = 12;
    let Ok(header) = A::header(&packet) else { return false };
    let Some([a, b, c, d, e, f, rest @ ..]) = packet.read::<[u8; ADDRESSES_BYTES]>(0) else { return false };
    let [g, h, i, j, k, l] = rest;
    let cookie = secrets.cookie(&question.origin);
    let answer = Answer::new(header.source, header.destination, &question.origin, cookie);
    packet.cut(ETHERNET_BYTES + size_of::<Answer<A::Header>>())
        && packet.write(0, [g, h, i, j, k, l, a, b, c, d, e, f])
        && packet.write(NETWORK_OFFSET, answer)
}

/// The proof of one source, an entry of PROVEN.
struct Proven<'a> {
    subscriber: &'a Ipv6,
}

impl Proofs for Proven<'_> {
    #[inline(always)]
    fn get(&mut self) -> Option<&mut Proof> {
        // SAFETY: a live map value. If another CPU changes it at the same time, one packet more passes here.
        PROVEN.get_ptr_mut(self.subscriber).map(|proof| unsafe { &mut *proof })
    }

    #[inline(always)]
    fn add(&mut self) -> Option<&mut Proof> {
        if PROVEN.get_ptr_mut(self.subscriber).is_none() {
            let _ = PROVEN.insert(self.subscriber, &Proof::default(), u64::from(BPF_NOEXIST));
        }
        self.get()
    }
}
