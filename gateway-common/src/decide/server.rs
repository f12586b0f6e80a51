//! Rule two: a packet from the cloud LAN.
use super::{
    decision::{Decision, Syn},
    packet::InnerPacket,
    quota,
    tables::{FamilyTables, FlowCell, Scratch, Tables, ready},
};
use crate::{
    ids::TunnelId,
    layout::{family::LayoutFamily, settings::Settings, tunnel::Tunnel},
    packet::{
        fast::{FastFamily, FastPacket, FastSegment},
        inner::Inner,
        quote::Quote,
        segment::{Kind, Segment},
    },
    reason::Reason,
    tcp::{
        flow::{Flow, FlowKey, status},
        predict::predict,
        state::Direction,
        track,
    },
    time::Ticks,
    wire::{Frame, Ipv4, Ipv6, Words, ethertype, ethertype_of},
};

/// Rule two: a packet from the cloud LAN. A customer's server answers on a connection that exists,
/// into the tunnel that opened it, and nothing else.
#[inline(always)]
pub fn from_server<F, T>(frame: &F, tables: &T, now_ns: u64) -> Decision
where
    F: Frame + ?Sized,
    T: Tables + FamilyTables<Ipv4> + FamilyTables<Ipv6>,
{
    let Some(settings) = ready(tables) else { return Decision::undecided() };
    match ethertype_of(frame) {
        Some(ethertype::IPV6) => from_server_fast::<Ipv6, F, T>(frame, tables, settings, now_ns)
            .unwrap_or_else(|| from_server_full::<Ipv6, F, T>(frame, tables, settings, now_ns)),
        _ => from_server_fast::<Ipv4, F, T>(frame, tables, settings, now_ns)
            .unwrap_or_else(|| from_server_full::<Ipv4, F, T>(frame, tables, settings, now_ns)),
    }
}

/// Rule two for one address family, if it can be decided at once; a packet of another family cannot.
#[inline(always)]
pub fn from_server_fast<A, F, T>(frame: &F, tables: &T, settings: &Settings, now_ns: u64) -> Option<Decision>
where
    A: LayoutFamily + FastFamily,
    F: Frame + ?Sized,
    T: Tables + FamilyTables<A>,
{
    let tcp = A::tcp(frame)?;
    let mut decision = Decision::of(tables.customer(tcp.source())?, 0);
    if tcp.hop_limit() <= 1 {
        decision.verdict = Err(Reason::TtlExpired);
        return Some(decision);
    }
    let next = FastSegment::of(frame, &tcp)?;
    let from = Server { settings, customer: decision.customer };
    match answers(tables, &from, &tcp, &next, Ticks::from_ns(now_ns), &mut decision) {
        Ok(false) => return None,
        Ok(true) => decision.passes::<A>(tcp.bytes(), next.header_bytes),
        Err(reason) => decision.verdict = Err(reason),
    }
    Some(decision)
}

/// True for the next segment of a connection, which is done with then.
#[inline(always)]
fn answers<A, T, W>(
    tables: &T,
    from: &Server,
    tcp: &FastPacket<A, W>,
    next: &FastSegment<A, W>,
    now: Ticks,
    decision: &mut Decision,
) -> Result<bool, Reason>
where
    A: LayoutFamily + FastFamily,
    W: Words,
    T: Tables + FamilyTables<A>,
{
    let to = Reply {
        customer: from.customer,
        server: tcp.source(),
        server_port: tcp.source_port() as u16,
        device: tcp.destination(),
        device_port: tcp.destination_port() as u16,
        without_flow: Reason::ReplyWithoutConnection,
    };
    let mut goes_on = false;
    reply(tables, &to, now, decision, |flow, _| {
        goes_on = predict(flow, next, Direction::ToSite, from.settings, now);
        Ok(())
    })?;
    Ok(goes_on)
}

/// Rule two for one address family; a packet of another one is dropped.
#[inline(always)]
pub fn from_server_full<A, F, T>(frame: &F, tables: &T, settings: &Settings, now_ns: u64) -> Decision
where
    A: LayoutFamily,
    F: Frame + ?Sized,
    T: Tables + FamilyTables<A>,
{
    let mut decision = Decision::undecided();
    decision.verdict = admit::<A, F, T>(frame, tables, settings, now_ns, &mut decision);
    decision
}

