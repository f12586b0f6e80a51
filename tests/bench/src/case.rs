//! One case: a workload with the numbers of customers and flows it runs on.
use super::workload::{Choice, Place, Workload};

/// Client ports used on each device.
pub const PORTS: u32 = 60_000;

/// Work for a contender.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Case {
    /// Number of configured customers.
    pub customers: u32,
    /// Number of open flows.
    pub flows: u32,
    /// The customer that the packets belong to.
    pub place: Place,
    /// The kind of packets.
    pub workload: Workload,
    /// The distribution of packets over flows.
    pub choice: Choice,
    /// Size of a frame with data, in bytes.
    pub frame_bytes: u32,
}

impl Case {
    /// Returns the usual case: 64-byte frames of the last customer's only flow.
    pub fn usual(workload: Workload, customers: u32) -> Self {
        Self { workload, customers, place: Place::Last, flows: 1, choice: Choice::Uniform, frame_bytes: 64 }
    }

    /// Returns the number of the customer that the packets belong to.
    pub fn customer(&self) -> u32 {
        match self.place {
            Place::First => 1,
            Place::Middle => self.customers.div_ceil(2),
            Place::Last => self.customers,
        }
    }

    /// Returns the number of devices of each customer, enough for all flows. Above 10,000 customers each has
    /// one device instead of four, because nft takes minutes for 400,000 elements.
    pub fn devices(&self) -> u32 {
        let minimum = if self.customers > 10_000 { 1 } else { 4 };
        minimum.max(2 * self.flows.div_ceil(PORTS))
    }

    /// Returns the number of flows that the customer can ever open.
    pub fn tuples(&self) -> u32 {
        self.devices() * PORTS
    }
}
