//! The decision about an inner packet: pure, so that the eBPF programs and the tests run this
//! very code. parse → identify the tunnel → look up the flow → decide.
//!
//! In two steps, which are programs of their own in eBPF: what can be decided at once, which is nearly every
//! packet, since it is the next one of its connection or never allowed; and all the rest, from the beginning.
//!
//! What is allowed is asked of every packet, not of a connection's first: a policy that changes, or a
//! tunnel that goes, holds for the very next packet.
mod quota;
mod server;
mod site;

pub use self::{
    server::{from_server_at_once, from_server_in},
    site::{from_site_at_once, from_site_in},
};
use crate::{
    family::{Family, Tcp},
    layout::{Flow, FlowKey, Kept, Settings, Ticks, Tunnel, Usage},
    packet::{Inner, Kind, Mss, Segment, ethertype_of},
    reason::Reason,
    wire::{Frame, Ipv4, Ipv6, Words, ethertype},
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

/// What becomes of a packet, and whom it is counted for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Decision {
    /// It goes on, to its server or into the tunnel; or why it ends here.
    pub verdict: Result<(), Reason>,
    /// Customer number, 0 if not known.
    pub customer: u32,
    /// Tunnel number, 0 if not known; of a packet that passes the one it came from or goes into.
    pub tunnel: u32,
    /// See [`Decision::syn`]; all zero for none. An Option's payload would be undefined, and LLVM reads it all the
    /// same, which the verifier does not allow.
    syn: Syn,
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

impl Syn {
    /// The MSS option is never at 0, where the kind of the first option stands.
    const NONE: Self = Self { mss: 0, offered: Mss { at: 0, bytes: 0 }, transport: 0 };
}

impl Decision {
    const fn undecided() -> Self {
        Self::of(0, 0)
    }

    const fn of(customer: u32, tunnel: u32) -> Self {
        Self {
            verdict: Err(Reason::NotConfigured),
            customer,
            tunnel,
            syn: Syn::NONE,
            opened: false,
            v6: false,
            header_bytes: 0,
            bytes: 0,
        }
    }

    /// A SYN or SYN-ACK that passes and whose MSS option is to be lowered.
    #[inline(always)]
    pub fn syn(&self) -> Option<Syn> {
        (self.syn.offered.at != 0).then_some(self.syn)
    }

    #[inline(always)]
    fn passes<A: Kept>(&mut self, bytes: u32, tcp_header_bytes: u32) {
        self.verdict = Ok(());
        self.v6 = A::HEADER_BYTES == Ipv6::HEADER_BYTES;
        self.header_bytes = A::HEADER_BYTES as u16 + tcp_header_bytes as u16;
        self.bytes = bytes;
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
    let Some(settings) = ready(tables) else { return Decision::undecided() };
    match ethertype_of(frame) {
        Some(ethertype::IPV6) => from_site_at_once::<Ipv6, F, T>(frame, tables, settings, identity, now_ns)
            .unwrap_or_else(|| from_site_in::<Ipv6, F, T>(frame, tables, settings, identity, now_ns)),
        _ => from_site_at_once::<Ipv4, F, T>(frame, tables, settings, identity, now_ns)
            .unwrap_or_else(|| from_site_in::<Ipv4, F, T>(frame, tables, settings, identity, now_ns)),
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
    let Some(settings) = ready(tables) else { return Decision::undecided() };
    match ethertype_of(frame) {
        Some(ethertype::IPV6) => from_server_at_once::<Ipv6, F, T>(frame, tables, settings, now_ns)
            .unwrap_or_else(|| from_server_in::<Ipv6, F, T>(frame, tables, settings, now_ns)),
        _ => from_server_at_once::<Ipv4, F, T>(frame, tables, settings, now_ns)
            .unwrap_or_else(|| from_server_in::<Ipv4, F, T>(frame, tables, settings, now_ns)),
    }
}

/// What holds for the whole gateway, once it is filled in; before, every packet is dropped.
#[inline(always)]
pub fn ready<T: Tables>(tables: &T) -> Option<&Settings> {
    tables.settings().filter(|settings| settings.ready == 1)
}

/// What both rules ask of a packet, whether they decide at once or look at all of it.
trait Packet<A> {
    /// Its addresses.
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

impl<A: Family, W: Words> Packet<A> for Tcp<A, W> {
    #[inline(always)]
    fn source(&self) -> A {
        self.head().source
    }

    #[inline(always)]
    fn destination(&self) -> A {
        self.head().destination
    }

    #[inline(always)]
    fn hop_limit(&self) -> u32 {
        self.head().hop_limit
    }

    #[inline(always)]
    fn bytes(&self) -> u32 {
        self.head().payload_bytes + A::HEADER_BYTES as u32
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

#[inline(always)]
fn syn<A: Kept>(segment: &Segment, packet: &Inner<A>, most: u16) -> Syn {
    match segment.options.mss() {
        Some(offered) if segment.kind as u8 <= Kind::SynAck as u8 && offered.bytes > most => {
            Syn { mss: most, offered, transport: packet.header.transport }
        }
        _ => Syn::NONE,
    }
}
