//! The way from a site's packet to its server's MAC address: the kernel's neighbour table once a second for
//! each server and CPU, and what it said meanwhile. The packet that asks goes by the neighbour table itself,
//! which so keeps finding out whether the server is still there (FACTS 27).
use aya_ebpf::{
    bindings::{BPF_FIB_LKUP_RET_SUCCESS, BPF_FIB_LOOKUP_OUTPUT, bpf_fib_lookup as Lookup, bpf_redir_neigh},
    helpers::{bpf_fib_lookup, bpf_redirect, bpf_redirect_neigh},
};
use gateway_common::{
    family::Family,
    layout::{Counters, Hook, NextHop, Settings},
    reason::Reason,
    time::Ticks,
    wire::{Ipv4, Ipv6, NETWORK_OFFSET},
};

use crate::{
    access::{Direct, Skb},
    act,
};

/// What sending a packet on needs of its address family.
pub trait Routed: Family {
    /// Where its customer's server is.
    fn known(counters: &mut Counters) -> &mut NextHop<Self>;
    /// A frame up to the end of its IP header.
    fn headers(skb: Skb) -> Option<Headers>;
    /// Writes the packet's TTL or hop limit, less 1; the decision saw more than 1.
    fn lower_hop_limit(headers: &Headers);
    /// The packet's destination.
    fn destination(headers: &Headers) -> Self;
    /// An address as next hop.
    fn next_hop(server: Self) -> bpf_redir_neigh;
    /// The question for the way to an address.
    fn ask(server: Self, question: &mut Lookup);
    /// Where that goes on the link itself.
    fn answer(answer: &Lookup) -> Self;
}

/// Where a frame begins that holds Ethernet and IP header; bytes from there on are within bounds. A frame
/// begins 2 bytes after a word (NET_IP_ALIGN).
#[derive(Clone, Copy)]
pub struct Headers(*mut u8);

/// Sends a packet to its destination, which is on the LAN.
#[inline(always)]
pub fn redirect<A: Routed>(skb: Skb, settings: &Settings, counters: &mut Counters, now: Ticks) -> i32 {
    let Some(headers) = A::headers(skb) else {
        return act::dropped(skb, Hook::InternetIngress, Reason::InnerMalformed);
    };
    A::lower_hop_limit(&headers);
    let server = A::destination(&headers);
    let known = A::known(counters);
    if !known.is_valid_for(server, now) {
        return ask::<A>(skb, settings.lan_ifindex, server, known, now);
    }
    // SAFETY: within bounds; 16 bits at a time, as neither a frame nor a NextHop aligns MAC addresses to more.
    unsafe {
        *headers.0.cast::<[u16; 6]>() = *(&raw const known.destination).cast::<[u16; 6]>();
        // The helper does as it is told.
        bpf_redirect(settings.lan_ifindex, 0) as i32
    }
}

/// By the kernel's neighbour table, and notes what that says. A function of its own, so that it takes no room
/// on the caller's stack.
#[inline(never)]
fn ask<A: Routed>(skb: Skb, lan_ifindex: u32, server: A, known: &mut NextHop<A>, now: Ticks) -> i32 {
    // SAFETY: zero is a valid value of a C structure of integers.
    let mut question: Lookup = unsafe { core::mem::zeroed() };
    question.ifindex = lan_ifindex;
    A::ask(server, &mut question);
    // SAFETY: pointer and size are those of `question`.
    let answer = unsafe {
        bpf_fib_lookup(skb.raw().cast(), &raw mut question, size_of::<Lookup>() as i32, BPF_FIB_LOOKUP_OUTPUT)
    };
    // Behind a router there is nobody whom a site may speak to.
    if answer == BPF_FIB_LKUP_RET_SUCCESS as i64
        && question.ifindex == lan_ifindex
        && A::answer(&question) == server
    {
        // SAFETY: the kernel wrote these when it found a neighbour.
        let macs = unsafe { question.__bindgen_anon_6.__bindgen_anon_2 };
        *known = NextHop { address: server, asked: now, destination: macs.dmac, source: macs.smac };
    }
    let mut next_hop = A::next_hop(server);
    // SAFETY: pointer and size are those of `next_hop`.
    unsafe {
        bpf_redirect_neigh(lan_ifindex, &raw mut next_hop, size_of::<bpf_redir_neigh>() as i32, 0) as i32
    }
}

