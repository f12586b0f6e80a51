//! Rule one: a packet out of a tunnel. The site's LAN → its customer's server and port, and new connections
//! from this side only.
use super::{
    Decision, FamilyTables, FlowCell, Identity, NotInserted, Packet, Place, Tables, key, lives,
    quota::{self, Charge},
    syn,
};
use crate::{
    family::Tcp,
    ids::TunnelId,
    layout::{Flow, FlowKey, Kept, Settings, Ticks, Tunnel},
    packet::{Inner, Quote, Segment},
    predict::{Next, predict},
    reason::Reason,
    tcp::{Direction, State},
    track::{self, Tracked, status},
    wire::{Frame, Words},
};

/// Rule one for one address family, if it can be decided at once; a packet of another family cannot.
#[inline(always)]
pub fn from_site_at_once<A, F, T>(
    frame: &F,
    tables: &T,
    settings: &Settings,
    identity: Identity,
    now_ns: u64,
) -> Option<Decision>
where
    A: Kept,
    F: Frame + ?Sized,
    T: Tables + FamilyTables<A>,
{
    let site = identify(tables, settings, identity).ok().filter(Site::is_up)?;
    let tcp = A::tcp(frame)?;
    let mut decision = Decision::of(site.tunnel.customer, site.id.get());
    decision.verdict = allowed(frame, &site, &tcp);
    if decision.verdict.is_err() {
        return Some(decision);
    }
    if tcp.destination_port() != u32::from(site.tunnel.port) {
        decision.verdict = Err(Reason::PortNotAllowed);
        return tcp.is_segment().then_some(decision);
    }
    let next = Next::of(frame, &tcp)?;
    if !goes_on(tables, &site, &tcp, &next, Ticks::from_ns(now_ns)) {
        return None;
    }
    decision.passes::<A>(tcp.bytes(), next.header_bytes);
    Some(decision)
}

/// True for the next segment of one of the site's connections, which is done with then.
#[inline(always)]
fn goes_on<A, T, W>(tables: &T, site: &Site, tcp: &Tcp<A, W>, next: &Next<A, W>, now: Ticks) -> bool
where
    A: Kept,
    W: Words,
    T: Tables + FamilyTables<A>,
{
    let Site { settings, id, tunnel } = *site;
    let key = key(tunnel.customer, tcp.source(), tcp.source_port() as u16);
    let Some(cell) = tables.flow(&key) else { return false };
    cell.locked(|flow| {
        flow.tunnel == id.get()
            && flow.generation == tunnel.generation
            && !flow.expires.has_come(now)
            && predict(flow, next, Direction::ToServer, settings, now)
    })
}

/// Rule one for one address family; a packet of another one is dropped.
#[inline(always)]
pub fn from_site_in<A, F, T>(
    frame: &F,
    tables: &T,
    settings: &Settings,
    identity: Identity,
    now_ns: u64,
) -> Decision
where
    A: Kept,
    F: Frame + ?Sized,
    T: Tables + FamilyTables<A>,
{
    let mut decision = Decision::undecided();
    decision.verdict = admit::<A, F, T>(frame, tables, settings, identity, now_ns, &mut decision);
    decision
}

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
    A: Kept,
    F: Frame + ?Sized,
    T: Tables + FamilyTables<A>,
{
    let site = &identify(tables, settings, identity)?;
    let tunnel = site.tunnel;
    (decision.customer, decision.tunnel) = (tunnel.customer, site.id.get());
    if !site.is_up() {
        return Err(Reason::TunnelDown);
    }
    let mut place = tables.inner_place().ok_or(Reason::NotConfigured)?;
    let packet = &*place.keep(Inner::<A>::parse(frame)?);
    allowed(frame, site, packet)?;
    let now = Ticks::from_ns(now_ns);
    if packet.header.protocol == A::ICMP {
        path_mtu_to_server::<A, F, T>(frame, tables, site, now)?;
        decision.passes::<A>(packet.total_bytes(), 0);
        return Ok(());
    }
    let mut place = tables.segment_place().ok_or(Reason::NotConfigured)?;
    let segment = &*place.keep(Segment::parse(frame, packet)?);
    if segment.destination != tunnel.port {
        return Err(Reason::PortNotAllowed);
    }
    let key = key(tunnel.customer, packet.header.source, segment.source);
    let met = match tables.flow(&key) {
        None => Met::None,
        Some(cell) => cell.locked(|flow| meet(flow, segment, site, now))?,
    };
    let met = met as u8;
    if met == Met::Confirmed as u8 {
        quota::confirm(tables, tunnel.customer);
    } else if met != Met::GoesOn as u8 {
        open(tables, site, &key, segment, Opening { met, now_ns })?;
        decision.opened = true;
    }
    decision.passes::<A>(packet.total_bytes(), segment.options.header_bytes.into());
    decision.syn = syn(segment, packet, A::access(tunnel).mss);
    Ok(())
}

