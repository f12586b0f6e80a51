//! The decision about an inner packet: pure, so that the eBPF programs and the tests run this
//! very code. parse → identify the tunnel → look up the flow → decide.
use crate::{
    ids::TunnelId,
    layout::{Customer, Flow, FlowKey, Settings, Ticks, Tunnel},
    packet::{Inner, Kind, Mss, Segment},
    reason::Reason,
    tcp::Direction,
    track::{self, Tracked},
    verdict::Verdict,
    wire::{Frame, Ipv4},
};

/// What the decision looks things up in: eBPF maps, or ordinary ones on the host.
pub trait Tables {
    /// What holds for the whole gateway.
    fn settings(&self) -> Option<&Settings>;
    /// The tunnel of this number.
    fn tunnel(&self, number: u32) -> Option<&Tunnel>;
    /// The customer whose server has this address.
    fn customer(&self, server: Ipv4) -> Option<&Customer>;
    /// The tunnel that an inbound SPI is known to belong to.
    fn inbound_spi(&self, spi: u32) -> Option<u32>;
    /// The flow of this key.
    fn flow(&self, key: &FlowKey) -> Option<impl FlowCell>;
    /// The same segment. In eBPF it takes the way through a map: the verifier follows every
    /// combination of what parsing found out, and forgets them all where a value comes from memory.
    #[inline(always)]
    fn through_memory(&self, segment: Segment) -> Segment {
        segment
    }
    /// Adds a flow. Err if the table is full.
    fn insert_flow(&self, key: &FlowKey, flow: &Flow) -> Result<(), Full>;
}

/// A flow in its table, where others may be changing it.
pub trait FlowCell {
    /// Its tunnel, as of now.
    fn tunnel(&self) -> u32;
    /// Runs `change` with nobody else changing the flow.
    fn locked<R>(&self, change: impl FnOnce(&mut Flow) -> R) -> R;
}

/// The flow table is full.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Full;

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
    /// Bytes of a packet that passes, from the IPv4 header on.
    pub bytes: u64,
}

/// What lowering a SYN's MSS needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Syn {
    /// The largest segment that fits the tunnel, in bytes.
    pub mss: u16,
    /// The option that asks for more.
    pub offered: Mss,
}

impl Decision {
    const fn undecided() -> Self {
        Self {
            verdict: Verdict::Drop(Reason::NotConfigured),
            customer: 0,
            tunnel: 0,
            syn: None,
            opened: false,
            bytes: 0,
        }
    }
}

/// Rule one: a packet out of a tunnel. The site's LAN → its customer's server and port, and new
/// connections from this side only.
#[inline(always)]
pub fn from_site<F: Frame + ?Sized, T: Tables>(
    frame: &F,
    tables: &T,
    identity: Identity,
    now_ns: u64,
) -> Decision {
    let mut decision = Decision::undecided();
    decision.verdict = match admit_from_site(frame, tables, identity, now_ns, &mut decision) {
        Ok(tunnel) => Verdict::ToServer(tunnel),
        Err(reason) => Verdict::Drop(reason),
    };
    decision
}

/// Rule two: a packet from the cloud LAN. A customer's server answers on a connection that exists,
/// into the tunnel that opened it, and nothing else.
#[inline(always)]
pub fn from_server<F: Frame + ?Sized, T: Tables>(frame: &F, tables: &T, now_ns: u64) -> Decision {
    let mut decision = Decision::undecided();
    decision.verdict = match admit_from_server(frame, tables, now_ns, &mut decision) {
        Ok(tunnel) => Verdict::ToTunnel(tunnel),
        Err(reason) => Verdict::Drop(reason),
    };
    decision
}

