//! The gateway's maps that these programs use: those of `gateway_common::layout::map_list`, opened by their pins.
use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    btf_maps::{HashMap, MapDef},
    macros::btf_map,
};
use gateway_common::{
    layout::map_list::{self, Map},
    tcp::{Flow, FlowKey},
    wire::Ipv4,
};

/// A map of inbound SPIs, as the gateway declares it.
type InboundSpis = HashMap<u32, u32, 1, { BPF_F_NO_PREALLOC as usize }>;
/// A map of IPv4 flows, as the gateway declares it.
type Flows = HashMap<FlowKey<Ipv4>, Flow, 1>;

#[btf_map(pin_by_name)]
pub static INBOUND_SPIS: InboundSpis = HashMap::new();

#[btf_map(pin_by_name)]
pub static FLOWS: Flows = HashMap::new();

const _: () = listed::<InboundSpis>(&map_list::INBOUND_SPIS);
const _: () = listed::<Flows>(&map_list::FLOWS);

/// Compiles if the list has a map of these keys and values. aya compares the rest with the pinned map when it
/// loads the object.
const fn listed<M: MapDef>(_: &Map<M::Key, M::Value>) {}
