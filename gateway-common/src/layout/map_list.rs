//! The one list of the eBPF maps. The programs' statics are checked against it when they are compiled, the
//! object when it is tested (`gateway/tests/maps`); gatewayd takes names, types, sizes and pins from it;
//! the table in ARCHITECTURE.md must be its rendering.
use core::{fmt, marker::PhantomData};

use crate::{
    layout::{
        Binding, Counters, Customer, DropEvent, Drops, NextProgram, OutboundSpi, Settings, Tunnel,
        Unattributed, Usage,
    },
    limits,
    magazine::{self, Pool},
    node::{self, Pair},
    outer::{
        Budgets, PeerBudgets,
        cookie::{Proof, Secrets, Strangers},
    },
    packet::{Inner, Segment},
    rate::Bucket,
    tcp::{Flow, FlowKey},
    wheel::Wheel,
    wire::{Ipv4, Ipv6},
};

/// One map, with the types of its keys and values.
pub struct Map<K, V> {
    /// Its entry in the list.
    pub description: Description,
    types: PhantomData<fn() -> (K, V)>,
}

/// The list's entry for one map.
#[derive(Clone, Copy, Debug)]
pub struct Description {
    /// Its name in the object, and that of its pin. The kernel keeps the first 15 characters.
    pub name: &'static str,
    /// One sentence on what it holds.
    pub sentence: &'static str,
    /// Its type.
    pub kind: Kind,
    /// The type of its keys.
    pub key: &'static str,
    /// Bytes of a key.
    pub key_bytes: usize,
    /// The type of its values.
    pub value: &'static str,
    /// Bytes of a value.
    pub value_bytes: usize,
    /// Its size in entries; that of a ring buffer in bytes.
    pub bound: Bound,
    /// Its lifetime.
    pub lifetime: Lifetime,
    /// Its writers.
    pub writers: &'static [User],
    /// Its readers.
    pub readers: &'static [User],
}

/// The type of a map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// An array.
    Array,
    /// An array that user space may map into its memory (BPF_F_MMAPABLE).
    MappableArray,
    /// An array for each CPU.
    PerCpuArray,
    /// A hash table that allocates all its entries beforehand.
    Hash,
    /// A hash table that allocates each entry when it is added (BPF_F_NO_PREALLOC).
    SparseHash,
    /// A hash table that evicts the least recently used entry when it is full.
    LruHash,
    /// An array of programs.
    ProgramArray,
    /// A ring buffer; it has no keys.
    RingBuffer,
}

impl Kind {
    /// Its number in `enum bpf_map_type`, linux/bpf.h.
    pub const fn number(self) -> u32 {
        match self {
            Self::Hash | Self::SparseHash => 1,
            Self::Array | Self::MappableArray => 2,
            Self::ProgramArray => 3,
            Self::PerCpuArray => 6,
            Self::LruHash => 9,
            Self::RingBuffer => 27,
        }
    }

    /// Its creation flags, `BPF_F_*` in linux/bpf.h.
    pub const fn flags(self) -> u32 {
        match self {
            Self::SparseHash => 1,
            Self::MappableArray => 1 << 10,
            _ => 0,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Array => "array",
            Self::MappableArray => "array, mappable",
            Self::PerCpuArray => "array per CPU",
            Self::Hash => "hash",
            Self::SparseHash => "hash, not preallocated",
            Self::LruHash => "LRU hash",
            Self::ProgramArray => "program array",
            Self::RingBuffer => "ring buffer",
        })
    }
}

/// The policy's limits on tunnels, customers and flows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sizes {
    /// Tunnel ids run from 1 to this.
    pub tunnels: u32,
    /// Customer ids run from 1 to this.
    pub customers: u32,
    /// IPv4 flows of all customers together.
    pub flows: u32,
    /// IPv6 flows of all customers together.
    pub flows6: u32,
}

/// The size of a map in entries, as a function of [`Sizes`] and of the machine's CPUs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bound {
    /// This many, independent of the limits.
    Fixed(u32),
    /// One for each tunnel id, and 0.
    TunnelIds,
    /// [`REQIDS_PER_SITE`] for each tunnel id, and reqid 0.
    Reqids,
    /// One for each customer id, and 0.
    CustomerIds,
    /// One for each customer.
    Customers,
    /// [`PEERS_PER_TUNNEL`] for each tunnel.
    Peers,
    /// [`SPIS_PER_SITE`] for each site.
    Spis,
    /// One for each IPv4 flow.
    Flows,
    /// One for each IPv6 flow.
    Flows6,
    /// A node for each IPv4 flow and spare ones for each CPU, two to an entry; node 0 is none.
    NodePairs,
    /// A node for each IPv6 flow and spare ones for each CPU, two to an entry; node 0 is none.
    NodePairs6,
    /// One for each CPU that the kernel could bring online.
    Cpus,
}

