//! What the decision looks things up in.
use crate::{
    layout::{settings::Settings, tunnel::Tunnel, usage::Usage},
    packet::{inner::Inner, segment::Segment},
    tcp::flow::{Flow, FlowKey},
    time::Ticks,
};

/// What holds for the whole gateway, once it is filled in; before, every packet is dropped.
#[inline(always)]
pub fn ready<T: Tables>(tables: &T) -> Option<&Settings> {
    tables.settings().filter(|settings| settings.ready == 1)
}

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
    fn segment_scratch(&self) -> Option<impl Scratch<Segment>> {
        Some(Local(None))
    }
    /// Where a new flow is kept on its way into its table. In eBPF that is a map, since the stack has
    /// little room.
    #[inline(always)]
    fn flow_scratch(&self) -> Option<impl Scratch<Flow>> {
        Some(Local(None))
    }
}

/// What the decision looks up for one address family.
pub trait FamilyTables<A> {
    /// The number of the customer whose server has this address.
    fn customer(&self, server: A) -> Option<u32>;
    /// The flow of this key.
    fn flow(&self, key: &FlowKey<A>) -> Option<impl FlowCell>;
    /// Where a packet's header is kept while it is judged, as [`Tables::flow_scratch`].
    #[inline(always)]
    fn inner_scratch(&self) -> Option<impl Scratch<Inner<A>>> {
        Some(Local(None))
    }
    /// Adds a flow, and sees to it that it is removed after its end.
    fn insert_flow(&self, key: &FlowKey<A>, flow: &Flow, now: Ticks) -> Result<(), NotInserted>;
}

/// Where a value is kept.
pub trait Scratch<T> {
    /// Keeps it.
    fn put(&mut self, value: T) -> &mut T;
}

struct Local<T>(Option<T>);

impl<T> Scratch<T> for Local<T> {
    fn put(&mut self, value: T) -> &mut T {
        self.0.insert(value)
    }
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
