//! Free nodes. Each CPU keeps up to two lists of them to itself, its *magazine*, and exchanges full lists with a
//! pool that all CPUs share (Bonwick and Adams, "Magazines and Vmem", 2001). A CPU touches the pool at most once
//! for [`LIST_NODES`] flows opened or ended, however many CPUs there are.
use crate::{
    lock::bpf_spin_lock,
    node::{MAX_NODES, Number},
};

/// One pool for each family.
pub const POOLS: usize = 2;
/// Nodes of a full list.
pub const LIST_NODES: u32 = 32;
/// The most free nodes that a CPU withholds from others: two lists, and one on its way from or to the pool.
pub const SPARE_NODES: u32 = 3 * LIST_NODES;

/// Returns the number of nodes for this many flows: enough if every CPU keeps as many free ones as it may, in
/// whole lists. The spare ones grow with the CPUs, not with the flows.
pub const fn nodes(flows: u32, cpus: u32) -> Number {
    const MOST: Number = MAX_NODES / LIST_NODES * LIST_NODES;
    let nodes = flows.saturating_add(cpus.saturating_mul(SPARE_NODES));
    if nodes < MOST { nodes.next_multiple_of(LIST_NODES) } else { MOST }
}

/// One CPU's free nodes of one family. Guarded by the lock of its wheel.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct Magazine {
    /// The first free node.
    pub first: Number,
    /// Nodes in the list that begins with `first`.
    pub count: u32,
    /// The first node of a full list in reserve, 0 for none.
    pub reserve: Number,
}

impl Magazine {
    /// Takes the first node, `number`, which `next` follows. Returns false if it is no longer the first.
    #[inline(always)]
    pub fn take(&mut self, number: Number, next: Number) -> bool {
        let is_first = self.first == number;
        if is_first {
            self.first = next;
            self.count = self.count.wrapping_sub(1);
        }
        is_first
    }

    /// Puts in a free node.
    #[inline(always)]
    pub fn put(&mut self, number: Number) -> Put {
        let mut full = 0;
        if self.count >= LIST_NODES {
            full = self.reserve;
            *self = Self { first: 0, count: 0, reserve: self.first };
        }
        let next = self.first;
        self.first = number;
        self.count = self.count.wrapping_add(1);
        Put { next, full }
    }

    /// Takes the reserve into use if there is nothing else. Returns false if there is no free node.
    #[inline(always)]
    pub fn use_reserve(&mut self) -> bool {
        if self.first == 0 {
            if self.reserve == 0 {
                return false;
            }
            *self = Self { first: self.reserve, count: LIST_NODES, reserve: 0 };
        }
        true
    }

    /// Takes in a full list that begins with `list`. Returns false if there are free nodes already.
    #[inline(always)]
    pub fn refill(&mut self, list: Number) -> bool {
        let empty = self.first == 0;
        if empty {
            self.first = list;
            self.count = LIST_NODES;
        }
        empty
    }
}

/// The result of [`Magazine::put`].
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Put {
    /// The node that follows the one put in.
    pub next: Number,
    /// The first node of a full list that the pool gets, 0 for none.
    pub full: Number,
}

/// The free nodes of one family that all CPUs share, in full lists.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Pool {
    /// Held while a program changes the pool.
    pub lock: bpf_spin_lock,
    /// The first node of the first full list, 0 for none.
    pub first: Number,
    /// The highest node number ever used.
    pub highest: Number,
    /// Attempts at what another CPU had just taken, wrapping.
    pub retried: u32,
    /// Keeps the pools of both families out of each other's cache line.
    #[doc(hidden)]
    pub _reserved: [u32; 28],
}

impl Pool {
    /// Takes the full list that begins with `list`, which the list `next` follows. Returns false if it is no
    /// longer the first.
    #[inline(always)]
    pub fn take(&mut self, list: Number, next: Number) -> bool {
        let is_first = self.first == list;
        if is_first {
            self.first = next;
        } else {
            self.retried = self.retried.wrapping_add(1);
        }
        is_first
    }

    /// Puts in a full list, and returns the one that follows it.
    #[inline(always)]
    pub fn put(&mut self, list: Number) -> Number {
        core::mem::replace(&mut self.first, list)
    }

    /// Takes the numbers after `highest` for a full list of nodes that nobody has used before. Returns false if
    /// another CPU has taken them meanwhile.
    #[inline(always)]
    pub fn take_unused(&mut self, highest: Number) -> bool {
        let is_highest = self.highest == highest;
        if is_highest {
            self.highest = highest.wrapping_add(LIST_NODES);
        } else {
            self.retried = self.retried.wrapping_add(1);
        }
        is_highest
    }
}

const _: () = assert!(size_of::<Pool>() == 128);

#[cfg(feature = "user")]
mod pod {
    // SAFETY: repr(C), integers only, without padding.
    unsafe impl aya::Pod for super::Pool {}
}
