//! Rule one: a packet out of a tunnel. The site's LAN may reach its customer's server and port, and only
//! this side opens connections.
use super::{
    decision::{Decision, Syn},
    identity::{Identity, Site, identify},
    opening::{Lookup, Opening, look_up, open_flow},
    packet::InnerPacket,
    quota,
    tables::{FamilyTables, FlowCell, Scratch, Tables, ready},
};
use crate::{
    layout::{family::LayoutFamily, settings::Settings, tunnel::NO_PREFIX},
    packet::{
        fast::{FastFamily, FastPacket, FastSegment},
        inner::Inner,
        quote::Quote,
        segment::Segment,
    },
    reason::Reason,
    tcp::{flow::FlowKey, predict::predict, state::Direction},
    time::Ticks,
    wire::{Frame, Ipv4, Ipv6, TcpHeader, Words, ethertype, ethertype_of},
};

/// Decides about a packet out of a tunnel, of either family.
#[inline(always)]
pub fn from_site<F, T>(frame: &F, tables: &T, identity: Identity, now_ns: u64) -> Decision
where
    F: Frame + ?Sized,
    T: Tables + FamilyTables<Ipv4> + FamilyTables<Ipv6>,
{
    let Some(settings) = ready(tables) else { return Decision::not_configured() };
    match ethertype_of(frame) {
        Some(ethertype::IPV6) => from_site_fast::<Ipv6, F, T>(frame, tables, settings, identity, now_ns)
            .unwrap_or_else(|| from_site_full::<Ipv6, F, T>(frame, tables, settings, identity, now_ns)),
        _ => from_site_fast::<Ipv4, F, T>(frame, tables, settings, identity, now_ns)
            .unwrap_or_else(|| from_site_full::<Ipv4, F, T>(frame, tables, settings, identity, now_ns)),
    }
}

/// Decides about a packet of one family on the fast path. Returns `None` for a packet that needs the full
/// path, or of another family.
#[inline(always)]
pub fn from_site_fast<A, F, T>(
    frame: &F,
    tables: &T,
    settings: &Settings,
    identity: Identity,
    now_ns: u64,
) -> Option<Decision>
where
    A: LayoutFamily + FastFamily,
    F: Frame + ?Sized,
    T: Tables + FamilyTables<A>,
{
    let site = identify(tables, settings, identity).ok().filter(Site::is_up)?;
    // The full path's caller cuts off what follows the packet (RFC 4303 section 2.7).
    let tcp = A::tcp(frame, true)?;
    let mut decision = Decision::of(site.tunnel.customer, site.id.get());
    decision.verdict = check_access(frame, &site, &tcp);
    if decision.verdict.is_err() {
        return Some(decision);
    }
    if tcp.destination_port() != u32::from(site.tunnel.port) {
        decision.verdict = Err(Reason::PortNotAllowed);
        return tcp.is_segment().then_some(decision);
    }
    let next = FastSegment::of(frame, &tcp)?;
    if !predict_flow(tables, &site, &tcp, &next, Ticks::from_ns(now_ns)) {
        return None;
    }
    decision.pass::<A>(tcp.bytes(), next.header_bytes);
    Some(decision)
}

/// Returns true for the expected next segment of one of the site's connections, and updates its flow.
#[inline(always)]
fn predict_flow<A, T, W>(
    tables: &T,
    site: &Site,
    tcp: &FastPacket<A, W>,
    next: &FastSegment<A, W>,
    now: Ticks,
) -> bool
where
    A: LayoutFamily + FastFamily,
    W: Words,
    T: Tables + FamilyTables<A>,
{
    let Site { settings, id, tunnel } = *site;
    let key = FlowKey::new(tunnel.customer, tcp.source(), tcp.source_port() as u16);
    let Some(cell) = tables.flow(&key) else { return false };
    cell.locked(|flow| {
        flow.tunnel == id.get()
            && flow.generation == tunnel.generation
            && !flow.expires.has_come(now)
            && predict(flow, next, Direction::ToServer, settings, now)
    })
}

/// Decides about a packet of one family on the full path. Drops packets of another family.
#[inline(always)]
pub fn from_site_full<A, F, T>(
    frame: &F,
    tables: &T,
    settings: &Settings,
    identity: Identity,
    now_ns: u64,
) -> Decision
where
    A: LayoutFamily,
    F: Frame + ?Sized,
    T: Tables + FamilyTables<A>,
{
    let mut decision = Decision::not_configured();
    decision.verdict = admit::<A, F, T>(frame, tables, settings, identity, now_ns, &mut decision);
    decision
}

