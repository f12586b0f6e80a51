//! The maps' statics. `gateway_common::layout::map_list` lists the purpose, users, types and sizes of each map. The
//! macro [`maps`] checks the types here, `gateway/tests/maps` the rest in the compiled object. Sizes that depend
//! on the policy's limits are the smallest possible here; the loader sets them. Maps are pinned by name, so that
//! links, programs and maps outlive the daemon.
use aya_ebpf::{
    Global,
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    btf_maps::{Array, HashMap, LruHashMap, MapDef, PerCpuArray, ProgramArray, RingBuf},
    macros::btf_map,
};
use gateway_common::{
    layout::{
        Binding, Counters, Customer, DropEvent, Drops, LayoutFamily, NextProgram, OutboundSpi, Settings,
        Tunnel, Unattributed, Usage,
        map_list::{self, FlowWords, InnerWords, Map},
    },
    limits::{self, EVENT_RING_BYTES},
    magazine::{POOLS as POOL_COUNT, Pool},
    node::Pair,
    outer::{
        Budgets, PeerBudgets,
        cookie::{Proof, Secrets, Strangers},
    },
    packet::{FastFamily, Segment},
    rate::Bucket,
    tcp::{Flow, FlowKey},
    wheel::{Wheel, WheelFamily},
    wire::{Ipv4, Ipv6},
};

/// An address family, and the maps that hold only its entries.
pub trait FamilyMaps: FastFamily + LayoutFamily + WheelFamily {
    fn customers() -> &'static Customers<Self>;
    fn flows() -> &'static Flows<Self>;
    fn nodes() -> &'static Nodes<Self>;
}

/// Customers by their server's address. The entries are preallocated: allocating them one by one takes twice as
/// long when all customers are loaded. A removed entry may therefore become another server's while a program
/// still reads it, so a customer found here counts only with a tunnel of that customer whose server is the
/// packet's source.
pub type Customers<A> = HashMap<A, Customer, 1>;
/// Flows.
pub type Flows<A> = HashMap<FlowKey<A>, Flow, 1>;
/// Nodes of flows in the timing wheels.
pub type Nodes<A> = Array<Pair<A>, 2>;

impl FamilyMaps for Ipv4 {
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

impl FamilyMaps for Ipv6 {
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

/// Declares maps. Each fails to compile unless the list has a map of this name, key and value.
macro_rules! maps {
    ($(#[$attribute:meta] $visibility:vis static $name:ident: $type:ty;)+) => {
        $(
            #[$attribute]
            $visibility static $name: $type = <$type>::new();
            const _: () = listed::<$type>(&map_list::$name);
        )+
    };
}

const fn listed<M: MapDef>(_: &Map<M::Key, M::Value>) {}

maps! {
    #[btf_map(pin_by_name)]
    pub static SETTINGS: Array<Settings, 1>;

    #[btf_map(pin_by_name)]
    pub static BINDINGS: Array<Binding, 2, { BPF_F_MMAPABLE as usize }>;

    #[btf_map(pin_by_name)]
    pub static TUNNELS: Array<Tunnel, 2, { BPF_F_MMAPABLE as usize }>;

    #[btf_map(pin_by_name)]
    pub static CUSTOMERS: Customers<Ipv4>;

    #[btf_map(pin_by_name)]
    pub static CUSTOMERS6: Customers<Ipv6>;

    #[btf_map(pin_by_name)]
    pub static INBOUND_SPIS: HashMap<u32, u32, 1, { BPF_F_NO_PREALLOC as usize }>;

    #[btf_map(pin_by_name)]
    pub static OUTBOUND_SPIS: HashMap<OutboundSpi, u32, 1, { BPF_F_NO_PREALLOC as usize }>;

    #[btf_map(pin_by_name)]
    pub static PEERS: HashMap<Ipv6, PeerBudgets, 1, { BPF_F_NO_PREALLOC as usize }>;

    #[btf_map(pin_by_name)]
    pub static SOURCES: LruHashMap<Ipv6, Budgets, { limits::SOURCES }>;

    #[btf_map(pin_by_name)]
    pub static STRANGERS: PerCpuArray<Strangers, 1>;

    #[btf_map(pin_by_name)]
    pub static PROVEN: LruHashMap<Ipv6, Proof, { limits::PROVEN }>;

    #[btf_map(pin_by_name)]
    pub static COOKIES: Array<Secrets, 1>;

    #[btf_map(pin_by_name)]
    pub static FLOWS: Flows<Ipv4>;

    #[btf_map(pin_by_name)]
    pub static FLOWS6: Flows<Ipv6>;

    #[btf_map(pin_by_name)]
    pub static NODES: Nodes<Ipv4>;

    #[btf_map(pin_by_name)]
    pub static NODES6: Nodes<Ipv6>;

    #[btf_map(pin_by_name)]
    pub static WHEELS: Array<Wheel, 1>;

    #[btf_map(pin_by_name)]
    pub static POOLS: Array<Pool, POOL_COUNT>;

    #[btf_map(pin_by_name)]
    pub static USAGE: Array<Usage, 2>;

    #[btf_map(pin_by_name)]
    pub static SHARES: Array<Usage, 2>;

    #[btf_map(pin_by_name)]
    pub static COUNTERS: PerCpuArray<Counters, 2>;

    #[btf_map(pin_by_name)]
    pub static DROPS: HashMap<u32, Drops, 1, { BPF_F_NO_PREALLOC as usize }>;

    #[btf_map(pin_by_name)]
    pub static UNATTRIBUTED: PerCpuArray<Unattributed, 1>;

    #[btf_map(pin_by_name)]
    pub static NEIGHBOURS: PerCpuArray<Bucket, { limits::NEIGHBOUR_BUCKETS }>;

    #[btf_map(pin_by_name)]
    pub static EVENTS: RingBuf<DropEvent, EVENT_RING_BYTES>;

    #[btf_map(pin_by_name)]
    pub static PROGRAMS: ProgramArray<{ NextProgram::ALL.len() }>;

    #[btf_map]
    pub static REPLAY_CLOCK: Array<u64, 1>;

    #[btf_map]
    pub static SEGMENT: PerCpuArray<Segment, 1>;

    #[btf_map]
    pub static INNER: PerCpuArray<InnerWords, 1>;

    #[btf_map]
    pub static NEW_FLOW: PerCpuArray<FlowWords, 1>;
}

/// The source of identity and time. 0: the kernel. The daemon never sets another value; the value is constant
/// when the program is loaded, so the verifier removes the code for the others. 1: packet-replay tests, which cannot give a
/// packet an XFRM state; the SA's reqid and SPI come from skb->cb[0] and cb[1], the time from `REPLAY_CLOCK`.
/// 2: the flood test and benchmarks; the identity comes from skb->cb, while clock and timer are real.
#[unsafe(no_mangle)]
pub static REPLAY: Global<u32> = Global::new(0);

/// 1 in benchmarks that compare: packets to servers pass to the stack, which routes them.
#[unsafe(no_mangle)]
pub static FORWARD: Global<u32> = Global::new(0);

/// The key of the hash by which senders on the LAN get their budgets. The daemon sets a random one.
#[unsafe(no_mangle)]
pub static NEIGHBOUR_KEY: Global<u64> = Global::new(0);
