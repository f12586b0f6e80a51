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
    wire::{NETWORK_OFFSET, TcpHeader},
};

use crate::{
    access::{DirectPacket, Skb, Xdp},
    clock::now_ns,
    count::{self, Attribution},
    maps::FORWARD,
    next_hop::{self, FamilyNextHop},
    tables::customer_of_source,
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
        // A marked packet that nothing has encrypted comes from the server that `lan_ingress` found. The mark itself
        // names a CHILD_SA, of which no table tells the site.
        Hook::InternetEgress if skb.mark() != 0 => Attribution::new(customer_of_source(skb), 0),
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
        if reported && reason == Reason::SpiContradictsTunnel {
            log_contradiction(skb);
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
    skb.set_mark(APPROVED_MARK | skb.mark());
    if FORWARD.load() != 0 {
        return TC_ACT_OK;
    }
    match next_hop::redirect::<A>(skb, settings, counters, Ticks::from_ns(now_ns)) {
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
    skb.set_mark(decision.mark);
    TC_ACT_OK
}

/// Carries out a verdict on ARP or neighbour discovery on the LAN. Drops count as nobody's: the address in such a
/// packet is only claimed, and must not spend the drop events of its owner.
#[inline(always)]
pub fn neighbour(skb: Skb, verdict: Result<(), Reason>, now_ns: u64) -> i32 {
    let Err(reason) = verdict else { return TC_ACT_OK };
    count::drop(skb, Hook::LanIngress, Attribution::NONE, reason, now_ns);
    TC_ACT_SHOT
}

/// Cuts off what follows a site's packet in its frame: padding against traffic analysis (RFC 4303 section 2.7),
/// which the LAN's MTU may not have room for. A packet that GRO merged has none, as GRO merges none with it
/// (inet_gro_receive in net/ipv4/af_inet.c). If the kernel cannot cut it off (it has no memory), the packet is
/// dropped unless the LAN has room for the padding.
#[inline(always)]
pub fn cut_padding(skb: Skb, settings: &Settings, decision: &mut Decision) {
    let end = NETWORK_OFFSET + decision.bytes as usize;
    let padded = decision.verdict.is_ok() && skb.length() > end && skb.segment_bytes() == 0;
    if padded && !skb.cut(end as u32) && skb.length() > NETWORK_OFFSET + settings.lan_mtu as usize {
        decision.verdict = Err(Reason::TooBigForLan);
    }
}

/// Logs an error that no packet can cause: the kernel or the maps are not as the gateway assumes. A mark that
/// contradicts is none: charon gives a reqid to another site, and packets of the former one may be under way.
#[cold]
#[inline(never)]
fn log_contradiction(skb: Skb) {
    let context = skb.context();
    aya_log_ebpf::error!(&context, "mark {}: the SPI is known to be that of another mark", skb.mark());
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
