//! The decision about an inner packet: pure, so that the eBPF programs and the tests run this
//! very code. parse → identify the tunnel → look up the flow → decide.
//!
//! In two steps, which are programs of their own in eBPF: what can be decided at once, which is nearly every
//! packet, since it is the next one of its connection or never allowed; and all the rest, from the beginning.
//!
//! What is allowed is asked of every packet, not of a connection's first: a policy that changes, or a
//! tunnel that goes, holds for the very next packet.
use crate::{
    family::{Family, Tcp},
    ids::TunnelId,
    layout::{Flow, FlowKey, Kept, Quota, Settings, Ticks, Tunnel, Usage},
    packet::{Inner, Kind, Mss, Quote, Segment, ethertype_of},
    predict::{Next, predict},
    reason::Reason,
    tcp::{Direction, State},
    track::{self, Tracked, status},
    verdict::Verdict,
    wire::{Frame, Ipv4, Ipv6, ethertype},
};

/// What the decision looks things up in: eBPF maps, or ordinary ones on the host.
pub trait Tables {
    /// What holds for the whole gateway.
    fn settings(&self) -> Option<&Settings>;
    /// The tunnel of this number.
    fn tunnel(&self, number: u32) -> Option<&Tunnel>;
    /// The tunnel that an inbound SPI is known to belong to.
    fn inbound_spi(&self, spi: u32) -> Option<u32>;
    /// What the customer of this number has taken.
    fn usage(&self, customer: u32) -> Option<impl UsageCell>;
    /// Where a segment is kept while it is judged. In eBPF that is a map: the verifier follows every
    /// combination of what parsing found out, and forgets them all where a value comes from memory.
    #[inline(always)]
    fn segment_place(&self) -> Option<impl Place<Segment>> {
        Some(Local(None))
    }
    /// Where a new flow is kept on its way into its table. In eBPF that is a map, since the stack has
    /// little room.
    #[inline(always)]
    fn flow_place(&self) -> Option<impl Place<Flow>> {
        Some(Local(None))
    }
}

/// Where a value is kept.
pub trait Place<T> {
    /// Keeps it.
    fn keep(&mut self, value: T) -> &mut T;
}

struct Local<T>(Option<T>);

impl<T> Place<T> for Local<T> {
    fn keep(&mut self, value: T) -> &mut T {
        self.0.insert(value)
    }
}

/// What the decision looks up for one address family.
pub trait FamilyTables<A> {
    /// The number of the customer whose server has this address.
    fn customer(&self, server: A) -> Option<u32>;
    /// The flow of this key.
    fn flow(&self, key: &FlowKey<A>) -> Option<impl FlowCell>;
    /// Where a packet's header is kept while it is judged, as [`Tables::flow_place`].
    #[inline(always)]
    fn inner_place(&self) -> Option<impl Place<Inner<A>>> {
        Some(Local(None))
    }
    /// Adds a flow, and sees to it that it is removed after its end.
    fn insert_flow(&self, key: &FlowKey<A>, flow: &Flow, now: Ticks) -> Result<(), NotInserted>;
}

/// A flow in its table, where others may be changing it.
pub trait FlowCell {
    /// Its tunnel, as of now.
    fn tunnel(&self) -> u32;
    /// Runs `change` with nobody else changing the flow.
    fn locked<R>(&self, change: impl FnOnce(&mut Flow) -> R) -> R;
}

/// A customer's usage in its table, where others may be changing it.
pub trait UsageCell {
    /// Runs `change` with nobody else changing it.
    fn locked<R>(&self, change: impl FnOnce(&mut Usage) -> R) -> R;
}

/// Why a flow was not added.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum NotInserted {
    /// The table is full.
    Full = 0,
    /// There is one of this key: another CPU has just opened it.
    Exists = 1,
}

/// Who sent a decapsulated packet, from two independent sources of the kernel: the SA that
/// decrypted it, and the mark that this SA's policy set (FACTS 6).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    /// reqid of the SA.
    pub reqid: u32,
    /// SPI of the SA, host byte order.
    pub spi: u32,
    /// skb->mark.
    pub mark: u32,
}

