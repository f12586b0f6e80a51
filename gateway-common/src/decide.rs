//! The decision about an inner packet: pure, so that the eBPF programs and the tests run this
//! very code. parse → identify the tunnel → look up the flow → decide.
use crate::{
    ids::TunnelId,
    layout::{Customer, Flow, FlowKey, Settings, Tunnel, bpf_spin_lock},
    packet::{Inner, Kind, Segment},
    reason::Reason,
    slot::slot,
    tcp::{self, Direction, STATE_SLOTS, State, Step},
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
    /// Set for a SYN or SYN-ACK that passes: its MSS option may need lowering.
    pub syn: Option<Syn>,
    /// The packet opened a flow.
    pub opened: bool,
}

/// What clamping a SYN's MSS needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Syn {
    /// The largest segment that fits the tunnel, in bytes.
    pub mss: u16,
    /// Bytes of the TCP header.
    pub header_bytes: u16,
}

impl Decision {
    const fn undecided() -> Self {
        Self {
            verdict: Verdict::Drop(Reason::NotConfigured),
            customer: 0,
            tunnel: 0,
            syn: None,
            opened: false,
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
    let segment = Segment::parse(frame, &packet)?;
    if segment.destination != tunnel.port {
        return Err(Reason::PortNotAllowed);
    }
    let key = FlowKey {
        customer: tunnel.customer,
        lan_address: packet.source,
        lan_port: segment.source,
        server_port: segment.destination,
    };
    let packet = Counted { bytes: packet.total_bytes(), direction: Direction::ToServer, now_ns };
    decision.opened = match tables.flow(&key) {
        Some(cell) => cell.locked(|flow| {
            if flow.expires_ns <= now_ns {
                return reopen(flow, id, tunnel, segment.kind, settings, packet);
            }
            if flow.tunnel != id.get() {
                return Err(Reason::FlowOwnedByOtherTunnel);
            }
            // What this packet had to show above is what the policy of today asks.
            flow.generation = tunnel.generation;
            track(flow, segment.kind, settings, packet)
        })?,
        None => {
            let flow = open(id, tunnel, segment.kind, settings, packet).ok_or(Reason::NoConnection)?;
            // A server's answer to an address of ours would end at the gateway itself.
            if settings.is_own(key.lan_address) {
                return Err(Reason::InnerSourceNotInSite);
            }
            tables.insert_flow(&key, &flow).map_err(|Full| Reason::FlowTableFull)?;
            true
        }
    };
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
    let segment = Segment::parse(frame, &packet)?;
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
    let counted = Counted { bytes: packet.total_bytes(), direction: Direction::ToSite, now_ns };
    cell.locked(|flow| {
        // The tunnel was looked up without the lock: the flow may have been reopened since.
        if flow.tunnel != owner.get() || flow.expires_ns <= now_ns {
            return Err(without_flow);
        }
        if !still_allowed {
            return Err(Reason::FlowNoLongerAllowed);
        }
        flow.generation = tunnel.generation;
        track(flow, segment.kind, settings, counted)
    })?;
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

/// What is counted of a packet, and when.
#[derive(Clone, Copy)]
struct Counted {
    bytes: u64,
    direction: Direction,
    now_ns: u64,
}

/// A new flow, if this packet opens one.
#[inline(always)]
fn open(id: TunnelId, tunnel: &Tunnel, kind: Kind, settings: &Settings, packet: Counted) -> Option<Flow> {
    if kind as u8 != Kind::Syn as u8 {
        return None;
    }
    Some(Flow {
        lock: bpf_spin_lock { val: 0 },
        tunnel: id.get(),
        generation: tunnel.generation,
        state: State::SynSent as u8,
        _reserved: [0; 3],
        expires_ns: expiry(settings, State::SynSent, packet.now_ns),
        packets: [1, 0],
        bytes: [packet.bytes, 0],
    })
}

/// A flow whose time is over is no flow: a SYN takes its place, whatever tunnel it belonged to.
#[inline(always)]
fn reopen(
    flow: &mut Flow,
    id: TunnelId,
    tunnel: &Tunnel,
    kind: Kind,
    settings: &Settings,
    packet: Counted,
) -> Result<bool, Reason> {
    let fresh = open(id, tunnel, kind, settings, packet).ok_or(Reason::NoConnection)?;
    flow.tunnel = fresh.tunnel;
    flow.generation = fresh.generation;
    flow.state = fresh.state;
    flow.expires_ns = fresh.expires_ns;
    flow.packets = fresh.packets;
    flow.bytes = fresh.bytes;
    Ok(true)
}

/// One more packet of a flow. Ok(true) if it opened the connection anew (port reuse).
#[inline(always)]
fn track(flow: &mut Flow, kind: Kind, settings: &Settings, packet: Counted) -> Result<bool, Reason> {
    let state = State::from_number(flow.state).ok_or(Reason::TcpStateInvalid)?;
    let ended = matches!(state, State::TimeWait | State::Close);
    let mut reopened = false;
    match tcp::step(state, packet.direction, kind) {
        Step::Invalid => return Err(Reason::TcpStateInvalid),
        Step::Ignore => {}
        Step::To(next) => {
            reopened = ended && next as u8 == State::SynSent as u8;
            flow.state = next as u8;
            flow.expires_ns = expiry(settings, next, packet.now_ns);
        }
    }
    if reopened {
        flow.packets = [0; 2];
        flow.bytes = [0; 2];
    }
    let direction = (packet.direction as usize) & 1;
    flow.packets[direction] = flow.packets[direction].wrapping_add(1);
    flow.bytes[direction] = flow.bytes[direction].wrapping_add(packet.bytes);
    Ok(reopened)
}

#[inline(always)]
fn expiry(settings: &Settings, state: State, now_ns: u64) -> u64 {
    now_ns.wrapping_add(settings.timeouts_ns[slot::<STATE_SLOTS>(state as u8)])
}

#[inline(always)]
fn syn(segment: &Segment, tunnel: &Tunnel) -> Option<Syn> {
    (segment.kind as u8 <= Kind::SynAck as u8)
        .then_some(Syn { mss: tunnel.mss, header_bytes: segment.header_bytes })
}

impl Inner {
    /// Bytes of the IPv4 packet.
    #[inline(always)]
    fn total_bytes(&self) -> u64 {
        u64::from(self.payload_bytes) + size_of::<crate::wire::Ipv4Header>() as u64
    }
}
