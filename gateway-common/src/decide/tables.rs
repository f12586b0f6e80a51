//! The tables that the decision looks things up in: eBPF maps, or ordinary ones on the host.
use crate::{
    layout::{binding::Binding, settings::Settings, tunnel::Tunnel, usage::Usage},
    packet::{inner::Inner, segment::Segment},
    tcp::flow::{Flow, FlowKey},
    time::Ticks,
};

/// Returns the settings once they are complete. Until then every packet is dropped.
#[inline(always)]
pub fn ready<T: Tables>(tables: &T) -> Option<&Settings> {
    tables.settings().filter(|settings| settings.ready == 1)
}

/// The tables that do not depend on the address family.
pub trait Tables {
    /// Returns the settings of the whole gateway.
    fn settings(&self) -> Option<&Settings>;
    /// Returns the binding of this reqid.
    fn binding(&self, reqid: u32) -> Option<&Binding>;
    /// Returns the site of this number.
    fn tunnel(&self, number: u32) -> Option<&Tunnel>;
    /// Returns the mark of the CHILD_SA that is known to own an inbound SPI.
    fn inbound_spi(&self, spi: u32) -> Option<u32>;
    /// Returns the usage of the customer of this id.
    fn usage(&self, customer: u32) -> Option<impl UsageCell>;
    /// Returns the usage of the share of the site of this number.
    fn share(&self, site: u32) -> Option<impl UsageCell>;
    /// Returns storage for a segment. In eBPF this is a map: the verifier explores every combination of
    /// what parsing found out, and forgets it for a value read from memory.
    #[inline(always)]
    fn segment_scratch(&self) -> Option<impl Scratch<Segment>> {
        Some(Local(None))
    }
    /// Returns storage for a new flow before it is inserted. In eBPF this is a map, because the stack is
    /// small.
    #[inline(always)]
    fn flow_scratch(&self) -> Option<impl Scratch<Flow>> {
        Some(Local(None))
    }
}

/// The tables of one address family.
pub trait FamilyTables<A> {
    /// Returns the id of the customer whose server has this address.
    fn customer(&self, server: A) -> Option<u32>;
    /// Returns the flow of this key.
    fn flow(&self, key: &FlowKey<A>) -> Option<impl FlowCell>;
    /// Returns storage for a packet's header, as [`Tables::segment_scratch`].
    #[inline(always)]
    fn inner_scratch(&self) -> Option<impl Scratch<Inner<A>>> {
        Some(Local(None))
    }
    /// Inserts a flow and schedules its removal after its end.
    fn insert_flow(&self, key: &FlowKey<A>, flow: &Flow, now: Ticks) -> Result<(), NotInserted>;
}

/// Storage for one value.
pub trait Scratch<T> {
    /// Stores a value and returns it in place.
    fn put(&mut self, value: T) -> &mut T;
}

struct Local<T>(Option<T>);

impl<T> Scratch<T> for Local<T> {
    fn put(&mut self, value: T) -> &mut T {
        self.0.insert(value)
    }
}

/// A flow in its table, which others may be changing.
pub trait FlowCell {
    /// Returns the flow's current tunnel.
    fn tunnel(&self) -> u32;
    /// Runs `change` with exclusive access to the flow.
    fn locked<R>(&self, change: impl FnOnce(&mut Flow) -> R) -> R;
}

/// A customer's or a site's usage in its table, which others may be changing.
pub trait UsageCell {
    /// Runs `change` with exclusive access to the usage.
    fn locked<R>(&self, change: impl FnOnce(&mut Usage) -> R) -> R;
}

/// Why a flow was not inserted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum NotInserted {
    /// The table is full.
    Full = 0,
    /// Another CPU has just inserted a flow of this key.
    Exists = 1,
}
