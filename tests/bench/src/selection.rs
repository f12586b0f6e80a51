//! Command-line selection of contenders and cases.
use clap::{Args, builder::RangedU64ValueParser};

use super::{
    case::Case,
    contender::{Contender, Esp},
    workload::{Choice, Place, Workload},
};

/// Command-line choice of measurements.
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
    /// Number of random packets that all contenders must agree on before the first measurement
    #[arg(long, default_value_t = 10_000)]
    pub random_packets: u32,
    /// Seed of all random numbers
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

impl Selection {
    /// Returns the selected contenders.
    pub fn contenders(&self) -> Vec<Contender> {
        if self.contenders.is_empty() { Contender::ALL.to_vec() } else { self.contenders.clone() }
    }

    /// Returns the contenders to measure through ESP. Most firewalls run there on request only: the
    /// measurement is about ESP, not about the many ways to filter.
    pub fn contenders_through_esp(&self) -> Vec<Contender> {
        let selected = |contender: &Contender| match contender.row().esp {
            Esp::Always => true,
            Esp::OnRequest => !self.contenders.is_empty(),
            Esp::Never => false,
        };
        self.contenders().into_iter().filter(selected).collect()
    }

    /// Returns the selected ones of `workloads`. A quick run selects only workloads named on the command
    /// line.
    pub fn selected_of(&self, workloads: &[Workload]) -> Vec<Workload> {
        if self.quick && self.workloads.is_empty() {
            return Vec::new();
        }
        workloads.iter().copied().filter(|workload| self.selects(*workload)).collect()
    }

    /// Returns all selected cases. `customers` and `flows` apply unless the command line gives numbers. Only
    /// established packets vary in place, size and number of flows, and flows vary with the fewest customers
    /// only.
    pub fn cases(&self, customers: &[u32], flows: &[u32]) -> Vec<Case> {
        let or =
            |given: &[u32], usual: &[u32]| if given.is_empty() { usual.to_vec() } else { given.to_vec() };
        let (customers, flows) = (or(&self.customers, customers), or(&self.flows, flows));
        let mut cases: Vec<Case> =
            customers.iter().flat_map(|customers| self.with_customers(*customers)).collect();
        let fewest = customers.iter().min().copied().unwrap_or(1);
        for (flows, choice) in
            flows.iter().flat_map(|flows| [(*flows, Choice::Uniform), (*flows, Choice::Zipf)])
        {
            if flows > 1 && self.selects(Workload::Established) {
                cases.push(Case { flows, choice, ..Case::usual(Workload::Established, fewest) });
            }
        }
        if !flows.contains(&1) {
            cases.retain(|case| case.flows != 1);
        }
        cases.sort();
        cases
    }

    fn with_customers(&self, customers: u32) -> Vec<Case> {
        let mut cases = Vec::new();
        // A quick run measures only established packets with many customers, unless their number was given.
        let established_only = self.quick && self.customers.is_empty() && customers > 1;
        for workload in Workload::PACKETS.into_iter().filter(|workload| self.selects(*workload)) {
            if established_only && workload != Workload::Established {
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

    fn selects(&self, workload: Workload) -> bool {
        self.workloads.is_empty() || self.workloads.contains(&workload)
    }
}
