//! One case: a workload with the numbers of customers and flows it runs on.
use super::workload::{Choice, Place, Workload};

use anyhow::Result;
use clap::{Args, builder::RangedU64ValueParser};

use super::{
    contender,
    figure::{Choice, Contender, Figure, Place, Unit, Workload},
    traffic::PORTS,
};

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

/// What many rounds of a case came to.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// The median.
    pub value: f64,
    /// See [`Figure::low`].
    pub low: f64,
    /// See [`Figure::high`].
    pub high: f64,
    /// Rounds.
    pub rounds: u32,
}

impl Selection {
    /// Contenders that are chosen.
    pub fn contenders(&self) -> Vec<Contender> {
        if self.contenders.is_empty() { contender::ALL.to_vec() } else { self.contenders.clone() }
    }

    /// Contenders that are chosen for ESP: it is beside the point how many ways there are to filter.
    pub fn contenders_through_esp(&self) -> Vec<Contender> {
        const USUAL: [Contender; 4] =
            [Contender::IngressDrop, Contender::Forwarding, Contender::Nftables, Contender::Redirect];
        if self.contenders.is_empty() { USUAL.to_vec() } else { self.contenders.clone() }
    }

    /// Which of these workloads are chosen; if it is to be quick, only if they are named.
    pub fn chosen_of(&self, workloads: &[Workload]) -> Vec<Workload> {
        if self.quick && self.workloads.is_empty() {
            return Vec::new();
        }
        workloads.iter().copied().filter(|workload| self.chooses(*workload)).collect()
    }

    /// All cases of what is chosen; where it is not said, of these numbers of customers and flows. Places,
    /// sizes and flows differ for established packets only, and flows with one customer only.
    pub fn cases(&self, customers: &[u32], flows: &[u32]) -> Vec<Case> {
        let or =
            |chosen: &[u32], usual: &[u32]| if chosen.is_empty() { usual.to_vec() } else { chosen.to_vec() };
        let (customers, flows) = (or(&self.customers, customers), or(&self.flows, flows));
        let mut cases: Vec<Case> =
            customers.iter().flat_map(|customers| self.of_customers(*customers)).collect();
        let few = customers.iter().min().copied().unwrap_or(1);
        for (flows, choice) in
            flows.iter().flat_map(|flows| [(*flows, Choice::Uniform), (*flows, Choice::Zipf)])
        {
            if flows > 1 && self.chooses(Workload::Established) {
                cases.push(Case { flows, choice, ..Case::usual(Workload::Established, few) });
            }
        }
        if !flows.contains(&1) {
            cases.retain(|case| case.flows != 1);
        }
        cases.sort();
        cases
    }

    fn of_customers(&self, customers: u32) -> Vec<Case> {
        let mut cases = Vec::new();
        // What nobody asked for, of many customers.
        let few_suffice = self.quick && self.customers.is_empty() && customers > 1;
        for workload in Workload::PACKETS.into_iter().filter(|workload| self.chooses(*workload)) {
            if few_suffice && workload != Workload::Established {
                continue;
            }
            let usual = Case::usual(workload, customers);
            cases.push(usual);
            if workload == Workload::Established && !self.quick {
                if customers > 1 {
                    cases.extend([Place::First, Place::Middle].map(|place| Case { place, ..usual }));
                }
                cases.push(Case { frame_bytes: 1400, ..usual });
            }
        }
        cases
    }

    fn chooses(&self, workload: Workload) -> bool {
        self.workloads.is_empty() || self.workloads.contains(&workload)
    }
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
