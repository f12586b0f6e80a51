//! Sends a site's packet to its server's MAC address. Asks the kernel's neighbour table once a second for
//! each server and CPU, and uses the cached answer in between. The packet that asks is sent through the
//! neighbour table itself, so the kernel keeps probing whether the server is still there
//! (docs/facts.md: instructions-per-packet).
use aya_ebpf::{
    bindings::{
        BPF_FIB_LKUP_RET_SUCCESS, BPF_FIB_LOOKUP_OUTPUT, bpf_fib_lookup as FibLookup, bpf_redir_neigh,
    },
    helpers::{bpf_fib_lookup, bpf_redirect, bpf_redirect_neigh},
};
use gateway_common::{
    family::Family,
    layout::{Counters, NextHop, Settings},
    reason::Reason,
    time::Ticks,
    wire::{Ipv4, Ipv6, NETWORK_OFFSET},
};

use crate::access::{DirectPacket, Skb};

/// An address family, and how the kernel names and finds a next hop in it.
pub trait FamilyNextHop: Family {
    /// Returns the cached next hop of the customer's server.
    fn cached(counters: &mut Counters) -> &mut NextHop<Self>;
    /// Returns the frame up to the end of its IP header.
    fn headers(skb: Skb) -> Option<Headers>;
    /// Decrements the packet's TTL or hop limit, which the decision saw to be more than 1.
    fn lower_hop_limit(headers: &Headers);
    /// Returns the packet's destination.
    fn destination(headers: &Headers) -> Self;
    /// Returns the argument of `bpf_redirect_neigh` for this address.
    fn redirect_to(server: Self) -> bpf_redir_neigh;
    /// Fills in the destination of a route lookup.
    fn set_destination(lookup: &mut FibLookup, server: Self);
    /// Returns the gateway that a route lookup found, which is the destination if that is on the link.
    fn gateway(lookup: &FibLookup) -> Self;
}

/// The start of a frame whose Ethernet and IP header are within bounds. A frame begins 2 bytes after a word
/// (NET_IP_ALIGN).
#[derive(Clone, Copy)]
pub struct Headers(*mut u8);

/// Redirects a packet to its destination on the LAN. Returns the kernel's action, or the reason to drop it.
#[inline(always)]
pub fn redirect<A: FamilyNextHop>(
    skb: Skb,
    settings: &Settings,
    counters: &mut Counters,
    now: Ticks,
) -> Result<i32, Reason> {
    let Some(headers) = A::headers(skb) else { return Err(Reason::InnerMalformed) };
    A::lower_hop_limit(&headers);
    let server = A::destination(&headers);
    let cached = A::cached(counters);
    if !cached.is_valid_for(server, now) {
        return Ok(resolve::<A>(skb, settings.lan_ifindex, server, cached, now));
    }
    // SAFETY: within bounds; 16 bits at a time, as neither a frame nor a NextHop aligns MAC addresses to more.
    unsafe {
        *headers.0.cast::<[u16; 6]>() = *(&raw const cached.destination).cast::<[u16; 6]>();
        // The helper cannot fail: it only notes the interface.
        Ok(bpf_redirect(settings.lan_ifindex, 0) as i32)
    }
}

/// Redirects through the kernel's neighbour table, and caches the table's answer. Out of line: keeps its
/// locals off the caller's 512-byte stack.
#[inline(never)]
fn resolve<A: FamilyNextHop>(
    skb: Skb,
    lan_ifindex: u32,
    server: A,
    cached: &mut NextHop<A>,
    now: Ticks,
) -> i32 {
    // SAFETY: zero is a valid value of a C structure of integers.
    let mut lookup: FibLookup = unsafe { core::mem::zeroed() };
    lookup.ifindex = lan_ifindex;
    A::set_destination(&mut lookup, server);
    // SAFETY: pointer and size are those of `lookup`.
    let result = unsafe {
        bpf_fib_lookup(
            skb.raw().cast(),
            &raw mut lookup,
            size_of::<FibLookup>() as i32,
            BPF_FIB_LOOKUP_OUTPUT,
        )
    };
    // A server behind a router is not cached: sites may speak only to servers on the LAN itself.
    if result == BPF_FIB_LKUP_RET_SUCCESS as i64
        && lookup.ifindex == lan_ifindex
        && A::gateway(&lookup) == server
    {
        // SAFETY: the kernel wrote these when it found a neighbour.
        let macs = unsafe { lookup.__bindgen_anon_6.__bindgen_anon_2 };
        *cached = NextHop { address: server, asked: now, destination: macs.dmac, source: macs.smac };
    }
    let mut next_hop = A::redirect_to(server);
    // SAFETY: pointer and size are those of `next_hop`.
    unsafe {
        bpf_redirect_neigh(lan_ifindex, &raw mut next_hop, size_of::<bpf_redir_neigh>() as i32, 0) as i32
    }
}