#[inline(always)]
fn admit_from_site<F: Frame + ?Sized, T: Tables>(
    frame: &F,
    tables: &T,
    identity: Identity,
    now_ns: u64,
    decision: &mut Decision,
) -> Result<TunnelId, Reason> {
    let settings = ready(tables)?;
    let (id, tunnel) = identify(tables, identity)?;
    decision.customer = tunnel.customer;
    decision.tunnel = id.get();
    if tunnel.up != 1 {
        return Err(Reason::TunnelDown);
    }
    let packet = Inner::parse(frame)?;
    if packet.ttl <= 1 {
        return Err(Reason::TtlExpired);
    }
    if !tunnel.has(packet.source) {
        return Err(Reason::InnerSourceNotInSite);
    }
    if packet.destination != tunnel.server {
        return Err(Reason::DestinationNotServer);
    }
    let segment = tables.through_memory(Segment::parse(frame, &packet)?);
    if segment.destination != tunnel.port {
        return Err(Reason::PortNotAllowed);
    }
    let key = FlowKey {
        customer: tunnel.customer,
        lan_address: packet.source,
        lan_port: segment.source,
        server_port: segment.destination,
    };
    let now = Ticks::from_ns(now_ns);
    let cell = tables.flow(&key);
    let goes_on = match &cell {
        None => false,
        Some(cell) => cell.locked(|flow| {
            // A flow whose time is over is no flow, whatever tunnel it belonged to.
            if flow.expires.has_come(now) {
                return Ok(false);
            }
            if flow.tunnel != id.get() {
                return Err(Reason::FlowOwnedByOtherTunnel);
            }
            // What this packet had to show above is what the policy of today asks.
            flow.generation = tunnel.generation;
            let tracked = track::track(flow, &segment, Direction::ToServer, settings, now)?;
            count(flow, Direction::ToServer);
            Ok(tracked as u8 == Tracked::On as u8)
        })?,
    };
    if !goes_on {
        let mut flow = track::open(&segment, settings, now).ok_or(Reason::NoConnection)?;
        // A server's answer to an address of ours would end at the gateway itself.
        if settings.is_own(packet.source) {
            return Err(Reason::InnerSourceNotInSite);
        }
        flow.tunnel = id.get();
        flow.generation = tunnel.generation;
        flow.packets = [1, 0];
        match cell {
            Some(cell) => cell.locked(|old| old.replace(flow)),
            None => tables.insert_flow(&key, &flow).map_err(|Full| Reason::FlowTableFull)?,
        }
        decision.opened = true;
    }
    decision.bytes = packet.total_bytes();
    decision.syn = syn(&segment, tunnel);
    Ok(id)
}

#[inline(always)]
fn admit_from_server<F: Frame + ?Sized, T: Tables>(
    frame: &F,
    tables: &T,
    now_ns: u64,
    decision: &mut Decision,
) -> Result<TunnelId, Reason> {
    let settings = ready(tables)?;
    let packet = Inner::parse(frame)?;
    let customer = tables.customer(packet.source).ok_or(Reason::SourceNotServer)?;
    decision.customer = customer.id;
    if packet.ttl <= 1 {
        return Err(Reason::TtlExpired);
    }
    let segment = tables.through_memory(Segment::parse(frame, &packet)?);
    let key = FlowKey {
        customer: customer.id,
        lan_address: packet.destination,
        lan_port: segment.destination,
        server_port: segment.source,
    };
    let without_flow = if segment.kind as u8 == Kind::Syn as u8 {
        Reason::NewFromServer
    } else {
        Reason::ReplyWithoutConnection
    };
    let cell = tables.flow(&key).ok_or(without_flow)?;
    let owner = TunnelId::new(cell.tunnel()).ok_or(without_flow)?;
    decision.tunnel = owner.get();
    let tunnel = tables.tunnel(owner.get()).ok_or(Reason::UnknownTunnel)?;
    if tunnel.customer != customer.id {
        return Err(Reason::UnknownTunnel);
    }
    if tunnel.up != 1 {
        return Err(Reason::TunnelDown);
    }
    let still_allowed =
        segment.source == tunnel.port && tunnel.server == packet.source && tunnel.has(packet.destination);
    let now = Ticks::from_ns(now_ns);
    cell.locked(|flow| {
        // The tunnel was looked up without the lock: the flow may have been reopened since.
        if flow.tunnel != owner.get() || flow.expires.has_come(now) {
            return Err(without_flow);
        }
        if !still_allowed {
            return Err(Reason::FlowNoLongerAllowed);
        }
        flow.generation = tunnel.generation;
        track::track(flow, &segment, Direction::ToSite, settings, now)?;
        count(flow, Direction::ToSite);
        Ok(())
    })?;
    decision.bytes = packet.total_bytes();
    decision.syn = syn(&segment, tunnel);
    Ok(owner)
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
    match tables.inbound_spi(identity.spi) {
        Some(owner) if owner != id.get() => Err(Reason::SpiContradictsTunnel),
        _ => Ok((id, tunnel)),
    }
}

#[inline(always)]
fn count(flow: &mut Flow, direction: Direction) {
    let slot = direction as usize & 1;
    flow.packets[slot] = flow.packets[slot].wrapping_add(1);
}

#[inline(always)]
fn syn(segment: &Segment, tunnel: &Tunnel) -> Option<Syn> {
    let offered = segment.options.mss()?;
    let too_much = segment.kind as u8 <= Kind::SynAck as u8 && offered.bytes > tunnel.mss;
    too_much.then_some(Syn { mss: tunnel.mss, offered })
}

impl Inner {
    /// Bytes of the IPv4 packet.
    #[inline(always)]
    fn total_bytes(&self) -> u64 {
        u64::from(self.payload_bytes) + size_of::<crate::wire::Ipv4Header>() as u64
    }
}