/// A verdict, and whom it is counted for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Decision {
    /// What becomes of the packet.
    pub verdict: Verdict,
    /// Customer number, 0 if not known.
    pub customer: u32,
    /// Tunnel number, 0 if not known.
    pub tunnel: u32,
    /// Set for a SYN or SYN-ACK that passes and whose MSS option is to be lowered.
    pub syn: Option<Syn>,
    /// The packet opened a flow.
    pub opened: bool,
    /// It is IPv6.
    pub v6: bool,
    /// Bytes of its IP and TCP headers, which each of the segments has that GRO merged.
    pub header_bytes: u16,
    /// Bytes of a packet that passes, from the IP header on.
    pub bytes: u32,
}

/// What lowering a SYN's MSS needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Syn {
    /// The largest segment that fits the tunnel, in bytes.
    pub mss: u16,
    /// The option that asks for more.
    pub offered: Mss,
    /// Where the TCP header begins, in bytes from the frame's start.
    pub transport: u8,
}

impl Decision {
    const fn undecided() -> Self {
        Self {
            verdict: Verdict::Drop(Reason::NotConfigured),
            customer: 0,
            tunnel: 0,
            syn: None,
            opened: false,
            v6: false,
            header_bytes: 0,
            bytes: 0,
        }
    }
}

/// Rule one: a packet out of a tunnel. The site's LAN → its customer's server and port, and new
/// connections from this side only.
#[inline(always)]
pub fn from_site<F, T>(frame: &F, tables: &T, identity: Identity, now_ns: u64) -> Decision
where
    F: Frame + ?Sized,
    T: Tables + FamilyTables<Ipv4> + FamilyTables<Ipv6>,
{
    match ethertype_of(frame) {
        Some(ethertype::IPV6) => from_site_at_once::<Ipv6, F, T>(frame, tables, identity, now_ns)
            .unwrap_or_else(|| from_site_in::<Ipv6, F, T>(frame, tables, identity, now_ns)),
        _ => from_site_at_once::<Ipv4, F, T>(frame, tables, identity, now_ns)
            .unwrap_or_else(|| from_site_in::<Ipv4, F, T>(frame, tables, identity, now_ns)),
    }
}

/// Rule two: a packet from the cloud LAN. A customer's server answers on a connection that exists,
/// into the tunnel that opened it, and nothing else.
#[inline(always)]
pub fn from_server<F, T>(frame: &F, tables: &T, now_ns: u64) -> Decision
where
    F: Frame + ?Sized,
    T: Tables + FamilyTables<Ipv4> + FamilyTables<Ipv6>,
{
    match ethertype_of(frame) {
        Some(ethertype::IPV6) => from_server_at_once::<Ipv6, F, T>(frame, tables, now_ns)
            .unwrap_or_else(|| from_server_in::<Ipv6, F, T>(frame, tables, now_ns)),
        _ => from_server_at_once::<Ipv4, F, T>(frame, tables, now_ns)
            .unwrap_or_else(|| from_server_in::<Ipv4, F, T>(frame, tables, now_ns)),
    }
}

/// Rule one for one address family, if it can be decided at once; a packet of another family is dropped.
#[inline(always)]
pub fn from_site_at_once<A, F, T>(frame: &F, tables: &T, identity: Identity, now_ns: u64) -> Option<Decision>
where
    A: Kept,
    F: Frame + ?Sized,
    T: Tables + FamilyTables<A>,
{
    let mut decision = Decision::undecided();
    let tcp = at_once::<A, F>(frame)?;
    let known = to_server(
        frame,
        tables,
        identity,
        &mut decision,
        || Ok(&tcp),
        |site, tcp: &Tcp<A>, decision| {
            if tcp.destination_port() != u32::from(site.tunnel.port) {
                return if tcp.is_segment() { Err(Reason::PortNotAllowed) } else { Ok(None) };
            }
            let Some(next) = Next::of(frame, tcp) else { return Ok(None) };
            if !goes_on(tables, site, tcp, &next, Ticks::from_ns(now_ns)) {
                return Ok(None);
            }
            decision.passes::<A>(tcp.bytes(), next.header_bytes);
            Ok(Some(site.id))
        },
    );
    decision.verdict = match known {
        Ok(None) => return None,
        Ok(Some(tunnel)) => Verdict::ToServer(tunnel),
        Err(reason) => Verdict::Drop(reason),
    };
    Some(decision)
}