impl FamilyNextHop for Ipv4 {
    #[inline(always)]
    fn cached(counters: &mut Counters) -> &mut NextHop<Self> {
        &mut counters.next_hop_v4
    }

    #[inline(always)]
    fn headers(skb: Skb) -> Option<Headers> {
        const BYTES: usize = NETWORK_OFFSET + Ipv4::HEADER_BYTES;
        Some(Headers(skb.bytes_mut::<BYTES>(0)?.cast()))
    }

    /// Follows RFC 1812 section 5.3.1, and RFC 1624 for the checksum.
    #[inline(always)]
    fn lower_hop_limit(headers: &Headers) {
        const TTL_OFFSET: usize = NETWORK_OFFSET + 8;
        // SAFETY: within bounds: TTL and protocol share one 16-bit word, the checksum is the next, and the IP
        // header's alignment allows both.
        unsafe {
            let ttl = headers.0.add(TTL_OFFSET);
            *ttl = (*ttl).wrapping_sub(1);
            let checksum = ttl.add(2).cast::<u16>();
            let sum = u32::from(u16::from_be(*checksum)) + 0x0100;
            // Writes a sum of 0xffff as 0, like the kernel's ip_decrease_ttl.
            *checksum = ((sum + u32::from(sum >= 0xffff)) as u16).to_be();
        }
    }

    #[inline(always)]
    fn destination(headers: &Headers) -> Self {
        // SAFETY: within bounds, and a word of the IP header.
        unsafe { *headers.0.add(NETWORK_OFFSET + 16).cast() }
    }

    #[inline(always)]
    fn redirect_to(server: Self) -> bpf_redir_neigh {
        // SAFETY: zero is a valid value of a C structure of integers.
        let mut next_hop: bpf_redir_neigh = unsafe { core::mem::zeroed() };
        next_hop.nh_family = Self::LINUX;
        next_hop.__bindgen_anon_1.ipv4_nh = server.word();
        next_hop
    }

    #[inline(always)]
    fn set_destination(lookup: &mut FibLookup, server: Self) {
        lookup.family = Self::LINUX as u8;
        lookup.__bindgen_anon_4.ipv4_dst = server.word();
    }

    #[inline(always)]
    fn gateway(lookup: &FibLookup) -> Self {
        // SAFETY: the kernel writes this field for this family.
        Self::from_word(unsafe { lookup.__bindgen_anon_4.ipv4_dst })
    }
}

impl FamilyNextHop for Ipv6 {
    #[inline(always)]
    fn cached(counters: &mut Counters) -> &mut NextHop<Self> {
        &mut counters.next_hop_v6
    }

    #[inline(always)]
    fn headers(skb: Skb) -> Option<Headers> {
        const BYTES: usize = NETWORK_OFFSET + Ipv6::HEADER_BYTES;
        Some(Headers(skb.bytes_mut::<BYTES>(0)?.cast()))
    }

    /// Follows RFC 8200 section 3; no checksum covers the hop limit.
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
    fn redirect_to(server: Self) -> bpf_redir_neigh {
        // SAFETY: zero is a valid value of a C structure of integers.
        let mut next_hop: bpf_redir_neigh = unsafe { core::mem::zeroed() };
        next_hop.nh_family = Self::LINUX;
        next_hop.__bindgen_anon_1.ipv6_nh = server.words();
        next_hop
    }

    #[inline(always)]
    fn set_destination(lookup: &mut FibLookup, server: Self) {
        lookup.family = Self::LINUX as u8;
        lookup.__bindgen_anon_4.ipv6_dst = server.words();
    }

    #[inline(always)]
    fn gateway(lookup: &FibLookup) -> Self {
        // SAFETY: the kernel writes this field for this family.
        Self::from_words(unsafe { lookup.__bindgen_anon_4.ipv6_dst })
    }
}
