//! Rule two: a packet from the cloud LAN. A customer's server answers on an existing connection, into the
//! tunnel that opened it, and sends nothing else.
use super::{
    decision::{Decision, Syn},
    packet::InnerPacket,
    quota,
    tables::{FamilyTables, FlowCell, Scratch, Tables, ready},
};
use crate::{
    ids::TunnelId,
    layout::{
        family::LayoutFamily,
        settings::Settings,
        tunnel::{NO_PREFIX, Tunnel},
    },
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

/// Decides about a packet from the cloud LAN, of either family.
#[inline(always)]
pub fn from_server<F, T>(frame: &F, tables: &T, now_ns: u64) -> Decision
where
    F: Frame + ?Sized,
    T: Tables + FamilyTables<Ipv4> + FamilyTables<Ipv6>,
{
    let Some(settings) = ready(tables) else { return Decision::not_configured() };
    match ethertype_of(frame) {
        Some(ethertype::IPV6) => from_server_fast::<Ipv6, F, T>(frame, tables, settings, now_ns)
            .unwrap_or_else(|| from_server_full::<Ipv6, F, T>(frame, tables, settings, now_ns)),
        _ => from_server_fast::<Ipv4, F, T>(frame, tables, settings, now_ns)
            .unwrap_or_else(|| from_server_full::<Ipv4, F, T>(frame, tables, settings, now_ns)),
    }
}

/// Decides about a packet of one family on the fast path. Returns `None` for a packet that needs the full
/// path, or of another family.
#[inline(always)]
pub fn from_server_fast<A, F, T>(frame: &F, tables: &T, settings: &Settings, now_ns: u64) -> Option<Decision>
where
    A: LayoutFamily + FastFamily,
    F: Frame + ?Sized,
    T: Tables + FamilyTables<A>,
{
    // The stack cuts off what follows the packet (ip_rcv_core in net/ipv4/ip_input.c): small frames are padded.
    let tcp = A::tcp(frame, false)?;
    let mut decision = Decision::of(tables.customer(tcp.source())?, 0);
    if tcp.hop_limit() <= 1 {
        decision.verdict = Err(Reason::TtlExpired);
        return Some(decision);
    }
    let next = FastSegment::of(frame, &tcp)?;
    let from = Server { settings, customer: decision.customer };
    match predict_reply(tables, &from, &tcp, &next, Ticks::from_ns(now_ns), &mut decision) {
        Ok(false) => return None,
        Ok(true) => decision.pass::<A>(tcp.bytes(), next.header_bytes),
        Err(reason) => decision.verdict = Err(reason),
    }
    Some(decision)
}

/// Returns true for the expected next segment of a connection, and updates its flow.
#[inline(always)]
fn predict_reply<A, T, W>(
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
    let mut predicted = false;
    with_reply_flow(tables, &to, now, decision, |flow, _| {
        predicted = predict(flow, next, Direction::ToSite, from.settings, now);
        Ok(())
    })?;
    Ok(predicted)
}

/// Decides about a packet of one family on the full path. Drops packets of another family.
#[inline(always)]
pub fn from_server_full<A, F, T>(frame: &F, tables: &T, settings: &Settings, now_ns: u64) -> Decision
where
    A: LayoutFamily,
    F: Frame + ?Sized,
    T: Tables + FamilyTables<A>,
{
    let mut decision = Decision::not_configured();
    decision.verdict = admit::<A, F, T>(frame, tables, settings, now_ns, &mut decision);
    decision
}

/// Runs the checks in order and fills in the decision on the way.
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
    let mut scratch = tables.inner_scratch().ok_or(Reason::NotConfigured)?;
    let packet = &*scratch.put(Inner::<A>::parse(frame)?);
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
        with_reply_flow(tables, &to, now, decision, |_, _| Ok(()))?;
        decision.pass::<A>(packet.total_bytes(), 0);
        return Ok(());
    }
    let mut scratch = tables.segment_scratch().ok_or(Reason::NotConfigured)?;
    let segment = &*scratch.put(Segment::parse(frame, packet)?);
    let to = Reply {
        customer,
        server: packet.header.source,
        server_port: segment.source,
        device: packet.header.destination,
        device_port: segment.destination,
        without_flow: match segment.kind == Kind::Syn {
            true => Reason::NewFromServer,
            false => Reason::ReplyWithoutConnection,
        },
    };
    let tunnel = with_reply_flow(tables, &to, now, decision, |flow, confirmed| {
        let half_open = flow.has(status::HALF_OPEN);
        track::track(flow, segment, Direction::ToSite, settings, now)?;
        *confirmed = u8::from(half_open && !flow.has(status::HALF_OPEN));
        Ok(())
    })?;
    decision.pass::<A>(packet.total_bytes(), segment.options.header_bytes.into());
    decision.syn = Syn::of(segment, packet, A::access(tunnel).mss);
    Ok(())
}

/// The sender of a packet from the LAN.
struct Server<'a> {
    settings: &'a Settings,
    customer: u32,
}

/// A server's packet, as an answer to a device.
struct Reply<A> {
    customer: u32,
    server: A,
    server_port: u16,
    device: A,
    device_port: u16,
    /// The reason to drop it if there is no connection.
    without_flow: Reason,
}

/// Looks up the flow that the reply belongs to, the site that owns the flow and the mark of the site's tunnel that
/// answers to the device take, and runs `change` on the flow. `change` sets its second argument to 1 if the
/// handshake is complete.
#[inline(always)]
fn with_reply_flow<'t, A, T>(
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
    let mark = access.mark_of(to.device);
    if mark == 0 {
        return Err(Reason::TunnelDown);
    }
    let still_allowed = access.server == to.server && mark != NO_PREFIX;
    decision.mark = mark;
    let mut confirmed = 0;
    cell.locked(|flow| {
        // The tunnel was looked up without the lock; the flow may have been reopened since.
        if flow.tunnel != owner.get() || flow.is_over(now) {
            return Err(to.without_flow);
        }
        if !still_allowed || flow.generation != tunnel.generation {
            return Err(Reason::FlowNoLongerAllowed);
        }
        // The flow's port is the tunnel's, because their generations are equal.
        if to.server_port != tunnel.port {
            return Err(to.without_flow);
        }
        change(flow, &mut confirmed)
    })?;
    if confirmed == 1 {
        quota::confirm(tables, to.customer, owner.get());
    }
    Ok(tunnel)
}