/// CHILD_SAs that one site may have bound at a time: one for each prefix of its LAN.
pub const TUNNELS_PER_SITE: u32 = limits::PREFIXES_PER_SITE as u32;
/// Reqids that charon may have given out at a time for each site: to its bound CHILD_SAs, and to others that are being
/// ended. charon gives the reqid that was released first, and a new one if there is none (strongSwan, kernel_interface.c),
/// so the highest is the number that were ever in use at a time.
pub const REQIDS_PER_SITE: u32 = 4 * TUNNELS_PER_SITE;
/// SAs of one site in one direction that may be known at a time: all its tunnels may be rekeyed at once.
pub const SPIS_PER_SITE: u32 = 2 * TUNNELS_PER_SITE;
/// Outer addresses of one tunnel's peer that may be known at a time: a site that moves has two for a moment.
pub const PEERS_PER_TUNNEL: u32 = 2;

impl Bound {
    /// Returns `max_entries` for these sizes, on a machine with this many possible CPUs.
    pub const fn entries(self, sizes: &Sizes, cpus: u32) -> u32 {
        match self {
            Self::Fixed(entries) => entries,
            Self::TunnelIds => sizes.tunnels + 1,
            Self::Reqids => sizes.tunnels.saturating_mul(REQIDS_PER_SITE).saturating_add(1),
            Self::CustomerIds => sizes.customers + 1,
            Self::Customers => sizes.customers,
            Self::Peers => sizes.tunnels.saturating_mul(PEERS_PER_TUNNEL),
            Self::Spis => sizes.tunnels.saturating_mul(SPIS_PER_SITE),
            Self::Flows => sizes.flows,
            Self::Flows6 => sizes.flows6,
            Self::NodePairs => node::pairs(magazine::nodes(sizes.flows, cpus)),
            Self::NodePairs6 => node::pairs(magazine::nodes(sizes.flows6, cpus)),
            Self::Cpus => cpus,
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(entries) => write!(f, "{entries}"),
            Self::TunnelIds => f.write_str("tunnels + 1"),
            Self::Reqids => write!(f, "{REQIDS_PER_SITE} × tunnels + 1"),
            Self::CustomerIds => f.write_str("customers + 1"),
            Self::Customers => f.write_str("customers"),
            Self::Peers => write!(f, "{PEERS_PER_TUNNEL} × tunnels"),
            Self::Spis => write!(f, "{SPIS_PER_SITE} × tunnels"),
            Self::Flows => f.write_str("flows"),
            Self::Flows6 => f.write_str("flows6"),
            Self::NodePairs => write!(f, "(flows + {} × CPUs) ÷ 2 + 1", magazine::SPARE_NODES),
            Self::NodePairs6 => write!(f, "(flows6 + {} × CPUs) ÷ 2 + 1", magazine::SPARE_NODES),
            Self::Cpus => f.write_str("CPUs"),
        }
    }
}

/// The lifetime of a map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lifetime {
    /// It is pinned by name, and a restarted daemon adopts it.
    Pinned,
    /// It lives as long as the programs that were loaded with it.
    Programs,
}

/// A reader or writer of a map: a tool, or the programs of a hook together with those they tail-call.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum User {
    /// The daemon.
    Gatewayd,
    /// The operator's tool.
    Gatewayctl,
    /// Packet-replay tests.
    Tests,
    /// `internet_xdp`, and `outer` where native XDP is missing.
    OuterFilter,
    /// `internet_xdp`.
    InternetXdp,
    /// `internet_ingress`, and the programs it tail-calls.
    InternetIngress,
    /// `lan_ingress`, and the programs it tail-calls.
    LanIngress,
    /// Both ingress hooks.
    Ingress,
    /// `internet_egress`.
    InternetEgress,
    /// All programs that are attached or tail-called.
    Hooks,
    /// `expiry`, and the timer it arms.
    Expiry,
}

impl User {
    /// Returns the programs that are attached or run by themselves, without those that they tail-call.
    pub const fn programs(self) -> &'static [&'static str] {
        match self {
            Self::Gatewayd | Self::Gatewayctl | Self::Tests => &[],
            Self::OuterFilter => &["internet_xdp", "internet_ingress"],
            Self::InternetXdp => &["internet_xdp"],
            Self::InternetIngress => &["internet_ingress"],
            Self::LanIngress => &["lan_ingress"],
            Self::Ingress => &["internet_ingress", "lan_ingress"],
            Self::InternetEgress => &["internet_egress"],
            Self::Hooks => {
                &["internet_xdp", "internet_ingress", "lan_ingress", "internet_egress", "lan_egress"]
            }
            Self::Expiry => &["expiry"],
        }
    }
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gatewayd => "gatewayd",
            Self::Gatewayctl => "gatewayctl",
            Self::Tests => "tests",
            Self::OuterFilter => "outer filter",
            Self::InternetXdp => "internet XDP",
            Self::InternetIngress => "internet ingress",
            Self::LanIngress => "LAN ingress",
            Self::Ingress => "ingress programs",
            Self::InternetEgress => "internet egress",
            Self::Hooks => "all hooks",
            Self::Expiry => "expiry",
        })
    }
}

