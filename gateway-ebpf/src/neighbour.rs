//! The way from a site's packet to its server's MAC address: the kernel's neighbour table once a second for
//! each server and CPU, and what it said meanwhile. The packet that asks goes by the neighbour table itself,
//! which so keeps finding out whether the server is still there (FACTS 27).
use aya_ebpf::{
    bindings::{BPF_FIB_LKUP_RET_SUCCESS, BPF_FIB_LOOKUP_OUTPUT, bpf_fib_lookup as Lookup, bpf_redir_neigh},
    helpers::{bpf_fib_lookup, bpf_redirect, bpf_redirect_neigh},
};
use gateway_common::{
    family::Family,
    layout::{Counters, Hook, NextHop, Settings, Ticks},
    reason::Reason,
    wire::{Frame, Ipv4, Ipv4Header, Ipv6, Ipv6Header, NETWORK_OFFSET},
};

use crate::{
    access::{Direct, Skb},
    act,
};

/// The packet's header cannot be read: no action of the kernel's.
const NOT_ASKED: i32 = -2;

/// What sending a packet on needs of its address family.
pub trait Routed: Family {
    /// Which of [`Counters::next_hops`].
    const SLOT: usize;
    /// Writes the packet's TTL or hop limit, less 1; the decision saw more than 1.
    fn lower_hop_limit(frame: &Direct) -> Option<()>;
    /// The packet's destination as next hop.
    fn next_hop(frame: &Direct, next_hop: &mut bpf_redir_neigh) -> Option<()>;
    /// The question for the way to the packet's destination.
    fn ask(frame: &Direct, question: &mut Lookup) -> Option<()>;
    /// True if that is on the link itself, not behind a router.
    fn is_on_link(frame: &Direct, answer: &Lookup) -> bool;
}

/// Sends a packet to its destination, which is on the LAN.
#[inline(always)]
pub fn redirect<A: Routed>(skb: Skb, settings: &Settings, counters: &mut Counters, now: Ticks) -> i32 {
    let known = &mut counters.next_hops[A::SLOT];
    if !known.holds(now) {
        return match ask::<A>(skb, settings.lan_ifindex, known, now) {
            NOT_ASKED => act::dropped(&skb.frame(), Hook::InternetIngress, Reason::InnerMalformed),
            action => action,
        };
    }
    const MAC_ADDRESSES: usize = 0;
    let Some(addresses) = skb.frame().bytes_mut::<12>(MAC_ADDRESSES) else {
        return act::dropped(&skb.frame(), Hook::InternetIngress, Reason::InnerMalformed);
    };
    // SAFETY: `bytes_mut` checked the bounds; a frame begins 2 bytes after a word (NET_IP_ALIGN), as the MAC
    // addresses in NextHop do not, hence 16 bits at a time.
    unsafe {
        let (to, from) = (addresses.cast::<[u16; 6]>(), (&raw const known.destination).cast::<[u16; 6]>());
        *to = *from;
        // The helper does as it is told.
        bpf_redirect(settings.lan_ifindex, 0) as i32
    }
}

/// By the kernel's neighbour table, and notes what that says. A function of its own, so that it takes no room
/// on the caller's stack. [`NOT_ASKED`] if the header cannot be read.
#[inline(never)]
fn ask<A: Routed>(skb: Skb, lan_ifindex: u32, known: &mut NextHop, now: Ticks) -> i32 {
    let frame = &skb.frame();
    // SAFETY: zero is a valid value of C structures of integers.
    let (mut question, mut next_hop): (Lookup, bpf_redir_neigh) = unsafe { core::mem::zeroed() };
    question.ifindex = lan_ifindex;
    if A::ask(frame, &mut question).is_none() || A::next_hop(frame, &mut next_hop).is_none() {
        return NOT_ASKED;
    }
    // SAFETY: pointer and size are those of `question`.
    let answer = unsafe {
        bpf_fib_lookup(skb.raw().cast(), &raw mut question, size_of::<Lookup>() as i32, BPF_FIB_LOOKUP_OUTPUT)
    };
    if answer == BPF_FIB_LKUP_RET_SUCCESS as i64
        && question.ifindex == lan_ifindex
        && A::is_on_link(frame, &question)
    {
        // SAFETY: the kernel wrote these when it found a neighbour.
        let macs = unsafe { question.__bindgen_anon_6.__bindgen_anon_2 };
        *known = NextHop { asked: now, destination: macs.dmac, source: macs.smac };
    }
    // SAFETY: pointer and size are those of `next_hop`.
    unsafe {
        bpf_redirect_neigh(lan_ifindex, &raw mut next_hop, size_of::<bpf_redir_neigh>() as i32, 0) as i32
    }
}