/// Rule two for one address family, if it can be decided at once; a packet of another family is dropped.
#[inline(always)]
pub fn from_server_at_once<A, F, T>(frame: &F, tables: &T, now_ns: u64) -> Option<Decision>
where
    A: Kept,
    F: Frame + ?Sized,
    T: Tables + FamilyTables<A>,
{
    let mut decision = Decision::undecided();
    let tcp = at_once::<A, F>(frame)?;
    let known = of_server(
        tables,
        &mut decision,
        || Ok(&tcp),
        |from, tcp: &Tcp<A>, decision| {
            let Some(next) = Next::of(frame, tcp) else { return Ok(None) };
            let Some(tunnel) = answers(tables, from, tcp, &next, Ticks::from_ns(now_ns), decision)? else {
                return Ok(None);
            };
            decision.passes::<A>(tcp.bytes(), next.header_bytes);
            Ok(Some(tunnel))
        },
    );
    decision.verdict = match known {
        Ok(None) => return None,
        Ok(Some(tunnel)) => Verdict::ToTunnel(tunnel),
        Err(reason) => Verdict::Drop(reason),
    };
    Some(decision)
}

/// The packet of a frame if it is TCP of this family and nothing is wrong with it.
#[inline(always)]
fn at_once<A: Kept, F: Frame + ?Sized>(frame: &F) -> Option<Tcp<A>> {
    if ethertype_of(frame) != Some(A::ETHERTYPE) {
        return None;
    }
    A::tcp(frame)
}

/// Rule one for one address family; a packet of another one is dropped.
#[inline(always)]
pub fn from_site_in<A, F, T>(frame: &F, tables: &T, identity: Identity, now_ns: u64) -> Decision
where
    A: Kept,
    F: Frame + ?Sized,
    T: Tables + FamilyTables<A>,
{
    let mut decision = Decision::undecided();
    decision.verdict = match admit_from_site::<A, F, T>(frame, tables, identity, now_ns, &mut decision) {
        Ok(tunnel) => Verdict::ToServer(tunnel),
        Err(reason) => Verdict::Drop(reason),
    };
    decision
}

/// Rule two for one address family; a packet of another one is dropped.
#[inline(always)]
pub fn from_server_in<A, F, T>(frame: &F, tables: &T, now_ns: u64) -> Decision
where
    A: Kept,
    F: Frame + ?Sized,
    T: Tables + FamilyTables<A>,
{
    let mut decision = Decision::undecided();
    decision.verdict = match admit_from_server::<A, F, T>(frame, tables, now_ns, &mut decision) {
        Ok(tunnel) => Verdict::ToTunnel(tunnel),
        Err(reason) => Verdict::Drop(reason),
    };
    decision
}

/// Where a packet out of a tunnel comes from.
struct Site<'a> {
    settings: &'a Settings,
    id: TunnelId,
    tunnel: &'a Tunnel,
}