macro_rules! maps {
    ($(
        $(#[doc = $doc:literal])+
        $name:ident: $kind:ident($key:ty => $value:ty), $bound:expr, $lifetime:ident,
            written by [$($writer:ident),+], read by [$($reader:ident),+];
    )+) => {
        $(
            $(#[doc = $doc])+
            pub const $name: Map<$key, $value> = Map {
                description: Description {
                    name: stringify!($name),
                    sentence: concat!($($doc),+).trim_ascii(),
                    kind: Kind::$kind,
                    key: stringify!($key),
                    key_bytes: size_of::<$key>(),
                    value: stringify!($value),
                    value_bytes: size_of::<$value>(),
                    bound: $bound,
                    lifetime: Lifetime::$lifetime,
                    writers: &[$(User::$writer),+],
                    readers: &[$(User::$reader),+],
                },
                types: PhantomData,
            };
        )+

        /// All maps.
        pub const ALL: &[Description] = &[$($name.description,)+];
    };
}

maps! {
    /// Settings of the whole gateway, including its own addresses.
    SETTINGS: Array(u32 => Settings), Bound::Fixed(1), Pinned,
        written by [Gatewayd], read by [Hooks, Gatewayd];
    /// Bindings of CHILD_SAs to sites by reqid.
    BINDINGS: MappableArray(u32 => Binding), Bound::Reqids, Pinned,
        written by [Gatewayd], read by [InternetIngress, Gatewayd, Gatewayctl];
    /// Sites by number.
    TUNNELS: MappableArray(u32 => Tunnel), Bound::TunnelIds, Pinned,
        written by [Gatewayd], read by [Ingress, Gatewayd, Gatewayctl];
    /// Customers by their server's IPv4 address.
    CUSTOMERS: Hash(Ipv4 => Customer), Bound::Customers, Pinned,
        written by [Gatewayd], read by [LanIngress, InternetEgress, Gatewayd];
    /// Customers by their server's IPv6 address.
    CUSTOMERS6: Hash(Ipv6 => Customer), Bound::Customers, Pinned,
        written by [Gatewayd], read by [LanIngress, InternetEgress, Gatewayd];
    /// Marks of CHILD_SAs by inbound SPI.
    INBOUND_SPIS: SparseHash(u32 => u32), Bound::Spis, Pinned,
        written by [Gatewayd], read by [OuterFilter, InternetIngress, Gatewayd];
    /// Marks of CHILD_SAs by peer and outbound SPI.
    OUTBOUND_SPIS: SparseHash(OutboundSpi => u32), Bound::Spis, Pinned,
        written by [Gatewayd], read by [OuterFilter, InternetIngress, InternetEgress, Gatewayd];
    /// Budgets of the tunnels' peers by outer address. The daemon adds and removes peers.
    PEERS: SparseHash(Ipv6 => PeerBudgets), Bound::Peers, Pinned,
        written by [Gatewayd, OuterFilter], read by [OuterFilter, Gatewayd];
    /// Budgets of strangers by outer IPv4 address or IPv6 /64.
    SOURCES: LruHash(Ipv6 => Budgets), Bound::Fixed(limits::SOURCES as u32), Pinned,
        written by [OuterFilter], read by [OuterFilter];
    /// The budget that all strangers share, their demand for IKE cookies, and counters of cookies.
    STRANGERS: PerCpuArray(u32 => Strangers), Bound::Fixed(1), Pinned,
        written by [OuterFilter, InternetEgress], read by [OuterFilter, Gatewayd, Gatewayctl];
    /// Budgets of strangers that have shown a valid IKE cookie, by outer IPv4 address or IPv6 /64.
    PROVEN: LruHash(Ipv6 => Proof), Bound::Fixed(limits::PROVEN as u32), Pinned,
        written by [InternetXdp], read by [InternetXdp];
    /// The two secrets in force for IKE cookies.
    COOKIES: Array(u32 => Secrets), Bound::Fixed(1), Pinned,
        written by [Gatewayd], read by [InternetXdp, Gatewayd];
    /// IPv4 flows.
    FLOWS: Hash(FlowKey<Ipv4> => Flow), Bound::Flows, Pinned,
        written by [Ingress, Expiry], read by [Ingress, Expiry, Gatewayctl];
    /// IPv6 flows.
    FLOWS6: Hash(FlowKey<Ipv6> => Flow), Bound::Flows6, Pinned,
        written by [Ingress, Expiry], read by [Ingress, Expiry, Gatewayctl];
    /// Nodes of IPv4 flows in the timing wheels, by half the node's number.
    NODES: Array(u32 => Pair<Ipv4>), Bound::NodePairs, Pinned,
        written by [InternetIngress, Expiry], read by [InternetIngress, Expiry];
    /// Nodes of IPv6 flows in the timing wheels, by half the node's number.
    NODES6: Array(u32 => Pair<Ipv6>), Bound::NodePairs6, Pinned,
        written by [InternetIngress, Expiry], read by [InternetIngress, Expiry];
    /// Timing wheels by CPU, with their timers, free nodes and counters.
    WHEELS: Array(u32 => Wheel), Bound::Cpus, Pinned,
        written by [InternetIngress, Expiry], read by [InternetIngress, Expiry, Gatewayctl];
    /// Free nodes that all CPUs share, by family.
    POOLS: Array(u32 => Pool), Bound::Fixed(magazine::POOLS as u32), Pinned,
        written by [InternetIngress, Expiry], read by [InternetIngress, Expiry];
    /// Use of quotas by customer id.
    USAGE: Array(u32 => Usage), Bound::CustomerIds, Pinned,
        written by [Ingress, Expiry], read by [InternetIngress, Gatewayctl];
    /// Use of the sites' shares of their customers' quotas, by site number.
    SHARES: Array(u32 => Usage), Bound::TunnelIds, Pinned,
        written by [Ingress, Expiry], read by [InternetIngress, Gatewayctl];
    /// Counters, event budget and cached next hops by customer id.
    COUNTERS: PerCpuArray(u32 => Counters), Bound::CustomerIds, Pinned,
        written by [Ingress, InternetEgress], read by [Ingress, InternetEgress, Gatewayctl];
    /// Drops by customer id; only of customers that have drops for more than one reason.
    DROPS: SparseHash(u32 => Drops), Bound::Customers, Pinned,
        written by [Ingress, InternetEgress], read by [Ingress, InternetEgress, Gatewayctl];
    /// Counters and event budget of packets that belong to no known customer.
    UNATTRIBUTED: PerCpuArray(u32 => Unattributed), Bound::Fixed(1), Pinned,
        written by [Hooks], read by [Hooks, Gatewayctl];
    /// Budgets of the senders of ARP and neighbour discovery on the LAN, by a hash of their MAC address.
    NEIGHBOURS: PerCpuArray(u32 => Bucket), Bound::Fixed(limits::NEIGHBOUR_BUCKETS as u32), Pinned,
        written by [LanIngress], read by [LanIngress];
    /// Drop events.
    EVENTS: RingBuffer(() => DropEvent), Bound::Fixed(limits::EVENT_RING_BYTES as u32), Pinned,
        written by [Hooks], read by [Gatewayd];
    /// Programs that an ingress program tail-calls, by `NextProgram`.
    PROGRAMS: ProgramArray(u32 => u32), Bound::Fixed(NextProgram::ALL.len() as u32), Pinned,
        written by [Gatewayd], read by [Ingress];
    /// CLOCK_MONOTONIC in nanoseconds, in packet-replay tests.
    REPLAY_CLOCK: Array(u32 => u64), Bound::Fixed(1), Programs,
        written by [Tests], read by [Hooks, Expiry];
    /// A segment between parsing and tracking.
    SEGMENT: PerCpuArray(u32 => Segment), Bound::Fixed(1), Programs,
        written by [Ingress], read by [Ingress];
    /// A packet's IP header, of either family.
    INNER: PerCpuArray(u32 => InnerWords), Bound::Fixed(1), Programs,
        written by [Ingress], read by [Ingress];
    /// A flow before it is inserted.
    NEW_FLOW: PerCpuArray(u32 => FlowWords), Bound::Fixed(1), Programs,
        written by [InternetIngress], read by [InternetIngress];
}

/// Room for an [`Inner`] of either family.
pub type InnerWords = [u64; size_of::<Inner<Ipv6>>() / 8];
/// Room for a [`Flow`]. Words, because the kernel allows no lock in a per-CPU map.
pub type FlowWords = [u64; size_of::<Flow>() / 8];

/// Returns the pinned maps.
pub fn pinned() -> impl Iterator<Item = &'static Description> {
    ALL.iter().filter(|map| map.lifetime == Lifetime::Pinned)
}
