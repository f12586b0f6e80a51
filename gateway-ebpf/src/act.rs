//! What a verdict does to a packet. Kernel action codes appear here only.
use aya_ebpf::{
    bindings::{TC_ACT_OK, TC_ACT_SHOT, TC_ACT_UNSPEC as TCX_NEXT, xdp_action},
    helpers::{bpf_l4_csum_replace, bpf_skb_store_bytes},
};
use gateway_common::{
    decide::{Decision, Syn},
    layout::{APPROVED_MARK, Hook, Settings},
    outer::Outer,
    reason::Reason,
    tcp::Direction,
    time::Ticks,
    wire::TcpHeader,
};

use crate::{
    access::{Direct, Skb, Xdp},
    count::{self, Attribution},
    maps::FORWARD,
    neighbour::{self, Routed},
    tables::{customer_of, now_ns},
};

/// Lets the packet go its usual way.
#[inline(always)]
pub fn pass() -> i32 {
    TC_ACT_OK
}

/// Leaves the packet to the next program of the hook.
#[inline(always)]
pub fn next() -> i32 {
    TCX_NEXT
}

/// Drops what is nobody's yet.
#[inline(always)]
pub fn dropped(skb: Skb, hook: Hook, reason: Reason) -> i32 {
    count::drop(skb, hook, Attribution::NOBODY, reason, now_ns());
    TC_ACT_SHOT
}

/// At the XDP hook.
#[inline(always)]
pub fn xdp(packet: Xdp, verdict: Result<Outer, Reason>) -> u32 {
    match verdict {
        Ok(outer) => {
            if let Outer::Esp(spi) = outer {
                keep_apart(packet, spi);
            }
            xdp_action::XDP_PASS
        }
        Err(reason) => {
            count::drop(packet, Hook::InternetXdp, Attribution::NOBODY, reason, now_ns());
            xdp_action::XDP_DROP
        }
    }
}

/// At a TC hook, for outer frames and for the gateway's own.
#[inline(always)]
pub fn outer(skb: Skb, hook: Hook, verdict: Result<Outer, Reason>) -> i32 {
    let Err(reason) = verdict else { return TC_ACT_OK };
    let whose = match hook {
        // On the way out the mark still names the tunnel (FACTS 3).
        Hook::InternetEgress => {
            let tunnel = skb.mark();
            Attribution::of(customer_of(tunnel), tunnel)
        }
        _ => Attribution::NOBODY,
    };
    count::drop(skb, hook, whose, reason, now_ns());
    TC_ACT_SHOT
}

/// A site's packet: past the stack to its server on the LAN.
#[inline(always)]
pub fn to_server<A: Routed>(skb: Skb, settings: &Settings, decision: &Decision, now_ns: u64) -> i32 {
    if let Err(reason) = decision.verdict {
        let whose = Attribution::of(decision.customer, decision.tunnel);
        let told = count::drop(skb, Hook::InternetIngress, whose, reason, now_ns);
        if told && matches!(reason, Reason::MarkContradictsTunnel | Reason::SpiContradictsTunnel) {
            report_contradiction(skb, whose.tunnel(), reason);
        }
        return TC_ACT_SHOT;
    }
    if let Some(syn) = decision.syn() {
        lower_mss(skb, syn);
    }
    let Some(counters) = count::of(decision.customer) else {
        return dropped(skb, Hook::InternetIngress, Reason::NotConfigured);
    };
    count::passed(counters, decision, Direction::ToServer, skb.segments());
    skb.set_mark(APPROVED_MARK | decision.tunnel);
    if FORWARD.load() != 0 {
        return TC_ACT_OK;
    }
    neighbour::redirect::<A>(skb, settings, counters, Ticks::from_ns(now_ns))
}

/// A server's answer: the mark makes the stack encrypt it into its tunnel.
#[inline(always)]
pub fn to_tunnel(skb: Skb, decision: &Decision, now_ns: u64) -> i32 {
    if let Err(reason) = decision.verdict {
        let whose = Attribution::of(decision.customer, decision.tunnel);
        count::drop(skb, Hook::LanIngress, whose, reason, now_ns);
        return TC_ACT_SHOT;
    }
    if let Some(syn) = decision.syn() {
        lower_mss(skb, syn);
    }
    let Some(counters) = count::of(decision.customer) else {
        return dropped(skb, Hook::LanIngress, Reason::NotConfigured);
    };
    count::passed(counters, decision, Direction::ToSite, skb.segments());
    skb.set_mark(decision.tunnel);
    TC_ACT_OK
}

/// Not what a packet can bring about: the kernel or our maps are not as we think.
#[cold]
#[inline(never)]
fn report_contradiction(skb: Skb, tunnel: u32, reason: Reason) {
    let context = skb.context();
    aya_log_ebpf::error!(
        &context,
        "tunnel {}: the kernel's sources contradict one another, reason {}",
        tunnel,
        reason as u8
    );
}

/// Writes 02:00:SPI into the source MAC. GRO merges only packets with equal MAC headers, so it
/// cannot merge segments of two tunnels after decapsulation (FACTS 8).
#[inline(always)]
fn keep_apart(packet: Xdp, spi: u32) {
    const SOURCE_MAC_OFFSET: usize = 6;
    if let Some(mac) = packet.bytes_mut::<6>(SOURCE_MAC_OFFSET) {
        let [a, b, c, d] = spi.to_be_bytes();
        // SAFETY: `bytes_mut` checked the bounds.
        unsafe { *mac = [0x02, 0x00, a, b, c, d] };
    }
}

/// Lowers the MSS option of a SYN to what fits the tunnel. A SYN without the option means 536
/// bytes (RFC 9293 section 3.7.1) and needs none.
#[inline(always)]
fn lower_mss(skb: Skb, syn: Syn) {
    const CHECKSUM_OFFSET: u32 = 16;
    let transport = u32::from(syn.transport);
    let value = syn.mss.to_be();
    let offered = syn.offered.bytes.to_be();
    // The checksum sums 16-bit words from an even offset on. A value at an odd one lies across two
    // of them, which counts like the value with its bytes swapped (RFC 1071 section 2 B).
    let (from, to) = match syn.offered.at % 2 {
        0 => (offered, value),
        _ => (offered.swap_bytes(), value.swap_bytes()),
    };
    let at = transport + size_of::<TcpHeader>() as u32 + u32::from(syn.offered.at);
    // SAFETY: two bytes from a local; the kernel checks the offsets against the packet.
    unsafe {
        bpf_l4_csum_replace(skb.raw(), transport + CHECKSUM_OFFSET, u64::from(from), u64::from(to), 2);
        bpf_skb_store_bytes(skb.raw(), at, (&raw const value).cast(), 2, 0);
    }
}
