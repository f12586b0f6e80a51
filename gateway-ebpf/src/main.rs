//! The eleven eBPF programs of the gateway.
//!
//! - Five are attached, one to each hook of `gateway_common::layout::Hook`: `internet_xdp`,
//!   `internet_ingress` and `internet_egress` to the internet interface, `lan_ingress` and `lan_egress`
//!   to the LAN interface.
//! - Five are tail-called by the two ingress programs (`gateway_common::layout::NextProgram`): `outer`,
//!   `site_v4` and `site_v6` by `internet_ingress`, `server_v4` and `server_v6` by `lan_ingress`.
//! - `expiry` is attached nowhere. The daemon runs it once to arm the timer that removes ended flows.
//!
//! Each attached program reads a frame ([`access`]), asks `gateway_common` for a verdict and lets [`act`]
//! carry it out. [`tables`] gives the decision its view of the [`maps`].
//!
//! Licence: the object says "Dual MIT/GPL", because `bpf_redirect_neigh`, `bpf_ktime_get_ns` and other
//! helpers are reserved for GPL-compatible programs.
#![no_std]
#![no_main]
#![expect(clippy::not_unsafe_ptr_arg_deref, reason = "aya's program macros add such functions")]

mod access;
mod act;
mod charge;
mod clock;
mod count;
mod lock;
mod maps;
mod neighbour;
mod nodes;
mod programs;
mod tables;

use core::hint::black_box;

