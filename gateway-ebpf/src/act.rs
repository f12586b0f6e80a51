//! What a verdict does to a packet. Kernel action codes appear here only.
use aya_ebpf::{
    bindings::{TC_ACT_OK, TC_ACT_SHOT, TC_ACT_UNSPEC as TCX_NEXT, bpf_redir_neigh, xdp_action},
    helpers::{bpf_l4_csum_replace, bpf_redirect_neigh, bpf_skb_store_bytes},
    programs::XdpContext,
};
use gateway_common::{
    decide::{Decision, Syn},
    family::Family,
    layout::{APPROVED_MARK, Hook},
    outer::Outer,
    reason::Reason,
    tcp::Direction,
    verdict::Verdict,
    wire::{Frame, Ipv4, Ipv4Header, Ipv6, Ipv6Header, NETWORK_OFFSET, TcpHeader},
};

use crate::{
    NOBODY,
    access::{Direct, Skb},
    count::{self, Attribution},
    tables::{customer_of, settings},
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
pub fn dropped(frame: &Direct, hook: Hook, reason: Reason) -> i32 {
    count::drop(frame, hook, NOBODY, reason);
    TC_ACT_SHOT
}

/// At the XDP hook.
#[inline(always)]
pub fn xdp(_ctx: &XdpContext, frame: &Direct, verdict: Verdict) -> u32 {
    match verdict {
        Verdict::Outer(Outer::Esp(spi)) => {
            keep_apart(frame, spi);
            xdp_action::XDP_PASS
        }
        Verdict::Outer(_) => xdp_action::XDP_PASS,
        Verdict::Drop(reason) => {
            count::drop(frame, Hook::InternetXdp, NOBODY, reason);
            xdp_action::XDP_DROP
        }
        // Nothing else comes out of the outer filter.
        Verdict::ToServer(_) | Verdict::ToTunnel(_) | Verdict::Local => {
            count::drop(frame, Hook::InternetXdp, NOBODY, Reason::NotConfigured);
            xdp_action::XDP_DROP
        }
    }
}

/// At a TC hook, for outer frames and for the gateway's own.
#[inline(always)]
pub fn outer(skb: &Skb, frame: &Direct, hook: Hook, verdict: Verdict) -> i32 {
    match verdict {
        Verdict::Outer(_) | Verdict::Local => TC_ACT_OK,
        Verdict::Drop(reason) => {
            let whose = match hook {
                // On the way out the mark still names the tunnel (FACTS 3).
                Hook::InternetEgress => {
                    let tunnel = skb.mark();
                    Attribution { customer: customer_of(tunnel), tunnel }
                }
                _ => NOBODY,
            };
            count::drop(frame, hook, whose, reason);
            TC_ACT_SHOT
        }
        // Nothing else comes out of the outer filters.
        Verdict::ToServer(_) | Verdict::ToTunnel(_) => dropped(frame, hook, Reason::NotConfigured),
    }
}

/// A site's packet: past the stack to its server's neighbour entry on the LAN.
#[inline(always)]
pub fn to_server(skb: &Skb, frame: &Direct, decision: Decision) -> i32 {
    let whose = Attribution { customer: decision.customer, tunnel: decision.tunnel };
    let tunnel = match decision.verdict {
        Verdict::ToServer(tunnel) => tunnel,
        Verdict::Drop(reason) => {
            let told = count::drop(frame, Hook::InternetIngress, whose, reason);
            if told && matches!(reason, Reason::MarkContradictsTunnel | Reason::SpiContradictsTunnel) {
                // Not what a packet can bring about: the kernel or our maps are not as we think.
                aya_log_ebpf::error!(
                    skb.context(),
                    "tunnel {}: the kernel's sources contradict one another, reason {}",
                    whose.tunnel,
                    reason as u8
                );
            }
            return TC_ACT_SHOT;
        }
        Verdict::Outer(_) | Verdict::ToTunnel(_) | Verdict::Local => return TC_ACT_SHOT,
    };
    let Some(settings) = settings() else { return TC_ACT_SHOT };
    if let Some(syn) = decision.syn {
        lower_mss(skb, syn);
    }
    // SAFETY: zero is a valid value of a C structure of integers.
    let mut next_hop: bpf_redir_neigh = unsafe { core::mem::zeroed() };
    let frame = skb.frame();
    let ready = match decision.v6 {
        false => prepare_v4(&frame, &mut next_hop),
        true => prepare_v6(&frame, &mut next_hop),
    };
    if ready.is_none() {
        count::drop(&frame, Hook::InternetIngress, whose, Reason::InnerMalformed);
        return TC_ACT_SHOT;
    }
    count::passed(&decision, Direction::ToServer, skb.segments());
    skb.set_mark(APPROVED_MARK | tunnel.get());
    // SAFETY: pointer and size are those of `next_hop`.
    unsafe {
        bpf_redirect_neigh(settings.lan_ifindex, &raw mut next_hop, size_of::<bpf_redir_neigh>() as i32, 0)
            as i32
    }
}

/// A server's answer: the mark makes the stack encrypt it into its tunnel.
#[inline(always)]
pub fn to_tunnel(skb: &Skb, frame: &Direct, decision: Decision) -> i32 {
    let whose = Attribution { customer: decision.customer, tunnel: decision.tunnel };
    match decision.verdict {
        Verdict::ToTunnel(tunnel) => {
            if let Some(syn) = decision.syn {
                lower_mss(skb, syn);
            }
            count::passed(&decision, Direction::ToSite, skb.segments());
            skb.set_mark(tunnel.get());
            TC_ACT_OK
        }
        Verdict::Drop(reason) => {
            count::drop(frame, Hook::LanIngress, whose, reason);
            TC_ACT_SHOT
        }
        Verdict::Outer(_) | Verdict::ToServer(_) | Verdict::Local => TC_ACT_SHOT,
    }
}

/// Writes 02:00:SPI into the source MAC. GRO merges only packets with equal MAC headers, so it
/// cannot merge segments of two tunnels after decapsulation (FACTS 8).
#[inline(always)]
fn keep_apart(frame: &Direct, spi: u32) {
    const SOURCE_MAC_OFFSET: usize = 6;
    if let Some(mac) = frame.bytes_mut::<6>(SOURCE_MAC_OFFSET) {
        let [a, b, c, d] = spi.to_be_bytes();
        // SAFETY: `bytes_mut` checked the bounds.
        unsafe { *mac = [0x02, 0x00, a, b, c, d] };
    }
}

/// Lowers the MSS option of a SYN to what fits the tunnel. A SYN without the option means 536
/// bytes (RFC 9293 section 3.7.1) and needs none.
#[inline(always)]
fn lower_mss(skb: &Skb, syn: Syn) {
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

/// The server as next hop. TTL: RFC 1812 section 5.3.1, and the checksum as RFC 1624 has it. The decision
/// saw a TTL above 1.
#[inline(always)]
fn prepare_v4(frame: &Direct, next_hop: &mut bpf_redir_neigh) -> Option<()> {
    const TTL_OFFSET: usize = NETWORK_OFFSET + 8;
    next_hop.nh_family = Ipv4::LINUX;
    next_hop.__bindgen_anon_1.ipv4_nh =
        u32::from_ne_bytes(frame.read::<Ipv4Header>(NETWORK_OFFSET)?.destination.octets);
    let at = frame.bytes_mut::<4>(TTL_OFFSET)?;
    // SAFETY: `bytes_mut` checked the bounds: TTL, protocol, checksum (2).
    unsafe {
        let [ttl, protocol, high, low] = *at;
        let sum = u32::from(u16::from_be_bytes([high, low])) + 0x0100;
        // As the kernel's ip_decrease_ttl: a sum of 0xffff is written as 0.
        let [high, low] = ((sum + u32::from(sum >= 0xffff)) as u16).to_be_bytes();
        *at = [ttl.wrapping_sub(1), protocol, high, low];
    }
    Some(())
}

/// The server as next hop, and the hop limit (RFC 8200 section 3), which no checksum covers.
#[inline(always)]
fn prepare_v6(frame: &Direct, next_hop: &mut bpf_redir_neigh) -> Option<()> {
    const HOP_LIMIT_OFFSET: usize = NETWORK_OFFSET + 7;
    next_hop.nh_family = Ipv6::LINUX;
    next_hop.__bindgen_anon_1.ipv6_nh = frame.read::<Ipv6Header>(NETWORK_OFFSET)?.destination.words();
    let at = frame.bytes_mut::<1>(HOP_LIMIT_OFFSET)?;
    // SAFETY: `bytes_mut` checked the bounds.
    unsafe { *at = [(*at)[0].wrapping_sub(1)] };
    Some(())
}