/// What both steps of rule one ask, of a packet of a site to its server; `then` says what follows.
#[inline(always)]
fn to_server<'p, A, F, T, P, R>(
    frame: &F,
    tables: &T,
    identity: Identity,
    decision: &mut Decision,
    parse: impl FnOnce() -> Result<&'p P, Reason>,
    then: impl FnOnce(&Site, &P, &mut Decision) -> Result<R, Reason>,
) -> Result<R, Reason>
where
    A: Kept,
    F: Frame + ?Sized,
    T: Tables + FamilyTables<A>,
    P: Packet<A> + 'p,
{
    let settings = ready(tables)?;
    let (id, tunnel) = identify(tables, identity)?;
    decision.customer = tunnel.customer;
    decision.tunnel = id.get();
    if tunnel.up != 1 {
        return Err(Reason::TunnelDown);
    }
    let packet = parse()?;
    let access = A::access(tunnel);
    if packet.hop_limit() <= 1 {
        return Err(Reason::TtlExpired);
    }
    if !access.has(packet.source()) {
        return Err(Reason::InnerSourceNotInSite);
    }
    if packet.destination() != access.server {
        return Err(Reason::DestinationNotServer);
    }
    if packet.bytes() > settings.lan_mtu && largest_bytes::<A, F>(frame, packet.bytes()) > settings.lan_mtu {
        return Err(Reason::TooBigForLan);
    }
    then(&Site { settings, id, tunnel }, packet, decision)
}

/// What rule one asks of a packet.
trait Packet<A> {
    fn source(&self) -> A;
    fn destination(&self) -> A;
    /// TTL or hop limit.
    fn hop_limit(&self) -> u32;
    /// From the IP header on.
    fn bytes(&self) -> u32;
}

impl<A: Family> Packet<A> for Inner<A> {
    #[inline(always)]
    fn source(&self) -> A {
        self.header.source
    }

    #[inline(always)]
    fn destination(&self) -> A {
        self.header.destination
    }

    #[inline(always)]
    fn hop_limit(&self) -> u32 {
        self.header.hop_limit.into()
    }

    #[inline(always)]
    fn bytes(&self) -> u32 {
        self.total_bytes()
    }
}

impl<A: Family> Packet<A> for Tcp<A> {
    #[inline(always)]
    fn source(&self) -> A {
        self.source
    }

    #[inline(always)]
    fn destination(&self) -> A {
        self.destination
    }

    #[inline(always)]
    fn hop_limit(&self) -> u32 {
        self.hop_limit
    }

    #[inline(always)]
    fn bytes(&self) -> u32 {
        self.payload_bytes + A::HEADER_BYTES as u32
    }
}

/// True for the next segment of one of the site's connections, which is done with then.
#[inline(always)]
fn goes_on<A, T>(tables: &T, site: &Site, tcp: &Tcp<A>, next: &Next, now: Ticks) -> bool
where
    A: Kept,
    T: Tables + FamilyTables<A>,
{
    let Site { settings, id, tunnel } = *site;
    let key = key(tunnel.customer, tcp.source, tcp.source_port() as u16);
    let Some(cell) = tables.flow(&key) else { return false };
    cell.locked(|flow| {
        flow.tunnel == id.get()
            && flow.generation == tunnel.generation
            && !flow.expires.has_come(now)
            && predict(flow, next, Direction::ToServer, settings, now)
    })
}