use aya_ebpf::{
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use gateway_common::{
    decide::{self, FlowCell, Identity},
    layout::{APPROVED_MARK, Hook, NextProgram, Settings},
    outer::{self, Outer},
    reason::Reason,
    tcp::{Flow, FlowKey},
    time::Ticks,
    wire::{Frame, Ipv4, Ipv6, NETWORK_OFFSET, Words, ethertype, ethertype_of},
};

use crate::{
    access::{Direct, Skb, Xdp},
    maps::Stored,
    neighbour::Routed,
    tables::{Maps, Shared, now_ns, outbound_owner},
};

/// Outer frames as the driver hands them over: only IKE, ESP and what the gateway itself needs
/// goes on.
#[xdp]
pub fn internet_xdp(ctx: XdpContext) -> u32 {
    let packet = Xdp::of(&ctx);
    let verdict = match decide::ready(&Maps) {
        None => Err(Reason::NotConfigured),
        Some(settings) => arriving(&packet, settings, true),
    };
    act::xdp(packet, verdict)
}

/// Runs twice for ESP: on the outer packet, and on the decapsulated one, which has an XFRM state.
#[classifier]
pub fn internet_ingress(ctx: TcContext) -> i32 {
    let skb = Skb::of(&ctx);
    let next = match skb.identity() {
        None => NextProgram::Outer,
        Some(identity) if is_ipv6(&skb) => match from_site_v6_at_once(skb, identity) {
            UNDECIDED => NextProgram::SiteV6,
            action => return action,
        },
        Some(identity) => match from_site_at_once::<Ipv4>(skb, identity) {
            UNDECIDED => NextProgram::SiteV4,
            action => return action,
        },
    };
    next::go_on(&ctx, next);
    act::dropped(skb, Hook::InternetIngress, Reason::NotConfigured)
}

/// No action of the kernel's: another program decides.
const UNDECIDED: i32 = i32::MIN;

/// A function of its own: both families in one have more values than eBPF has registers.
#[inline(never)]
fn from_site_v6_at_once(skb: Skb, identity: Identity) -> i32 {
    from_site_at_once::<Ipv6>(skb, identity)
}

#[inline(always)]
fn from_site_at_once<A: Routed + Stored>(skb: Skb, identity: Identity) -> i32 {
    let Some(settings) = decide::ready(&Maps) else { return UNDECIDED };
    let now_ns = now_ns();
    match decide::from_site_fast::<A, _, _>(&skb, &Maps, settings, identity, now_ns) {
        Some(decision) => act::to_server::<A>(skb, settings, &decision, now_ns),
        None => UNDECIDED,
    }
}

/// Where `internet_ingress` goes on for what came out of no tunnel.
#[classifier]
pub fn outer(ctx: TcContext) -> i32 {
    let skb = Skb::new(&ctx);
    let verdict = match decide::ready(&Maps) {
        None => Err(Reason::NotConfigured),
        // What XDP let pass it has charged.
        Some(settings) => arriving(&skb, settings, settings.xdp == 0),
    };
    if let Ok(Outer::PathMtu) = verdict {
        skb.set_mark(path_mtu_owner(&skb));
    }
    act::outer(skb, Hook::InternetIngress, verdict)
}

/// Where `internet_ingress` goes on for IPv4 out of a tunnel.
#[classifier]
pub fn site_v4(ctx: TcContext) -> i32 {
    from_site::<Ipv4>(&ctx)
}

/// Where `internet_ingress` goes on for IPv6 out of a tunnel.
#[classifier]
pub fn site_v6(ctx: TcContext) -> i32 {
    from_site::<Ipv6>(&ctx)
}

#[inline(always)]
fn from_site<A: Routed + Stored>(ctx: &TcContext) -> i32 {
    let skb = Skb::new(ctx);
    let (Some(settings), Some(identity)) = (decide::ready(&Maps), skb.identity()) else {
        return act::dropped(skb, Hook::InternetIngress, Reason::NotConfigured);
    };
    let now_ns = now_ns();
    let decision = decide::from_site_full::<A, _, _>(&skb, &Maps, settings, identity, now_ns);
    act::to_server::<A>(skb, settings, black_box(&decision), now_ns)
}

/// What servers send.
#[classifier]
pub fn lan_ingress(ctx: TcContext) -> i32 {
    let skb = Skb::new(&ctx);
    if outer::is_neighbour_on_lan(&skb) {
        return act::pass();
    }
    let next = if is_ipv6(&skb) {
        match from_server_v6_at_once(skb) {
            UNDECIDED => NextProgram::ServerV6,
            action => return action,
        }
    } else {
        match from_server_at_once::<Ipv4>(skb) {
            UNDECIDED => NextProgram::ServerV4,
            action => return action,
        }
    };
    next::go_on(&ctx, next);
    act::dropped(skb, Hook::LanIngress, Reason::NotConfigured)
}

/// A function of its own, as [`from_site_v6_at_once`].
#[inline(never)]
fn from_server_v6_at_once(skb: Skb) -> i32 {
    from_server_at_once::<Ipv6>(skb)
}

#[inline(always)]
fn from_server_at_once<A: Stored>(skb: Skb) -> i32 {
    let Some(settings) = decide::ready(&Maps) else { return UNDECIDED };
    let now_ns = now_ns();
    match decide::from_server_fast::<A, _, _>(&skb, &Maps, settings, now_ns) {
        Some(decision) => act::to_tunnel(skb, &decision, now_ns),
        None => UNDECIDED,
    }
}

/// Where `lan_ingress` goes on for IPv4.
#[classifier]
pub fn server_v4(ctx: TcContext) -> i32 {
    from_server::<Ipv4>(&ctx)
}

/// Where `lan_ingress` goes on for IPv6.
#[classifier]
pub fn server_v6(ctx: TcContext) -> i32 {
    from_server::<Ipv6>(&ctx)
}

#[inline(always)]
fn from_server<A: Stored>(ctx: &TcContext) -> i32 {
    let skb = Skb::new(ctx);
    let Some(settings) = decide::ready(&Maps) else {
        return act::dropped(skb, Hook::LanIngress, Reason::NotConfigured);
    };
    let now_ns = now_ns();
    let decision = decide::from_server_full::<A, _, _>(&skb, &Maps, settings, now_ns);
    act::to_tunnel(skb, black_box(&decision), now_ns)
}

/// The last word before the internet: ESP of the right tunnel, IKE, allowed answers.
#[classifier]
pub fn internet_egress(ctx: TcContext) -> i32 {
    let skb = Skb::new(&ctx);
    let mark = skb.mark();
    let verdict = match decide::ready(&Maps) {
        None => Err(Reason::NotConfigured),
        Some(settings) => outer::classify_outgoing(&skb, settings, mark, outbound_owner),
    };
    act::outer(skb, Hook::InternetEgress, verdict)
}

/// The last word before the servers: what `internet_ingress` approved, and the gateway's own.
#[classifier]
pub fn lan_egress(ctx: TcContext) -> i32 {
    if Skb::of(&ctx).mark() & APPROVED_MARK != 0 {
        return act::pass();
    }
    let skb = Skb::new(&ctx);
    let verdict = match decide::ready(&Maps) {
        None => Err(Reason::NotConfigured),
        Some(settings) => outer::classify_to_lan(&skb, settings),
    };
    act::outer(skb, Hook::LanEgress, verdict)
}

/// Only for the differential test, which attaches it before `internet_ingress`; the daemon never loads
/// it. Gives a packet the identity that decryption would: of the tunnel whose inbound SPI stands in the
/// source MAC address, 02:00:SPI.
#[classifier]
pub fn replay_identity(ctx: TcContext) -> i32 {
    let skb = Skb::new(&ctx);
    skb.replay_identity();
    act::next()
}

/// Only for the benchmark, which attaches it in place of `internet_ingress`; the daemon never loads it. Asks of
/// the kernel what tracking an IPv4 connection asks at the least, the time, its flow and the flow's lock, and
/// decides nothing.
#[classifier]
pub fn calls_only(ctx: TcContext) -> i32 {
    const SOURCE: usize = 3;
    const PORTS: usize = 5;
    let skb = Skb::of(&ctx);
    if let Some(words) = skb.words::<{ PORTS + 1 }>(NETWORK_OFFSET) {
        let (lan_address, lan_port) = (Ipv4::from_word(words.raw(SOURCE)), (words.get(PORTS) >> 16) as u16);
        // Nobody's.
        let key = FlowKey { customer: 0, lan_address, lan_port, _reserved: 0 };
        let now = Ticks::from_ns(now_ns());
        match Ipv4::flows().get_ptr_mut(&key) {
            Some(flow) => Shared(flow).locked(|flow| flow.expires = now),
            None => _ = Ipv4::flows().insert(&key, &Flow::default(), 0),
        }
    }
    act::next()
}

/// Run once after loading: from then on flows that have ended are removed, whether or not the daemon
/// lives. Returns 0, or a negative error number.
#[classifier]
pub fn expiry(_ctx: TcContext) -> i32 {
    expiry::arm()
}

mod next {
    //! Programs that others go on in when they cannot decide at once: one for each address family keeps each
    //! within the verifier's limits and the 512 bytes of stack. Where one is missing the packet is dropped.
    use aya_ebpf::programs::TcContext;
    use gateway_common::layout::NextProgram;

    use crate::maps::PROGRAMS;

    #[inline(always)]
    pub fn go_on(ctx: &TcContext, next: NextProgram) {
        // SAFETY: does not return unless the slot is empty.
        unsafe { PROGRAMS.tail_call(ctx, next as u32) };
    }
}

/// The tunnel whose packet a path-MTU message quotes, 0 if none is known.
#[inline(never)]
fn path_mtu_owner(frame: &Skb) -> u32 {
    match outer::quoted_esp(frame) {
        Some(spi) => outbound_owner(spi).unwrap_or(0),
        None => 0,
    }
}

#[inline(always)]
fn is_ipv6(frame: &Skb) -> bool {
    ethertype_of(frame) == Some(ethertype::IPV6)
}

#[inline(always)]
fn arriving<F: Direct>(frame: &F, settings: &Settings, charged_here: bool) -> Result<Outer, Reason> {
    let mut arrival = outer::Arrival::uncharged();
    outer::classify_incoming_into(frame, settings, &mut arrival)?;
    if charged_here {
        charge::charge(&arrival)?;
    }
    Ok(arrival.outer)
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
