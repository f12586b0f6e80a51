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

/// One site's share of its customer's quota. A share that is not smaller than the quota does not limit.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct Share {
    /// Most concurrent flows.
    pub flows: u32,
    /// Most concurrent half-open flows. New flows are shared in proportion to it.
    pub half_open: u32,
}

impl Share {
    /// The whole quota, whatever it is.
    pub const WHOLE: Self = Self { flows: u32::MAX, half_open: u32::MAX };
}

/// One customer's use of its quota, or one site's use of its share.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct Usage {
    /// Held while a program changes the usage.
    pub lock: bpf_spin_lock,
    /// Flows in the table.
    pub flows: u32,
    /// Flows in the table whose handshake is not complete.
    pub half_open: u32,
    /// The customer whose flows are counted, for a site, whose number may have been another customer's. Unused
    /// for a customer.
    pub customer: u32,
    /// The budget for new flows.
    pub new_flows: Bucket,
}

impl Usage {
    /// Starts anew if the site's number was another customer's before: that one's flows do not count here.
    #[inline(always)]
    pub fn adopt(&mut self, customer: u32) {
        if self.customer != customer {
            // Field by field: a copy of the whole would write the lock.
            (self.customer, self.flows, self.half_open) = (customer, 0, 0);
            self.new_flows = Bucket { full_at_ns: 0 };
        }
    }

    /// Returns flows to the quota that are gone, or no longer half-open.
    #[inline(always)]
    pub fn give_back(&mut self, flows: u32, half_open: u32) {
        self.flows -= if flows < self.flows { flows } else { self.flows };
        self.half_open -= if half_open < self.half_open { half_open } else { self.half_open };
    }

    /// Returns a customer's flows to a site's share, unless the site's number is another customer's now.
    #[inline(always)]
    pub fn give_back_share(&mut self, customer: u32, flows: u32, half_open: u32) {
        if self.customer == customer {
            self.give_back(flows, half_open);
        }
    }
}

const _: () = assert!(size_of::<Usage>() == 24);