#[inline(always)]
fn admit_from_site<A, F, T>(
    frame: &F,
    tables: &T,
    identity: Identity,
    now_ns: u64,
    decision: &mut Decision,
) -> Result<TunnelId, Reason>
where
    A: Kept,
    F: Frame + ?Sized,
    T: Tables + FamilyTables<A>,
{
    let mut place = tables.inner_place().ok_or(Reason::NotConfigured)?;
    let place = &mut place;
    let parse = || Inner::<A>::parse(frame);
    to_server(
        frame,
        tables,
        identity,
        decision,
        || Ok(place.keep(parse()?)),
        |site, packet: &Inner<A>, decision| {
            let Site { id, tunnel, .. } = *site;
            let now = Ticks::from_ns(now_ns);
            if packet.header.protocol == A::ICMP {
                path_mtu_to_server::<A, F, T>(frame, tables, site, now)?;
                decision.passes::<A>(packet.total_bytes(), 0);
                return Ok(id);
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
                confirm(tables, tunnel.customer);
            } else if met != Met::GoesOn as u8 {
                open(tables, site, &key, segment, Opening { met, now_ns })?;
                decision.opened = true;
            }
            decision.passes::<A>(packet.total_bytes(), segment.options.header_bytes.into());
            decision.syn = syn(segment, packet, A::access(tunnel).mss);
            Ok(id)
        },
    )
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
    take(tables, tunnel, charge, now_ns)?;
    if met == Met::None as u8 {
        let why = match tables.insert_flow(key, flow, now) {
            Ok(()) => return Ok(()),
            Err(why) => why,
        };
        give_back(tables, tunnel.customer, charge);
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
        give_back(tables, tunnel.customer, charge);
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

/// Where a packet from the LAN comes from.
struct Server<'a> {
    settings: &'a Settings,
    customer: u32,
}

/// What both steps of rule two ask, of a packet of a customer's server; `then` says what follows.
#[inline(always)]
fn of_server<'p, A, T, P, R>(
    tables: &T,
    decision: &mut Decision,
    parse: impl FnOnce() -> Result<&'p P, Reason>,
    then: impl FnOnce(&Server, &P, &mut Decision) -> Result<R, Reason>,
) -> Result<R, Reason>
where
    A: Kept,
    T: Tables + FamilyTables<A>,
    P: Packet<A> + 'p,
{
    let settings = ready(tables)?;
    let packet = parse()?;
    let customer = tables.customer(packet.source()).ok_or(Reason::SourceNotServer)?;
    decision.customer = customer;
    if packet.hop_limit() <= 1 {
        return Err(Reason::TtlExpired);
    }
    then(&Server { settings, customer }, packet, decision)
}

/// The tunnel of the connection that a segment is the next one of, which is done with then; None if it is
/// something else.
#[inline(always)]
fn answers<A, T>(
    tables: &T,
    from: &Server,
    tcp: &Tcp<A>,
    next: &Next,
    now: Ticks,
    decision: &mut Decision,
) -> Result<Option<TunnelId>, Reason>
where
    A: Kept,
    T: Tables + FamilyTables<A>,
{
    let to = Reply {
        customer: from.customer,
        server: tcp.source,
        server_port: tcp.source_port() as u16,
        device: tcp.destination,
        device_port: tcp.destination_port() as u16,
        without_flow: Reason::ReplyWithoutConnection,
    };
    let mut goes_on = false;
    let (owner, _) = reply(tables, &to, now, decision, |flow, _| {
        goes_on = predict(flow, next, Direction::ToSite, from.settings, now);
        Ok(())
    })?;
    Ok(goes_on.then_some(owner))
}

#[inline(always)]
fn admit_from_server<A, F, T>(
    frame: &F,
    tables: &T,
    now_ns: u64,
    decision: &mut Decision,
) -> Result<TunnelId, Reason>
where
    A: Kept,
    F: Frame + ?Sized,
    T: Tables + FamilyTables<A>,
{
    let mut place = tables.inner_place().ok_or(Reason::NotConfigured)?;
    let place = &mut place;
    let parse = || Inner::<A>::parse(frame);
    of_server(
        tables,
        decision,
        || Ok(place.keep(parse()?)),
        |from, packet: &Inner<A>, decision| {
            let Server { settings, customer } = *from;
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
                let (owner, _) = reply(tables, &to, now, decision, |_, _| Ok(()))?;
                decision.passes::<A>(packet.total_bytes(), 0);
                return Ok(owner);
            }
            let mut place = tables.segment_place().ok_or(Reason::NotConfigured)?;
            let segment = &*place.keep(Segment::parse(frame, packet)?);
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
            let (owner, tunnel) = reply(tables, &to, now, decision, |flow, confirmed| {
                let half_open = flow.has(status::HALF_OPEN);
                track::track(flow, segment, Direction::ToSite, settings, now)?;
                *confirmed = u8::from(half_open && !flow.has(status::HALF_OPEN));
                Ok(())
            })?;
            decision.passes::<A>(packet.total_bytes(), segment.options.header_bytes.into());
            decision.syn = syn(segment, packet, A::access(tunnel).mss);
            Ok(owner)
        },
    )
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
) -> Result<(TunnelId, &'t Tunnel), Reason>
where
    A: Kept,
    T: Tables + FamilyTables<A>,
{
    let key = key(to.customer, to.device, to.device_port);
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
        confirm(tables, to.customer);
    }
    Ok((owner, tunnel))
}

