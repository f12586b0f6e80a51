//! Carries out verdicts on packets. The only file with the kernel's action codes.
use aya_ebpf::{
    bindings::{TC_ACT_OK, TC_ACT_SHOT, xdp_action},
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
    access::{Skb, Xdp},
    clock::now_ns,
    count::{self, Attribution},
    maps::FORWARD,
    neighbour::{self, FamilyNextHop},
    tables::customer_of,
};

/// Lets the packet continue through the stack.
#[inline(always)]
pub fn pass() -> i32 {
    TC_ACT_OK
}

/// Drops a packet that belongs to no known customer yet.
#[inline(always)]
pub fn drop_unattributed(skb: Skb, hook: Hook, reason: Reason) -> i32 {
    count::drop(skb, hook, Attribution::NONE, reason, now_ns());
    TC_ACT_SHOT
}

/// Carries out a verdict at the XDP hook. `Ok(None)`: the frame is an answer to its sender.
#[inline(always)]
pub fn xdp(packet: Xdp, verdict: Result<Option<Outer>, Reason>) -> u32 {
    match verdict {
        Ok(Some(outer)) => {
            if let Outer::Esp(spi) = outer {
                tag_source_mac(packet, spi);
            }
            xdp_action::XDP_PASS
        }
        Ok(None) => xdp_action::XDP_TX,
        Err(reason) => {
            count::drop(packet, Hook::InternetXdp, Attribution::NONE, reason, now_ns());
            xdp_action::XDP_DROP
        }
    }
}

/// Carries out a verdict at a TC hook, on outer frames and on the gateway's own.
#[inline(always)]
pub fn outer(skb: Skb, hook: Hook, verdict: Result<Outer, Reason>) -> i32 {
    let Err(reason) = verdict else { return TC_ACT_OK };
    let attribution = match hook {
        // On egress the mark still names the tunnel (docs/facts.md: mark-survives-esp-output).
        Hook::InternetEgress => {
            let tunnel = skb.mark();
            Attribution::new(customer_of(tunnel), tunnel)
        }
        _ => Attribution::NONE,
    };
    count::drop(skb, hook, attribution, reason, now_ns());
    TC_ACT_SHOT
}

/// Sends a site's packet past the stack to its server on the LAN, or drops it.
#[inline(always)]
pub fn to_server<A: FamilyNextHop>(skb: Skb, settings: &Settings, decision: &Decision, now_ns: u64) -> i32 {
    if let Err(reason) = decision.verdict {
        let attribution = Attribution::new(decision.customer, decision.tunnel);
        let reported = count::drop(skb, Hook::InternetIngress, attribution, reason, now_ns);
        if reported && matches!(reason, Reason::MarkContradictsTunnel | Reason::SpiContradictsTunnel) {
            log_contradiction(skb, attribution.tunnel(), reason);
        }
        return TC_ACT_SHOT;
    }
    if let Some(syn) = decision.syn() {
        lower_mss(skb, syn);
    }
    let Some(counters) = count::counters(decision.customer) else {
        return drop_unattributed(skb, Hook::InternetIngress, Reason::NotConfigured);
    };
    count::passed(counters, decision, Direction::ToServer, skb.segments());
    skb.set_mark(APPROVED_MARK | decision.tunnel);
    if FORWARD.load() != 0 {
        return TC_ACT_OK;
    }
    match neighbour::redirect::<A>(skb, settings, counters, Ticks::from_ns(now_ns)) {
        Ok(action) => action,
        Err(reason) => drop_unattributed(skb, Hook::InternetIngress, reason),
    }
}

/// Marks a server's answer so that the stack encrypts it into its tunnel, or drops it.
#[inline(always)]
pub fn to_tunnel(skb: Skb, decision: &Decision, now_ns: u64) -> i32 {
    if let Err(reason) = decision.verdict {
        let attribution = Attribution::new(decision.customer, decision.tunnel);
        count::drop(skb, Hook::LanIngress, attribution, reason, now_ns);
        return TC_ACT_SHOT;
    }
    if let Some(syn) = decision.syn() {
        lower_mss(skb, syn);
    }
    let Some(counters) = count::counters(decision.customer) else {
        return drop_unattributed(skb, Hook::LanIngress, Reason::NotConfigured);
    };
    count::passed(counters, decision, Direction::ToSite, skb.segments());
    skb.set_mark(decision.tunnel);
    TC_ACT_OK
}

/// Carries out a verdict on ARP or neighbour discovery of a customer's server.
#[inline(always)]
pub fn neighbour(skb: Skb, customer: u32, verdict: Result<(), Reason>, now_ns: u64) -> i32 {
    let Err(reason) = verdict else { return TC_ACT_OK };
    count::drop(skb, Hook::LanIngress, Attribution::new(customer, 0), reason, now_ns);
    TC_ACT_SHOT
}

/// Logs an error that no packet can cause: the kernel or the maps are not as the gateway assumes.
#[cold]
#[inline(never)]
fn log_contradiction(skb: Skb, tunnel: u32, reason: Reason) {
    let context = skb.context();
    aya_log_ebpf::error!(
        &context,
        "tunnel {}: the kernel's sources contradict one another, reason {}",
        tunnel,
        reason as u8
    );
}

/// Writes 02:00:SPI into the source MAC address. GRO merges only packets with equal MAC headers, so it
/// cannot merge segments of two tunnels after decapsulation (docs/facts.md: gro-merges-tunnels).
#[inline(always)]
fn tag_source_mac(packet: Xdp, spi: u32) {
    const SOURCE_MAC_OFFSET: usize = 6;
    let [a, b, c, d] = spi.to_be_bytes();
    packet.write(SOURCE_MAC_OFFSET, [0x02, 0x00, a, b, c, d]);
}

/// Lowers the MSS option of a SYN to what fits the tunnel. A SYN without the option implies 536
/// bytes (RFC 9293 section 3.7.1) and needs no change.
#[inline(always)]
fn lower_mss(skb: Skb, syn: Syn) {
    const CHECKSUM_OFFSET: u32 = 16;
    let transport = u32::from(syn.transport);
    let value = syn.mss.to_be();
    let offered = syn.offered.bytes.to_be();
    // The checksum sums 16-bit words from an even offset. A value at an odd offset spans two words,
    // which counts like the value with its bytes swapped (RFC 1071 section 2 B).
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
