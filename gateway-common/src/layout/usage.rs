//! Customers, their quotas, and what they use of them.
use crate::{lock::bpf_spin_lock, rate::Bucket};

/// One customer, keyed by its server's address.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct Customer {
    /// The customer's id, never 0.
    pub id: u32,
}

/// One customer's share of the resources that all customers use.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct Quota {
    /// Most concurrent flows.
    pub flows: u32,
    /// Most concurrent flows whose handshake is not complete.
    pub half_open: u32,
    /// Nanoseconds between new flows at the sustained rate.
    pub new_flow_interval_ns: u32,
    /// Largest burst of new flows.
    pub new_flow_burst: u32,
}

/// One customer's use of its quota.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct Usage {
    /// Held while a program changes the usage.
    pub lock: bpf_spin_lock,
    /// Flows in the table.
    pub flows: u32,
    /// Flows in the table whose handshake is not complete.
    pub half_open: u32,
    #[doc(hidden)]
    pub _reserved: u32,
    /// The budget for new flows.
    pub new_flows: Bucket,
}

impl Usage {
    /// Returns flows to the quota that are gone, or no longer half-open.
    #[inline(always)]
    pub fn give_back(&mut self, flows: u32, half_open: u32) {
        self.flows -= if flows < self.flows { flows } else { self.flows };
        self.half_open -= if half_open < self.half_open { half_open } else { self.half_open };
    }
}

const _: () = assert!(size_of::<Usage>() == 24);