/// What a new flow takes of its customer's quota.
#[derive(Clone, Copy)]
struct Charge {
    flows: u32,
    half_open: u32,
}

#[inline(always)]
fn take<T: Tables>(tables: &T, tunnel: &Tunnel, charge: Charge, now_ns: u64) -> Result<(), Reason> {
    let Quota { flows, half_open, new_flow_interval_ns, new_flow_burst } = tunnel.quota;
    let cell = tables.usage(tunnel.customer).ok_or(Reason::FlowQuotaExceeded)?;
    cell.locked(|usage| {
        if usage.flows + charge.flows > flows {
            return Err(Reason::FlowQuotaExceeded);
        }
        if usage.half_open + charge.half_open > half_open {
            return Err(Reason::HalfOpenQuotaExceeded);
        }
        if !usage.new_flows.take(u64::from(new_flow_interval_ns), new_flow_burst, now_ns) {
            return Err(Reason::NewFlowsOverBudget);
        }
        usage.flows += charge.flows;
        usage.half_open += charge.half_open;
        Ok(())
    })
}

#[inline(always)]
fn give_back<T: Tables>(tables: &T, customer: u32, charge: Charge) {
    if let Some(cell) = tables.usage(customer) {
        cell.locked(|usage| usage.give_back(charge.flows, charge.half_open));
    }
}

/// A handshake is complete.
#[inline(always)]
fn confirm<T: Tables>(tables: &T, customer: u32) {
    give_back(tables, customer, Charge { flows: 0, half_open: 1 });
}

impl Usage {
    /// So many flows are gone, or half-open no more.
    #[inline(always)]
    pub fn give_back(&mut self, flows: u32, half_open: u32) {
        self.flows -= if flows < self.flows { flows } else { self.flows };
        self.half_open -= if half_open < self.half_open { half_open } else { self.half_open };
    }
}

#[inline(always)]
fn key<A>(customer: u32, lan_address: A, lan_port: u16) -> FlowKey<A> {
    FlowKey { customer, lan_address, lan_port, _reserved: 0 }
}

#[inline(always)]
fn lives(flow: &Flow, tunnel: &Tunnel, now: Ticks) -> bool {
    !flow.is_over(now) && flow.generation == tunnel.generation
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

impl Decision {
    #[inline(always)]
    fn passes<A: Kept>(&mut self, bytes: u32, tcp_header_bytes: u32) {
        self.v6 = A::HEADER_BYTES == Ipv6::HEADER_BYTES;
        self.header_bytes = A::HEADER_BYTES as u16 + tcp_header_bytes as u16;
        self.bytes = bytes;
    }
}

#[inline(always)]
fn ready<T: Tables>(tables: &T) -> Result<&Settings, Reason> {
    match tables.settings() {
        Some(settings) if settings.ready == 1 => Ok(settings),
        _ => Err(Reason::NotConfigured),
    }
}

/// The tunnel that the kernel decrypted the packet with; every source must agree.
#[inline(always)]
fn identify<T: Tables>(tables: &T, identity: Identity) -> Result<(TunnelId, &Tunnel), Reason> {
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
        return Ok((id, tunnel));
    }
    match tables.inbound_spi(identity.spi) {
        Some(owner) if owner != id.get() => Err(Reason::SpiContradictsTunnel),
        _ => Ok((id, tunnel)),
    }
}

#[inline(always)]
fn syn<A: Kept>(segment: &Segment, packet: &Inner<A>, most: u16) -> Option<Syn> {
    let offered = segment.options.mss()?;
    let too_much = segment.kind as u8 <= Kind::SynAck as u8 && offered.bytes > most;
    too_much.then_some(Syn { mss: most, offered, transport: packet.header.transport })
}
