//! The maps: who writes and reads each stands in `gateway_common::layout`. Sizes here are the
//! smallest; the loader sets those of the policy's limits. Pinned by name, so that links,
//! programs and maps outlive the daemon.
use aya_ebpf::{
    Global,
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    btf_maps::{Array, HashMap, LruHashMap, PerCpuArray, ProgramArray, RingBuf},
    macros::btf_map,
};
use gateway_common::{
    layout::{
        Counters, Customer, DropEvent, LayoutFamily, NextProgram, OutboundSpi, Settings, Tunnel, Usage,
    },
    limits::{EVENT_RING_BYTES, SOURCES as MOST_SOURCES},
    outer::{Budgets, PeerBudgets},
    packet::{FastFamily, Inner, Segment},
    tcp::{Flow, FlowKey},
    wheel::{Expiry, Pair, SLOTS, Slot, WheelFamily},
    wire::{Ipv4, Ipv6},
};

/// Servers of one address family. Their entries are there beforehand: to allocate them one by one takes twice as
/// long when all customers are loaded. So one that is removed may be another server's while a program still reads
/// it: a customer found here counts only with a tunnel of its whose server is the packet's source.
pub type Customers<A> = HashMap<A, Customer, 1>;
/// Flows of one address family.
pub type Flows<A> = HashMap<FlowKey<A>, Flow, 1>;
/// The places of one family's flows in the wheel.
pub type Nodes<A> = Array<Pair<A>, 2>;

/// An address family, and its own maps.
pub trait Stored: FastFamily + LayoutFamily + WheelFamily {
    fn customers() -> &'static Customers<Self>;
    fn flows() -> &'static Flows<Self>;
    fn nodes() -> &'static Nodes<Self>;
}

impl Stored for Ipv4 {
    #[inline(always)]
    fn customers() -> &'static Customers<Self> {
        &CUSTOMERS
    }

    #[inline(always)]
    fn flows() -> &'static Flows<Self> {
        &FLOWS
    }

    #[inline(always)]
    fn nodes() -> &'static Nodes<Self> {
        &NODES
    }
}

impl Stored for Ipv6 {
    #[inline(always)]
    fn customers() -> &'static Customers<Self> {
        &CUSTOMERS6
    }

    #[inline(always)]
    fn flows() -> &'static Flows<Self> {
        &FLOWS6
    }

    #[inline(always)]
    fn nodes() -> &'static Nodes<Self> {
        &NODES6
    }
}

#[btf_map(pin_by_name)]
pub static SETTINGS: Array<Settings, 1> = Array::new();

#[btf_map(pin_by_name)]
pub static TUNNELS: Array<Tunnel, 2, { BPF_F_MMAPABLE as usize }> = Array::new();

#[btf_map(pin_by_name)]
pub static CUSTOMERS: Customers<Ipv4> = HashMap::new();

#[btf_map(pin_by_name)]
pub static CUSTOMERS6: Customers<Ipv6> = HashMap::new();

#[btf_map(pin_by_name)]
pub static INBOUND_SPIS: HashMap<u32, u32, 1, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();

#[btf_map(pin_by_name)]
pub static OUTBOUND_SPIS: HashMap<OutboundSpi, u32, 1, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();

#[btf_map(pin_by_name)]
pub static PEERS: HashMap<Ipv6, PeerBudgets, 1, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();

#[btf_map(pin_by_name)]
pub static SOURCES: LruHashMap<Ipv6, Budgets, MOST_SOURCES> = LruHashMap::new();

#[btf_map(pin_by_name)]
pub static STRANGERS: PerCpuArray<Budgets, 1> = PerCpuArray::new();

#[btf_map(pin_by_name)]
pub static FLOWS: Flows<Ipv4> = HashMap::new();

#[btf_map(pin_by_name)]
pub static FLOWS6: Flows<Ipv6> = HashMap::new();

#[btf_map(pin_by_name)]
pub static NODES: Nodes<Ipv4> = Array::new();

#[btf_map(pin_by_name)]
pub static NODES6: Nodes<Ipv6> = Array::new();

#[btf_map(pin_by_name)]
pub static WHEEL: Array<Slot, SLOTS> = Array::new();

#[btf_map(pin_by_name)]
pub static EXPIRY: Array<Expiry, 1> = Array::new();

#[btf_map(pin_by_name)]
pub static USAGE: Array<Usage, 2> = Array::new();

#[btf_map(pin_by_name)]
pub static COUNTERS: PerCpuArray<Counters, 2> = PerCpuArray::new();

#[btf_map(pin_by_name)]
pub static EVENTS: RingBuf<DropEvent, EVENT_RING_BYTES> = RingBuf::new();

#[btf_map(pin_by_name)]
pub static PROGRAMS: ProgramArray<{ NextProgram::ALL.len() }> = ProgramArray::new();

/// 1 in packet-replay tests, which cannot give a packet an XFRM state: the SA's reqid and SPI then
/// come from skb->cb[0] and cb[1], and the time from `REPLAY_CLOCK`. 2 in the flood test: identity
/// likewise, but the clock and the timer are real. The daemon never sets it, and as a constant it lets
/// the verifier remove that code.
#[unsafe(no_mangle)]
pub static REPLAY: Global<u32> = Global::new(0);

/// 1 in benchmarks that compare: packets to servers go through the stack, which routes them.
#[unsafe(no_mangle)]
pub static FORWARD: Global<u32> = Global::new(0);

/// Nanoseconds, in packet-replay tests.
#[btf_map]
pub static REPLAY_CLOCK: Array<u64, 1> = Array::new();

/// Between parsing and tracking, see `Tables::segment_scratch`.
#[btf_map]
pub static SEGMENT: PerCpuArray<Segment, 1> = PerCpuArray::new();

/// A packet's header of either family, see `FamilyTables::inner_scratch`.
#[btf_map]
pub static INNER: PerCpuArray<[u64; size_of::<Inner<Ipv6>>() / 8], 1> = PerCpuArray::new();

/// A flow on its way into its table; words, since a lock may not stand in a map for each CPU.
#[btf_map]
pub static NEW_FLOW: PerCpuArray<[u64; size_of::<Flow>() / 8], 1> = PerCpuArray::new();