/// Where a packet out of a tunnel comes from.
struct Site<'a> {
    settings: &'a Settings,
    id: TunnelId,
    tunnel: &'a Tunnel,
}

impl Site<'_> {
    #[inline(always)]
    fn is_up(&self) -> bool {
        self.tunnel.up == 1
    }
}

/// The tunnel that the kernel decrypted the packet with; every source must agree.
#[inline(always)]
fn identify<'a, T: Tables>(
    tables: &'a T,
    settings: &'a Settings,
    identity: Identity,
) -> Result<Site<'a>, Reason> {
    let id = TunnelId::new(identity.reqid).ok_or(Reason::UnknownTunnel)?;
    let tunnel = tables.tunnel(id.get()).ok_or(Reason::UnknownTunnel)?;
    if tunnel.customer == 0 {
        return Err(Reason::UnknownTunnel);
    }
    if identity.mark != id.get() {
        return Err(Reason::MarkContradictsTunnel);
    }
    // The same table's, nearer at hand.
    if identity.spi == tunnel.inbound_spis[0] || identity.spi == tunnel.inbound_spis[1] {
        return Ok(Site { settings, id, tunnel });
    }
    match tables.inbound_spi(identity.spi) {
        Some(owner) if owner != id.get() => Err(Reason::SpiContradictsTunnel),
        _ => Ok(Site { settings, id, tunnel }),
    }
}

