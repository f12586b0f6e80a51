//! The decision's tables, backed by maps.
use aya_ebpf::bindings::BPF_NOEXIST;
use gateway_common::{
    decide::{FamilyTables, FlowCell, NotInserted, Scratch, Tables, UsageCell},
    layout::{Binding, OutboundSpi, Settings, Tunnel},
    packet::{Inner, Segment},
    tcp::{Flow, FlowKey},
    time::Ticks,
    wire::{Ipv4, Ipv6},
};

use crate::{
    access::Skb,
    lock::MapCell,
    maps::{
        BINDINGS, FamilyMaps, INBOUND_SPIS, INNER, NEW_FLOW, OUTBOUND_SPIS, SEGMENT, SETTINGS, SHARES,
        TUNNELS, USAGE,
    },
    nodes,
};

/// EEXIST as the kernel's helpers return it.
const EEXIST: i32 = -17;

/// The tables of the decision; all state is in the maps.
pub struct Maps;

impl Tables for Maps {
    #[inline(always)]
    fn settings(&self) -> Option<&Settings> {
        SETTINGS.get(0)
    }

    #[inline(always)]
    fn binding(&self, reqid: u32) -> Option<&Binding> {
        BINDINGS.get(reqid)
    }

    #[inline(always)]
    fn tunnel(&self, number: u32) -> Option<&Tunnel> {
        TUNNELS.get(number)
    }

    #[inline(always)]
    fn inbound_spi(&self, spi: u32) -> Option<u32> {
        // SAFETY: an element that is replaced meanwhile stays readable until the program ends
        // (RCU); it is only read.
        unsafe { INBOUND_SPIS.get(&spi) }.copied()
    }

    #[inline(always)]
    fn usage(&self, customer: u32) -> Option<impl UsageCell> {
        USAGE.get_ptr_mut(customer).map(MapCell)
    }

    #[inline(always)]
    fn share(&self, site: u32) -> Option<impl UsageCell> {
        SHARES.get_ptr_mut(site).map(MapCell)
    }

    #[inline(always)]
    fn segment_scratch(&self) -> Option<impl Scratch<Segment>> {
        SEGMENT.get_ptr_mut(0).map(PerCpuScratch)
    }

    #[inline(always)]
    fn flow_scratch(&self) -> Option<impl Scratch<Flow>> {
        NEW_FLOW.get_ptr_mut(0).map(|words| PerCpuScratch(words.cast()))
    }
}

impl<A: FamilyMaps> FamilyTables<A> for Maps {
    #[inline(always)]
    fn customer(&self, server: A) -> Option<u32> {
        // SAFETY: as in `inbound_spi`.
        unsafe { A::customers().get(&server) }.map(|customer| customer.id)
    }

    #[inline(always)]
    fn flow(&self, key: &FlowKey<A>) -> Option<impl FlowCell> {
        A::flows().get_ptr_mut(key).map(MapCell)
    }

    #[inline(always)]
    fn inner_scratch(&self) -> Option<impl Scratch<Inner<A>>> {
        const { assert!(size_of::<Inner<A>>() <= size_of::<Inner<Ipv6>>()) };
        INNER.get_ptr_mut(0).map(|words| PerCpuScratch(words.cast()))
    }

    #[inline(always)]
    fn insert_flow(&self, key: &FlowKey<A>, flow: &Flow, _: Ticks) -> Result<(), NotInserted> {
        let Some(wheel) = nodes::own_wheel() else { return Err(NotInserted::Full) };
        let Some(number) = nodes::allocate::<A>(wheel) else { return Err(NotInserted::Full) };
        match A::flows().insert(key, flow, u64::from(BPF_NOEXIST)) {
            Ok(()) => {
                nodes::schedule(wheel, number, key, flow.expires);
                Ok(())
            }
            Err(error) => {
                nodes::free::<A>(wheel, number);
                Err(if error == EEXIST { NotInserted::Exists } else { NotInserted::Full })
            }
        }
    }
}

/// This CPU's slot of a scratch map, large enough for a `T`.
struct PerCpuScratch<T>(*mut T);

impl<T> Scratch<T> for PerCpuScratch<T> {
    #[inline(always)]
    fn put(&mut self, value: T) -> &mut T {
        // SAFETY: a live map value, this CPU's own. The black box stops LLVM from using `value` directly,
        // which would carry the verifier's knowledge of it past the store.
        unsafe {
            *self.0 = value;
            &mut *core::hint::black_box(self.0)
        }
    }
}

/// Returns the mark of the CHILD_SA that an outbound SPI is known to belong to.
#[inline(always)]
pub fn outbound_owner(spi: OutboundSpi) -> Option<u32> {
    // SAFETY: as in `Maps::inbound_spi`.
    unsafe { OUTBOUND_SPIS.get(&spi) }.copied()
}

/// Returns the number of the customer whose server a packet has as its source, or 0 if no customer has.
#[inline(never)]
pub fn customer_of_source(skb: Skb) -> u32 {
    match skb.is_ipv6() {
        false => customer_of_source_of::<Ipv4>(skb),
        true => customer_of_source_of::<Ipv6>(skb),
    }
}

#[inline(always)]
fn customer_of_source_of<A: FamilyMaps>(skb: Skb) -> u32 {
    let Ok(header) = A::header(&skb) else { return 0 };
    FamilyTables::<A>::customer(&Maps, header.source).unwrap_or(0)
}