#[inline(always)]
fn admit<A, F, T>(
    frame: &F,
    tables: &T,
    settings: &Settings,
    now_ns: u64,
    decision: &mut Decision,
) -> Result<(), Reason>
where
    A: LayoutFamily,
    F: Frame + ?Sized,
    T: Tables + FamilyTables<A>,
{
    let mut place = tables.inner_scratch().ok_or(Reason::NotConfigured)?;
    let packet = &*place.put(Inner::<A>::parse(frame)?);
    let customer = tables.customer(packet.source()).ok_or(Reason::SourceNotServer)?;
    decision.customer = customer;
    if packet.hop_limit() <= 1 {
        return Err(Reason::TtlExpired);
    }
    let now = Ticks::from_ns(now_ns);
    if packet.header.protocol == A::ICMP {
        let quote = Quote::parse(frame, packet)?;
        let to = Reply {
            customer,
            server: packet.header.source,
            server_port: quote.destination_port,
            device: quote.source,
            device_port: quote.source_port,
            without_flow: Reason::ReplyWithoutConnection,
        };
        if quote.destination != packet.header.source || quote.source != packet.header.destination {
            return Err(Reason::ReplyWithoutConnection);
        }
        reply(tables, &to, now, decision, |_, _| Ok(()))?;
        decision.passes::<A>(packet.total_bytes(), 0);
        return Ok(());
    }
    let mut place = tables.segment_scratch().ok_or(Reason::NotConfigured)?;
    let segment = &*place.put(Segment::parse(frame, packet)?);
    let to = Reply {
        customer,
        server: packet.header.source,
        server_port: segment.source,
        device: packet.header.destination,
        device_port: segment.destination,
        without_flow: match segment.kind as u8 == Kind::Syn as u8 {
            true => Reason::NewFromServer,
            false => Reason::ReplyWithoutConnection,
        },
    };
    let tunnel = reply(tables, &to, now, decision, |flow, confirmed| {
        let half_open = flow.has(status::HALF_OPEN);
        track::track(flow, segment, Direction::ToSite, settings, now)?;
        *confirmed = u8::from(half_open && !flow.has(status::HALF_OPEN));
        Ok(())
    })?;
    decision.passes::<A>(packet.total_bytes(), segment.options.header_bytes.into());
    decision.syn = Syn::of(segment, packet, A::access(tunnel).mss);
    Ok(())
}

/// Where a packet from the LAN comes from.
struct Server<'a> {
    settings: &'a Settings,
    customer: u32,
}

/// A packet of a server that answers.
struct Reply<A> {
    customer: u32,
    server: A,
    server_port: u16,
    device: A,
    device_port: u16,
    /// What it is if there is no connection.
    without_flow: Reason,
}

/// Looks up the connection, and the tunnel it belongs to, and runs `change` on the flow; that may say
/// that the handshake is complete.
#[inline(always)]
fn reply<'t, A, T>(
    tables: &'t T,
    to: &Reply<A>,
    now: Ticks,
    decision: &mut Decision,
    change: impl FnOnce(&mut Flow, &mut u8) -> Result<(), Reason>,
) -> Result<&'t Tunnel, Reason>
where
    A: LayoutFamily,
    T: Tables + FamilyTables<A>,
{
    let key = FlowKey::new(to.customer, to.device, to.device_port);
    let cell = tables.flow(&key).ok_or(to.without_flow)?;
    let owner = TunnelId::new(cell.tunnel()).ok_or(to.without_flow)?;
    decision.tunnel = owner.get();
    let tunnel = tables.tunnel(owner.get()).ok_or(Reason::UnknownTunnel)?;
    if tunnel.customer != to.customer {
        return Err(Reason::UnknownTunnel);
    }
    if tunnel.up != 1 {
        return Err(Reason::TunnelDown);
    }
    let access = A::access(tunnel);
    let still_allowed = access.server == to.server && access.has(to.device);
    let mut confirmed = 0;
    cell.locked(|flow| {
        // The tunnel was looked up without the lock: the flow may have been reopened since.
        if flow.tunnel != owner.get() || flow.is_over(now) {
            return Err(to.without_flow);
        }
        if !still_allowed || flow.generation != tunnel.generation {
            return Err(Reason::FlowNoLongerAllowed);
        }
        // The flow's port is the tunnel's: its generation says so.
        if to.server_port != tunnel.port {
            return Err(to.without_flow);
        }
        change(flow, &mut confirmed)
    })?;
    if confirmed == 1 {
        quota::confirm(tables, to.customer);
    }
    Ok(tunnel)
}
