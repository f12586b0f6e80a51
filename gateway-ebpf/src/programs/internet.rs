//! The internet interface: outer frames in and out, and rule one for what ESP decrypts.
use core::hint::black_box;

use aya_ebpf::{
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use gateway_common::{
    decide::{self, Identity},
    layout::{Hook, NextProgram, Settings},
    outer::{self, Outer},
    reason::Reason,
    wire::{Ipv4, Ipv6},
};

use super::next::{self, UNDECIDED};
use crate::{
    access::{Skb, Xdp},
    act, charge,
    clock::now_ns,
    count,
    maps::FamilyMaps,
    next_hop::FamilyNextHop,
    tables::{Maps, outbound_owner},
};

/// Filters outer frames in the driver: passes only IKE, ESP and what the gateway itself needs.
#[xdp]
pub fn internet_xdp(ctx: XdpContext) -> u32 {
    let packet = Xdp::new(&ctx);
    packet.remove_priority_tag();
    let verdict = match decide::ready(&Maps) {
        None => Err(Reason::NotConfigured),
        Some(settings) => arriving(packet, settings),
    };
    act::xdp(packet, verdict)
}

/// Classifies an arriving outer frame and charges it to its source. `Ok(None)`: the frame now is the answer to its
/// sender.
#[inline(always)]
fn arriving(packet: Xdp, settings: &Settings) -> Result<Option<Outer>, Reason> {
    let mut arrival = outer::Arrival::uncharged();
    outer::classify_incoming_into(&packet, settings, outbound_owner, &mut arrival)?;
    let continues = charge::charge_at_card(packet, &arrival)?;
    Ok(continues.then_some(arrival.outer))
}

/// Decides packets out of tunnels. Runs twice for ESP: on the outer packet, and on the decapsulated one,
/// which has an XFRM state (docs/facts.md: tc-ingress-runs-twice).
#[classifier]
pub fn internet_ingress(ctx: TcContext) -> i32 {
    let skb = Skb::as_is(&ctx);
    let next = match skb.identity() {
        None => NextProgram::Outer,
        Some(identity) if skb.is_ipv6() => match from_site_fast_v6(skb, identity) {
            UNDECIDED => NextProgram::SiteV6,
            action => return action,
        },
        Some(identity) => match from_site_fast::<Ipv4>(skb, identity) {
            UNDECIDED => NextProgram::SiteV4,
            action => return action,
        },
    };
    next::tail_call(&ctx, next);
    act::drop_unattributed(skb, Hook::InternetIngress, Reason::NotConfigured)
}

/// Out of line: both families in one function have more live values than eBPF has registers.
#[inline(never)]
fn from_site_fast_v6(skb: Skb, identity: Identity) -> i32 {
    from_site_fast::<Ipv6>(skb, identity)
}

#[inline(always)]
fn from_site_fast<A: FamilyNextHop + FamilyMaps>(skb: Skb, identity: Identity) -> i32 {
    let Some(settings) = decide::ready(&Maps) else { return UNDECIDED };
    let now_ns = now_ns();
    match decide::from_site_fast::<A, _, _>(&skb, &Maps, settings, identity, now_ns) {
        Some(decision) => act::to_server::<A>(skb, settings, &decision, now_ns),
        None => UNDECIDED,
    }
}

/// Tail-called by `internet_ingress` for packets that came out of no tunnel. A frame for another MAC address or
/// VLAN ends here: the kernel decrypts none, so none reaches the second pass.
#[classifier]
pub fn outer(ctx: TcContext) -> i32 {
    let skb = Skb::pulled(&ctx);
    let verdict = match decide::ready(&Maps) {
        None => Err(Reason::NotConfigured),
        Some(_) if skb.is_foreign() => Err(Reason::FrameNotForGateway),
        Some(settings) => outer_verdict(&skb, settings),
    };
    if let (Ok(Outer::PathMtu), Some(settings)) = (verdict, decide::ready(&Maps)) {
        skb.set_mark(path_mtu_owner(&skb, settings));
    }
    act::outer(skb, Hook::InternetIngress, verdict)
}

/// Tail-called by `internet_ingress` for IPv4 out of a tunnel.
#[classifier]
pub fn site_v4(ctx: TcContext) -> i32 {
    from_site_full::<Ipv4>(&ctx)
}

/// Tail-called by `internet_ingress` for IPv6 out of a tunnel.
#[classifier]
pub fn site_v6(ctx: TcContext) -> i32 {
    from_site_full::<Ipv6>(&ctx)
}

#[inline(always)]
fn from_site_full<A: FamilyNextHop + FamilyMaps>(ctx: &TcContext) -> i32 {
    let skb = Skb::pulled(ctx);
    let (Some(settings), Some(identity)) = (decide::ready(&Maps), skb.identity()) else {
        return act::drop_unattributed(skb, Hook::InternetIngress, Reason::NotConfigured);
    };
    let now_ns = now_ns();
    let mut decision = decide::from_site_full::<A, _, _>(&skb, &Maps, settings, identity, now_ns);
    act::cut_padding(skb, settings, &mut decision);
    act::to_server::<A>(skb, settings, black_box(&decision), now_ns)
}

/// The last check before the internet: passes ESP of the right tunnel, IKE and allowed answers.
#[classifier]
pub fn internet_egress(ctx: TcContext) -> i32 {
    let skb = Skb::pulled(&ctx);
    let mark = skb.mark();
    let verdict = match decide::ready(&Maps) {
        None => Err(Reason::NotConfigured),
        Some(settings) => outer::classify_outgoing(&skb, settings, mark, outbound_owner),
    };
    if verdict == Ok(Outer::Ike) {
        count_charons_cookies(&skb);
    }
    act::outer(skb, Hook::InternetEgress, verdict)
}

/// Classifies an arriving outer frame, and charges it to its source. Packets that passed the XDP program are
/// charged already.
#[inline(always)]
fn outer_verdict(skb: &Skb, settings: &Settings) -> Result<Outer, Reason> {
    let mut arrival = outer::Arrival::uncharged();
    outer::classify_incoming_into(skb, settings, outbound_owner, &mut arrival)?;
    if settings.xdp == 0 {
        charge::charge(&arrival)?;
    }
    Ok(arrival.outer)
}

/// Counts a leaving packet with which charon asks for a cookie. Answers of the XDP program do not pass here.
#[inline(never)]
fn count_charons_cookies(skb: &Skb) {
    if outer::cookie::asks_for_cookie(skb) {
        count::charons_cookie();
    }
}

/// Returns the tunnel whose packet a path-MTU message quotes, or 0 if none is known.
#[inline(never)]
fn path_mtu_owner(skb: &Skb, settings: &Settings) -> u32 {
    match outer::quoted_esp(skb, &settings.internet) {
        Some(spi) => outbound_owner(spi).unwrap_or(0),
        None => 0,
    }
}