impl Routed for Ipv4 {
    const SLOT: usize = 0;

    /// RFC 1812 section 5.3.1, and the checksum as RFC 1624 has it.
    #[inline(always)]
    fn lower_hop_limit(frame: &Direct) -> Option<()> {
        const TTL_OFFSET: usize = NETWORK_OFFSET + 8;
        let at = frame.bytes_mut::<4>(TTL_OFFSET)?;
        // SAFETY: `bytes_mut` checked the bounds: TTL, protocol, checksum (2), in a 16-bit word each, which
        // the IP header's alignment allows.
        unsafe {
            (*at)[0] = (*at)[0].wrapping_sub(1);
            let checksum = (&raw mut (*at)[2]).cast::<u16>();
            let sum = u32::from(u16::from_be(*checksum)) + 0x0100;
            // As the kernel's ip_decrease_ttl: a sum of 0xffff is written as 0.
            *checksum = ((sum + u32::from(sum >= 0xffff)) as u16).to_be();
        }
        Some(())
    }

    #[inline(always)]
    fn next_hop(frame: &Direct, next_hop: &mut bpf_redir_neigh) -> Option<()> {
        next_hop.nh_family = Self::LINUX;
        next_hop.__bindgen_anon_1.ipv4_nh = u32::from_ne_bytes(destination_v4(frame)?.octets);
        Some(())
    }

    #[inline(always)]
    fn ask(frame: &Direct, question: &mut Lookup) -> Option<()> {
        question.family = Self::LINUX as u8;
        question.__bindgen_anon_4.ipv4_dst = u32::from_ne_bytes(destination_v4(frame)?.octets);
        Some(())
    }

    #[inline(always)]
    fn is_on_link(frame: &Direct, answer: &Lookup) -> bool {
        // SAFETY: the kernel writes this field for this family.
        let next_hop = unsafe { answer.__bindgen_anon_4.ipv4_dst };
        destination_v4(frame).is_some_and(|destination| u32::from_ne_bytes(destination.octets) == next_hop)
    }
}

impl Routed for Ipv6 {
    const SLOT: usize = 1;

    /// RFC 8200 section 3; no checksum covers it.
    #[inline(always)]
    fn lower_hop_limit(frame: &Direct) -> Option<()> {
        const HOP_LIMIT_OFFSET: usize = NETWORK_OFFSET + 7;
        let at = frame.bytes_mut::<1>(HOP_LIMIT_OFFSET)?;
        // SAFETY: `bytes_mut` checked the bounds.
        unsafe { *at = [(*at)[0].wrapping_sub(1)] };
        Some(())
    }

    #[inline(always)]
    fn next_hop(frame: &Direct, next_hop: &mut bpf_redir_neigh) -> Option<()> {
        next_hop.nh_family = Self::LINUX;
        next_hop.__bindgen_anon_1.ipv6_nh = destination_v6(frame)?.words();
        Some(())
    }

    #[inline(always)]
    fn ask(frame: &Direct, question: &mut Lookup) -> Option<()> {
        question.family = Self::LINUX as u8;
        question.__bindgen_anon_4.ipv6_dst = destination_v6(frame)?.words();
        Some(())
    }

    #[inline(always)]
    fn is_on_link(frame: &Direct, answer: &Lookup) -> bool {
        // SAFETY: the kernel writes this field for this family.
        let next_hop = unsafe { answer.__bindgen_anon_4.ipv6_dst };
        destination_v6(frame).is_some_and(|destination| destination == Ipv6::from_words(next_hop))
    }
}

#[inline(always)]
fn destination_v4(frame: &Direct) -> Option<Ipv4> {
    Some(frame.read::<Ipv4Header>(NETWORK_OFFSET)?.destination)
}

#[inline(always)]
fn destination_v6(frame: &Direct) -> Option<Ipv6> {
    Some(frame.read::<Ipv6Header>(NETWORK_OFFSET)?.destination)
}