/// What is asked of every packet of a site.
#[inline(always)]
fn allowed<A, F, P>(frame: &F, site: &Site, packet: &P) -> Result<(), Reason>
where
    A: Kept,
    F: Frame + ?Sized,
    P: Packet<A>,
{
    let access = A::access(site.tunnel);
    if packet.hop_limit() <= 1 {
        return Err(Reason::TtlExpired);
    }
    if !access.has(packet.source()) {
        return Err(Reason::InnerSourceNotInSite);
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

/// Bytes of the largest packet that a frame is sent as: GRO may have merged several.
#[inline(always)]
fn largest_bytes<A: Kept, F: Frame + ?Sized>(frame: &F, bytes: u32) -> u32 {
    const TCP_HEADER_BYTES: u32 = size_of::<crate::wire::TcpHeader>() as u32;
    match frame.segment_bytes() {
        0 => bytes,
        segment => segment + A::HEADER_BYTES as u32 + TCP_HEADER_BYTES,
    }
}

/// A message that a packet of the server's was too big, on its way back: only about a connection that
/// there is. In eBPF a function of its own, so that it takes no room on the caller's stack; for the same reason
/// it parses the packet once more.
#[inline(never)]
fn path_mtu_to_server<A, F, T>(frame: &F, tables: &T, site: &Site, now: Ticks) -> Result<(), Reason>
where
    A: Kept,
    F: Frame + ?Sized,
    T: Tables + FamilyTables<A>,
{
    let Site { id, tunnel, .. } = *site;
    let quote = Quote::parse(frame, &Inner::<A>::parse(frame)?)?;
    let asked = quote.source == A::access(tunnel).server && quote.source_port == tunnel.port;
    let key = key(tunnel.customer, quote.destination, quote.destination_port);
    let cell = tables.flow(&key).filter(|_| asked).ok_or(Reason::NoConnection)?;
    let ours = cell.locked(|flow| flow.tunnel == id.get() && lives(flow, tunnel, now));
    if ours { Ok(()) } else { Err(Reason::NoConnection) }
}

/// How a flow is to be opened.
struct Opening {
    /// A [`Met`] number.
    met: u8,
    now_ns: u64,
}

/// Opens a flow, if the segment opens one and the customer's quota has room for it. In eBPF a function of
/// its own, so that it takes no room on the caller's stack.
#[inline(never)]
fn open<A, T>(
    tables: &T,
    site: &Site,
    key: &FlowKey<A>,
    segment: &Segment,
    opening: Opening,
) -> Result<(), Reason>
where
    A: Kept,
    T: Tables + FamilyTables<A>,
{
    let Site { settings, id, tunnel } = *site;
    let Opening { met, now_ns } = opening;
    let now = Ticks::from_ns(now_ns);
    let mut place = tables.flow_place().ok_or(Reason::NotConfigured)?;
    let flow = place.keep(Flow::default());
    if !track::open(flow, segment, settings, now) {
        return Err(Reason::NoConnection);
    }
    // A server's answer to an address of ours would end at the gateway itself.
    if settings.is_own(key.lan_address) {
        return Err(Reason::InnerSourceNotInSite);
    }
    if met == Met::Ending as u8 {
        return Err(Reason::FlowChanging);
    }
    flow.tunnel = id.get();
    flow.generation = tunnel.generation;
    let charge = Charge {
        flows: u32::from(met == Met::None as u8),
        half_open: u32::from(met != Met::OverHalfOpen as u8),
    };
    quota::take(tables, tunnel, charge, now_ns)?;
    if met == Met::None as u8 {
        let why = match tables.insert_flow(key, flow, now) {
            Ok(()) => return Ok(()),
            Err(why) => why,
        };
        quota::give_back(tables, tunnel.customer, charge);
        return match why {
            NotInserted::Full => Err(Reason::FlowTableFull),
            NotInserted::Exists => Err(Reason::FlowChanging),
        };
    }
    let replaced = tables.flow(key).is_some_and(|cell| {
        cell.locked(|old| {
            // Another CPU may have been faster, with a copy of this SYN.
            let over = !lives(old, tunnel, now) || is_replaceable(old.state());
            let unchanged =
                old.state() != 0 && over && u32::from(!old.has(status::HALF_OPEN)) == charge.half_open;
            if unchanged {
                old.replace(*flow);
            }
            unchanged
        })
    });
    if !replaced {
        quota::give_back(tables, tunnel.customer, charge);
        return Err(Reason::FlowChanging);
    }
    Ok(())
}

/// A state in which [`track::track`] may find that a SYN opens another connection.
#[inline(always)]
fn is_replaceable(state: u8) -> bool {
    state == State::TimeWait as u8 || state == State::Close as u8
}

/// What a segment from the site found in the table.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Met {
    /// Nothing.
    None = 0,
    /// A connection that it belongs to.
    GoesOn = 1,
    /// Such a one, whose handshake it completes.
    Confirmed = 2,
    /// One that is over.
    Over = 3,
    /// One that is over, and was half-open.
    OverHalfOpen = 4,
    /// One that is being removed.
    Ending = 5,
}

#[inline(always)]
fn meet(flow: &mut Flow, segment: &Segment, site: &Site, now: Ticks) -> Result<Met, Reason> {
    if flow.state() == 0 {
        return Ok(Met::Ending);
    }
    let half_open = flow.has(status::HALF_OPEN);
    let over = if half_open { Met::OverHalfOpen } else { Met::Over };
    // A flow whose time is over is no flow, whatever tunnel it belonged to.
    if flow.expires.has_come(now) || flow.generation != site.tunnel.generation {
        return Ok(over);
    }
    if flow.tunnel != site.id.get() {
        return Err(Reason::FlowOwnedByOtherTunnel);
    }
    let tracked = track::track(flow, segment, Direction::ToServer, site.settings, now)?;
    if tracked as u8 != Tracked::On as u8 {
        // Not over by the clock, but the SYN may open another one in its place if there is room for it.
        return Ok(over);
    }
    Ok(if half_open && !flow.has(status::HALF_OPEN) { Met::Confirmed } else { Met::GoesOn })
}
