//! What is measured: contenders, and cases of work for them.
use std::io;

use anyhow::Result;
use clap::{Args, builder::RangedU64ValueParser};

use super::{
    contender,
    figure::{Choice, Contender, Figure, Place, Unit, Workload},
    traffic::PORTS,
};

/// What to measure.
#[derive(Args, Clone, Debug)]
pub struct Selection {
    /// Fewer combinations
    #[arg(long)]
    pub quick: bool,
    /// Only these contenders
    #[arg(long, value_delimiter = ',', value_enum)]
    pub contenders: Vec<Contender>,
    /// Only these workloads
    #[arg(long, value_delimiter = ',', value_enum)]
    pub workloads: Vec<Workload>,
    /// Only these numbers of customers
    #[arg(long, value_delimiter = ',', value_parser = RangedU64ValueParser::<u32>::new().range(1..=100_000))]
    pub customers: Vec<u32>,
    /// Only these numbers of flows
    #[arg(long, value_delimiter = ',', value_parser = RangedU64ValueParser::<u32>::new().range(1..=1_000_000))]
    pub flows: Vec<u32>,
    /// How many random packets all contenders must agree on before anything is measured
    #[arg(long, default_value_t = 10_000)]
    pub random_packets: u32,
    /// Where random numbers begin
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// Work for a contender.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Case {
    /// Customers there are.
    pub customers: u32,
    /// Flows that are open.
    pub flows: u32,
    /// Which customer the packets are of.
    pub place: Place,
    /// What packets.
    pub workload: Workload,
    /// How they choose among the flows.
    pub choice: Choice,
    /// Bytes of a frame with data.
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
    fn usual(workload: Workload, customers: u32) -> Self {
        Self { workload, customers, place: Place::Last, flows: 1, choice: Choice::Uniform, frame_bytes: 64 }
    }

    /// The customer whose packets these are.
    pub fn customer(&self) -> u32 {
        match self.place {
            Place::First => 1,
            Place::Middle => self.customers.div_ceil(2),
            Place::Last => self.customers,
        }
    }

    /// Devices that each customer has, enough for so many flows. nft takes minutes for 400,000 elements.
    pub fn devices(&self) -> u32 {
        let few = if self.customers > 10_000 { 1 } else { 4 };
        few.max(2 * self.flows.div_ceil(PORTS))
    }

    /// Flows that the customer can ever have.
    pub fn tuples(&self) -> u32 {
        self.devices() * PORTS
    }

    /// Prints the figure, and the same for people.
    pub fn report(&self, contender: Contender, unit: Unit, measured: Measured) -> Result<()> {
        let Measured { value, low, high, rounds } = measured;
        let Self { customers, flows, place, workload, choice, frame_bytes } = *self;
        let digits = if unit == Unit::Ratio { 3 } else { 0 };
        eprintln!(
            "{contender:?}: {value:.digits$} ({low:.digits$} to {high:.digits$}) {unit:?}, {workload:?}, \
             {frame_bytes} bytes, {customers} customers ({place:?}), {flows} flows ({choice:?})"
        );
        let figure = Figure {
            contender,
            workload,
            customers,
            place,
            flows,
            choice,
            frame_bytes,
            unit,
            value,
            low,
            high,
            rounds,
        };
        figure.write(&mut io::stdout().lock())
    }
}
