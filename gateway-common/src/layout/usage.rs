//! Customers, and what they take of their quota.
use crate::{lock::bpf_spin_lock, rate::Bucket};

/// One customer; its key is its server's address.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct Customer {
    /// The customer's id, never 0.
    pub id: u32,
}

/// What one customer may take of what all share.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct Quota {
    /// Flows at once.
    pub flows: u32,
    /// Flows at once whose handshake is not complete.
    pub half_open: u32,
    /// One new flow in this many nanoseconds...
    pub new_flow_interval_ns: u32,
    /// ...and so many at once.
    pub new_flow_burst: u32,
}

/// What one customer has taken.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct Usage {
    /// Held while a program changes it.
    pub lock: bpf_spin_lock,
    /// Flows in the table.
    pub flows: u32,
    /// Those of them whose handshake is not complete.
    pub half_open: u32,
    #[doc(hidden)]
    pub _reserved: u32,
    /// The budget for new flows.
    pub new_flows: Bucket,
}

impl Usage {
    /// So many flows are gone, or half-open no more.
    #[inline(always)]
    pub fn give_back(&mut self, flows: u32, half_open: u32) {
        self.flows -= if flows < self.flows { flows } else { self.flows };
        self.half_open -= if half_open < self.half_open { half_open } else { self.half_open };
    }
}

const _: () = assert!(size_of::<Usage>() == 24);
