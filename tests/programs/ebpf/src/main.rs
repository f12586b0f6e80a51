//! eBPF programs that only tests and benchmarks load, beside the gateway's. They share the gateway's maps
//! through its pins. An object of their own, so that the object in gatewayd holds nothing it does not run.
#![no_std]
#![no_main]
#![expect(clippy::not_unsafe_ptr_arg_deref, reason = "aya's program macros add such functions")]
#![expect(missing_docs, reason = "aya's program macros add public functions without documentation")]

mod maps;

use aya_ebpf::{
    EbpfContext, Global,
    bindings::{__sk_buff, TC_ACT_UNSPEC as TCX_NEXT, bpf_spin_lock},
    helpers,
    macros::classifier,
    programs::TcContext,
};
use gateway_common::{
    packet::MAX_OPTIONS_BYTES,
    tcp::{Flow, FlowKey},
    time::Ticks,
    wire::{Ipv4, Ipv6Header, NETWORK_OFFSET, TcpHeader},
};

use crate::maps::{FLOWS, INBOUND_SPIS};

/// The difference between the mark and the reqid of each tunnel, set when the programs are loaded.
#[unsafe(no_mangle)]
static MARK_MINUS_REQID: Global<u32> = Global::new(0);

/// Gives a packet the identity that decryption would give it: that of the tunnel whose inbound SPI is in the
/// source MAC address, 02:00:SPI. The gateway's programs read it when they are loaded with REPLAY set. Tests
/// attach this program before `internet_ingress`, at the same hook or earlier on the packet's way.
#[classifier]
pub fn replay_identity(ctx: TcContext) -> i32 {
    const SPI_OFFSET: usize = 8;
    pull_headers(&ctx);
    if let Some(bytes) = bytes::<4>(&ctx, SPI_OFFSET) {
        let spi = u32::from_be_bytes(bytes);
        // SAFETY: an element that is replaced meanwhile stays readable (RCU).
        let mark = unsafe { INBOUND_SPIS.get(&spi) }.copied().unwrap_or(0);
        let skb: *mut __sk_buff = ctx.as_ptr().cast();
        // SAFETY: the context of a TC program is a `__sk_buff`, whose mark and cb are writable; the indices
        // are constant.
        unsafe {
            (*skb).mark = mark;
            (*skb).cb[0] = mark.saturating_sub(MARK_MINUS_REQID.load());
            (*skb).cb[1] = spi;
        }
    }
    TCX_NEXT
}

/// Makes the calls to the kernel that tracking an IPv4 connection cannot do without (the time, the flow and
/// the flow's lock) and decides nothing. The benchmark attaches it in place of `internet_ingress`, as the
/// lower bound of what tracking costs.
#[classifier]
pub fn calls_only(ctx: TcContext) -> i32 {
    if let Some((source, ports)) = source_and_ports(&ctx) {
        let (lan_address, lan_port) = (Ipv4::from_word(source), (u32::from_be(ports) >> 16) as u16);
        // Customer 0: no customer's flow.
        let key = FlowKey { customer: 0, lan_address, lan_port, _reserved: 0 };
        // SAFETY: a helper without arguments.
        let now = Ticks::from_ns(unsafe { helpers::bpf_ktime_get_coarse_ns() });
        match FLOWS.get_ptr_mut(&key) {
            Some(flow) => set_expiry(flow, now),
            None => _ = FLOWS.insert(&key, &Flow::default(), 0),
        }
    }
    TCX_NEXT
}

#[inline(always)]
fn set_expiry(flow: *mut Flow, expires: Ticks) {
    // SAFETY: a live map value and its lock, under which alone it changes.
    unsafe {
        let lock = (&raw mut (*flow).lock).cast::<bpf_spin_lock>();
        helpers::bpf_spin_lock(lock);
        (*flow).expires = expires;
        helpers::bpf_spin_unlock(lock);
    }
}

/// Reads the source address and the word with both ports of an IPv4 packet without options, in network byte
/// order.
#[inline(always)]
fn source_and_ports(ctx: &TcContext) -> Option<(u32, u32)> {
    const SOURCE: usize = 3;
    const PORTS: usize = 5;
    let start = ctx.data() + NETWORK_OFFSET;
    if start + (PORTS + 1) * size_of::<u32>() > ctx.data_end() {
        return None;
    }
    let words = start as *const u32;
    // SAFETY: the words are inside the packet, as just checked (the verifier demands it), and an IP header is
    // 4-aligned here (NET_IP_ALIGN).
    Some(unsafe { (*words.add(SOURCE), *words.add(PORTS)) })
}

/// Pulls the headers of a packet into its linear part, as the gateway's own programs would.
#[inline(always)]
fn pull_headers(ctx: &TcContext) {
    const HEADERS_BYTES: u32 =
        (NETWORK_OFFSET + size_of::<Ipv6Header>() + size_of::<TcpHeader>() + MAX_OPTIONS_BYTES) as u32;
    let wanted = if ctx.len() < HEADERS_BYTES { ctx.len() } else { HEADERS_BYTES };
    if ctx.data_end() - ctx.data() < wanted as usize {
        let _ = ctx.pull_data(wanted);
    }
}

/// Reads bytes of the packet's linear part.
#[inline(always)]
fn bytes<const N: usize>(ctx: &TcContext, offset: usize) -> Option<[u8; N]> {
    let start = ctx.data();
    if start + offset + N > ctx.data_end() {
        return None;
    }
    // SAFETY: the bytes are inside the packet, as just checked (the verifier demands it).
    Some(unsafe { *((start + offset) as *const [u8; N]) })
}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    // Unreachable in every program: the verifier would reject the endless loop.
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
