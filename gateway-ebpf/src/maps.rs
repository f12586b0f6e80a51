//! The maps: who writes and reads each stands in `gateway_common::layout`. Sizes here are the
//! smallest; the loader sets those of the policy's limits. Pinned by name, so that links,
//! programs and maps outlive the daemon.
use aya_ebpf::{
    Global,
    bindings::BPF_F_NO_PREALLOC,
    btf_maps::{Array, HashMap, PerCpuArray, RingBuf},
    macros::btf_map,
};
use gateway_common::{
    layout::{Counters, Customer, DropEvent, Flow, FlowKey, OutboundSpi, Settings, Tunnel},
    limits::EVENT_RING_BYTES,
    packet::Segment,
    wire::Ipv4,
};

#[btf_map(pin_by_name)]
pub static SETTINGS: Array<Settings, 1> = Array::new();

#[btf_map(pin_by_name)]
pub static TUNNELS: Array<Tunnel, 2> = Array::new();

#[btf_map(pin_by_name)]
pub static CUSTOMERS: HashMap<Ipv4, Customer, 1, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();

#[btf_map(pin_by_name)]
pub static INBOUND_SPIS: HashMap<u32, u32, 1, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();

#[btf_map(pin_by_name)]
pub static OUTBOUND_SPIS: HashMap<OutboundSpi, u32, 1, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();

#[btf_map(pin_by_name)]
pub static FLOWS: HashMap<FlowKey, Flow, 1> = HashMap::new();

#[btf_map(pin_by_name)]
pub static COUNTERS: PerCpuArray<Counters, 2> = PerCpuArray::new();

#[btf_map(pin_by_name)]
pub static EVENTS: RingBuf<DropEvent, EVENT_RING_BYTES> = RingBuf::new();

/// 1 in packet-replay tests, which cannot give a packet an XFRM state: the SA's reqid and SPI then
/// come from skb->cb[0] and cb[1], and the time from `REPLAY_CLOCK`. The daemon never sets it, and
/// as a constant it lets the verifier remove that code.
#[unsafe(no_mangle)]
pub static REPLAY: Global<u32> = Global::new(0);

/// Nanoseconds, in packet-replay tests.
#[btf_map]
pub static REPLAY_CLOCK: Array<u64, 1> = Array::new();

/// Between parsing and tracking, see `Tables::through_memory`.
#[btf_map]
pub static SEGMENT: PerCpuArray<Segment, 1> = PerCpuArray::new();