/// Runs the checks in order and fills in the decision on the way.
#[inline(always)]
fn admit<A, F, T>(
    frame: &F,
    tables: &T,
    settings: &Settings,
    identity: Identity,
    now_ns: u64,
    decision: &mut Decision,
) -> Result<(), Reason>
where
    A: LayoutFamily,
    F: Frame + ?Sized,
    T: Tables + FamilyTables<A>,
{
    let site = &identify(tables, settings, identity)?;
    let tunnel = site.tunnel;
    (decision.customer, decision.tunnel) = (tunnel.customer, site.id.get());
    if !site.is_up() {
        return Err(Reason::TunnelDown);
    }
    let mut scratch = tables.inner_scratch().ok_or(Reason::NotConfigured)?;
    let packet = &*scratch.put(Inner::<A>::parse(frame)?);
    check_access(frame, site, packet)?;
    let now = Ticks::from_ns(now_ns);
    if packet.header.protocol == A::ICMP {
        path_mtu_to_server::<A, F, T>(frame, tables, site, now)?;
        decision.pass::<A>(packet.total_bytes(), 0);
        return Ok(());
    }
    let mut scratch = tables.segment_scratch().ok_or(Reason::NotConfigured)?;
    let segment = &*scratch.put(Segment::parse(frame, packet)?);
    if segment.destination != tunnel.port {
        return Err(Reason::PortNotAllowed);
    }
    let key = FlowKey::new(tunnel.customer, packet.header.source, segment.source);
    let lookup = match tables.flow(&key) {
        None => Lookup::Nothing,
        Some(cell) => cell.locked(|flow| look_up(flow, segment, site, now))?,
    };
    let lookup = lookup as u8;
    if Lookup::Confirmed.is(lookup) {
        quota::confirm(tables, tunnel.customer, site.id.get());
    } else if !Lookup::Continues.is(lookup) {
        open_flow(tables, site, &key, segment, Opening { lookup, now_ns })?;
        decision.opened = true;
    }
    decision.pass::<A>(packet.total_bytes(), segment.options.header_bytes.into());
    decision.syn = Syn::of(segment, packet, A::access(tunnel).mss);
    Ok(())
}

/// Checks the addresses and the size of a packet from a site.
#[inline(always)]
fn check_access<A, F, P>(frame: &F, site: &Site, packet: &P) -> Result<(), Reason>
where
    A: LayoutFamily,
    F: Frame + ?Sized,
    P: InnerPacket<A>,
{
    let access = A::access(site.tunnel);
    if packet.hop_limit() <= 1 {
        return Err(Reason::TtlExpired);
    }
    match access.mark_of(packet.source()) {
        NO_PREFIX => return Err(Reason::InnerSourceNotInSite),
        // No CHILD_SA has negotiated this prefix now, so none would take the answer.
        0 => return Err(Reason::TunnelDown),
        _ => {}
    }
    if packet.destination() != access.server {
        return Err(Reason::DestinationNotServer);
    }
    let most = site.settings.lan_mtu;
    if packet.bytes() > most && largest_bytes::<A, F>(frame, packet.bytes()) > most {
        return Err(Reason::TooBigForLan);
    }
    Ok(())
}

/// Returns the bytes of the largest packet that the frame will be sent as: GRO may have merged several.
#[inline(always)]
fn largest_bytes<A: LayoutFamily, F: Frame + ?Sized>(frame: &F, bytes: u32) -> u32 {
    const TCP_HEADER_BYTES: u32 = size_of::<TcpHeader>() as u32;
    match frame.segment_bytes() {
        0 => bytes,
        segment => segment + A::HEADER_BYTES as u32 + TCP_HEADER_BYTES,
    }
}

/// Allows a "too big" message to the server if it is about one of the site's connections. Out of line:
/// keeps its locals off the caller's 512-byte stack. For the same reason it parses the packet again.
#[inline(never)]
fn path_mtu_to_server<A, F, T>(frame: &F, tables: &T, site: &Site, now: Ticks) -> Result<(), Reason>
where
    A: LayoutFamily,
    F: Frame + ?Sized,
    T: Tables + FamilyTables<A>,
{
    let Site { id, tunnel, .. } = *site;
    let quote = Quote::parse(frame, &Inner::<A>::parse(frame)?)?;
    let is_from_server = quote.source == A::access(tunnel).server && quote.source_port == tunnel.port;
    let key = FlowKey::new(tunnel.customer, quote.destination, quote.destination_port);
    let cell = tables.flow(&key).filter(|_| is_from_server).ok_or(Reason::NoConnection)?;
    let ours = cell.locked(|flow| flow.tunnel == id.get() && flow.is_live(tunnel.generation, now));
    if ours { Ok(()) } else { Err(Reason::NoConnection) }
}