impl Routed for Ipv4 {
    #[inline(always)]
    fn known(counters: &mut Counters) -> &mut NextHop<Self> {
        &mut counters.next_hop_v4
    }

    #[inline(always)]
    fn headers(skb: Skb) -> Option<Headers> {
        const BYTES: usize = NETWORK_OFFSET + Ipv4::HEADER_BYTES;
        Some(Headers(skb.bytes_mut::<BYTES>(0)?.cast()))
    }

    /// RFC 1812 section 5.3.1, and the checksum as RFC 1624 has it.
    #[inline(always)]
    fn lower_hop_limit(headers: &Headers) {
        const TTL_OFFSET: usize = NETWORK_OFFSET + 8;
        // SAFETY: within bounds: TTL, protocol, checksum (2), in a 16-bit word each, which the IP header's
        // alignment allows.
        unsafe {
            let ttl = headers.0.add(TTL_OFFSET);
            *ttl = (*ttl).wrapping_sub(1);
            let checksum = ttl.add(2).cast::<u16>();
            let sum = u32::from(u16::from_be(*checksum)) + 0x0100;
            // As the kernel's ip_decrease_ttl: a sum of 0xffff is written as 0.
            *checksum = ((sum + u32::from(sum >= 0xffff)) as u16).to_be();
        }
    }

    #[inline(always)]
    fn destination(headers: &Headers) -> Self {
        // SAFETY: within bounds, and a word of the IP header.
        unsafe { *headers.0.add(NETWORK_OFFSET + 16).cast() }
    }

    #[inline(always)]
    fn next_hop(server: Self) -> bpf_redir_neigh {
        // SAFETY: zero is a valid value of a C structure of integers.
        let mut next_hop: bpf_redir_neigh = unsafe { core::mem::zeroed() };
        next_hop.nh_family = Self::LINUX;
        next_hop.__bindgen_anon_1.ipv4_nh = server.word();
        next_hop
    }

    #[inline(always)]
    fn ask(server: Self, question: &mut Lookup) {
        question.family = Self::LINUX as u8;
        question.__bindgen_anon_4.ipv4_dst = server.word();
    }

    #[inline(always)]
    fn answer(answer: &Lookup) -> Self {
        // SAFETY: the kernel writes this field for this family.
        Self::from_word(unsafe { answer.__bindgen_anon_4.ipv4_dst })
    }
}

impl Routed for Ipv6 {
    #[inline(always)]
    fn known(counters: &mut Counters) -> &mut NextHop<Self> {
        &mut counters.next_hop_v6
    }

    #[inline(always)]
    fn headers(skb: Skb) -> Option<Headers> {
        const BYTES: usize = NETWORK_OFFSET + Ipv6::HEADER_BYTES;
        Some(Headers(skb.bytes_mut::<BYTES>(0)?.cast()))
    }

    /// RFC 8200 section 3; no checksum covers it.
    #[inline(always)]
    fn lower_hop_limit(headers: &Headers) {
        const HOP_LIMIT_OFFSET: usize = NETWORK_OFFSET + 7;
        // SAFETY: within bounds.
        unsafe {
            let hop_limit = headers.0.add(HOP_LIMIT_OFFSET);
            *hop_limit = (*hop_limit).wrapping_sub(1);
        }
    }

    #[inline(always)]
    fn destination(headers: &Headers) -> Self {
        // SAFETY: within bounds, and words of the IP header.
        Self::from_words(unsafe { *headers.0.add(NETWORK_OFFSET + 24).cast() })
    }

    #[inline(always)]
    fn next_hop(server: Self) -> bpf_redir_neigh {
        // SAFETY: zero is a valid value of a C structure of integers.
        let mut next_hop: bpf_redir_neigh = unsafe { core::mem::zeroed() };
        next_hop.nh_family = Self::LINUX;
        next_hop.__bindgen_anon_1.ipv6_nh = server.words();
        next_hop
    }

    #[inline(always)]
    fn ask(server: Self, question: &mut Lookup) {
        question.family = Self::LINUX as u8;
        question.__bindgen_anon_4.ipv6_dst = server.words();
    }

    #[inline(always)]
    fn answer(answer: &Lookup) -> Self {
        // SAFETY: the kernel writes this field for this family.
        Self::from_words(unsafe { answer.__bindgen_anon_4.ipv6_dst })
    }
}
