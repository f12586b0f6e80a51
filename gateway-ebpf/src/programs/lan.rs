//! The LAN interface: rule two for packets from servers, and the last check before the servers.
use core::hint::black_box;

use aya_ebpf::{macros::classifier, programs::TcContext};
use gateway_common::{
    decide::{self, FamilyTables},
    layout::{APPROVED_MARK, Hook, NextProgram},
    outer,
    reason::Reason,
    wire::{Ipv4, Ipv6},
};

use super::next::{self, UNDECIDED};
use crate::{access::Skb, act, clock::now_ns, lan_budget, maps::FamilyMaps, tables::Maps};

/// Decides packets that servers send.
#[classifier]
pub fn lan_ingress(ctx: TcContext) -> i32 {
    let skb = Skb::pulled(&ctx);
    if skb.is_foreign() {
        return foreign(skb);
    }
    if outer::is_neighbour_on_lan(&skb) {
        return neighbour(skb);
    }
    let next = if skb.is_ipv6() {
        match from_server_fast_v6(skb) {
            UNDECIDED => NextProgram::ServerV6,
            action => return action,
        }
    } else {
        match from_server_fast::<Ipv4>(skb) {
            UNDECIDED => NextProgram::ServerV4,
            action => return action,
        }
    };
    next::tail_call(&ctx, next);
    act::drop_unattributed(skb, Hook::LanIngress, Reason::NotConfigured)
}

/// Drops a frame for another MAC address or VLAN before it changes a flow. Out of line, as [`neighbour`].
#[inline(never)]
fn foreign(skb: Skb) -> i32 {
    act::drop_unattributed(skb, Hook::LanIngress, Reason::FrameNotForGateway)
}

/// Decides ARP and neighbour discovery. Out of line: connections never come here.
#[inline(never)]
fn neighbour(skb: Skb) -> i32 {
    let Some(settings) = decide::ready(&Maps) else {
        return act::drop_unattributed(skb, Hook::LanIngress, Reason::NotConfigured);
    };
    let (now_ns, mut anonymous) = (now_ns(), false);
    let (v4, v6) = (is_server::<Ipv4>, is_server::<Ipv6>);
    let verdict = outer::check_neighbour_on_lan(&skb, settings, v4, v6, &mut anonymous)
        .and_then(|()| lan_budget::charge(&skb, anonymous, now_ns));
    act::neighbour(skb, verdict, now_ns)
}

#[inline(always)]
fn is_server<A: FamilyMaps>(address: A) -> bool {
    FamilyTables::<A>::customer(&Maps, address).is_some()
}

/// Out of line: both families in one function have more live values than eBPF has registers.
#[inline(never)]
fn from_server_fast_v6(skb: Skb) -> i32 {
    from_server_fast::<Ipv6>(skb)
}

#[inline(always)]
fn from_server_fast<A: FamilyMaps>(skb: Skb) -> i32 {
    let Some(settings) = decide::ready(&Maps) else { return UNDECIDED };
    let now_ns = now_ns();
    match decide::from_server_fast::<A, _, _>(&skb, &Maps, settings, now_ns) {
        Some(decision) => act::to_tunnel(skb, &decision, now_ns),
        None => UNDECIDED,
    }
}

/// Tail-called by `lan_ingress` for IPv4.
#[classifier]
pub fn server_v4(ctx: TcContext) -> i32 {
    from_server_full::<Ipv4>(&ctx)
}

/// Tail-called by `lan_ingress` for IPv6.
#[classifier]
pub fn server_v6(ctx: TcContext) -> i32 {
    from_server_full::<Ipv6>(&ctx)
}

#[inline(always)]
fn from_server_full<A: FamilyMaps>(ctx: &TcContext) -> i32 {
    let skb = Skb::pulled(ctx);
    let Some(settings) = decide::ready(&Maps) else {
        return act::drop_unattributed(skb, Hook::LanIngress, Reason::NotConfigured);
    };
    let now_ns = now_ns();
    let decision = decide::from_server_full::<A, _, _>(&skb, &Maps, settings, now_ns);
    act::to_tunnel(skb, black_box(&decision), now_ns)
}

/// The last check before the servers: passes what `internet_ingress` approved, and the gateway's own traffic.
#[classifier]
pub fn lan_egress(ctx: TcContext) -> i32 {
    if Skb::as_is(&ctx).mark() & APPROVED_MARK != 0 {
        return act::pass();
    }
    let skb = Skb::pulled(&ctx);
    let verdict = match decide::ready(&Maps) {
        None => Err(Reason::NotConfigured),
        Some(settings) => outer::classify_to_lan(&skb, settings),
    };
    act::outer(skb, Hook::LanEgress, verdict)
}
