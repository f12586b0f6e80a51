//! Instructions for each packet: on a machine whose clock counts them (`-icount shift=0`, one CPU), the
//! time that N more packets take, from the send to the drop at the far end.
use std::{collections::BTreeMap, io};

use anyhow::{Context, Result, ensure};
use clap::Args;

use super::{
    contender::{ALL, Working},
    figure::{Choice, Contender, Figure, Place, Unit, Workload},
    firewall::Firewall,
    frames::{Batch, Side},
    ground::Passed,
    rules::Policy,
    statistics::{extremes, median},
    traffic::Traffic,
    verdicts,
};

/// What a round may take, so that what is slow is measured with fewer packets.
const ROUND_INSTRUCTIONS: f64 = 60e6;
/// Packets or connections between which the slope is, at most and at least.
const UNITS: (u32, u32) = (2000, 50);
/// Devices of each customer.
const DEVICES: u32 = 4;
/// Room for flows.
const FLOWS: u32 = 1 << 18;

/// What to measure.
#[derive(Args, Clone, Debug)]
pub struct Choices {
    /// Fewer combinations
    #[arg(long)]
    pub quick: bool,
    /// Only these contenders
    #[arg(long, value_delimiter = ',', value_enum)]
    pub contenders: Vec<Contender>,
    /// Only these workloads
    #[arg(long, value_delimiter = ',', value_enum)]
    pub workloads: Vec<Workload>,
    /// Numbers of customers
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub customers: Vec<u32>,
    /// Rounds, each with flows of its own and thus other places in hash tables
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: u32,
    /// How many random packets all contenders must agree on before anything is measured
    #[arg(long, default_value_t = 10_000)]
    pub random_packets: u32,
    /// Where random numbers begin
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// One measurement.
#[derive(Clone, Copy, Debug)]
struct Case {
    workload: Workload,
    place: Place,
    flows: u32,
    choice: Choice,
    frame_bytes: u32,
}

/// Measures all that is chosen, and prints a figure for each.
pub fn run(choices: &Choices) -> Result<()> {
    verdicts::compare(&choices.contenders(), choices.random_packets, choices.seed)?;
    for customers in choices.customers() {
        eprintln!("{customers} customers: loading …");
        let mut firewall = Firewall::load(&format!("customers-{customers}"), customers, FLOWS)?;
        for contender in choices.contenders() {
            if customers > contender.most_customers() {
                eprintln!("{contender:?} with {customers} customers: skipped, it takes too long");
                continue;
            }
            measure(choices, contender, customers, &mut firewall)
                .with_context(|| format!("{contender:?} with {customers} customers"))?;
        }
    }
    Ok(())
}

impl Choices {
    fn customers(&self) -> Vec<u32> {
        match (self.customers.is_empty(), self.quick) {
            (false, _) => self.customers.clone(),
            (true, true) => vec![1, 1000],
            (true, false) => vec![1, 10, 100, 1000, 10_000, 100_000],
        }
    }

    fn contenders(&self) -> Vec<Contender> {
        if self.contenders.is_empty() { ALL.to_vec() } else { self.contenders.clone() }
    }

    fn cases(&self, contender: Contender, customers: u32) -> Vec<Case> {
        let workloads = match self.workloads.is_empty() {
            false => self.workloads.clone(),
            true => vec![
                Workload::Established,
                Workload::Reply,
                Workload::NewConnection,
                Workload::DeniedSyn,
                Workload::FloodOfNewTuples,
                Workload::Mixed,
            ],
        };
        let mut cases = Vec::new();
        for workload in workloads.into_iter().filter(|workload| contender.can(*workload)) {
            let usual =
                Case { workload, place: Place::Last, flows: 1, choice: Choice::Uniform, frame_bytes: 64 };
            cases.push(usual);
            if self.quick {
                continue;
            }
            if workload == Workload::Established {
                if customers > 1 {
                    cases.push(Case { place: Place::First, ..usual });
                    cases.push(Case { place: Place::Middle, ..usual });
                }
                cases.push(Case { frame_bytes: 1400, ..usual });
            }
        }
        cases
    }
}

impl Place {
    /// The customer at this place among so many.
    pub fn customer(self, customers: u32) -> u32 {
        match self {
            Self::First => 1,
            Self::Middle => customers.div_ceil(2),
            Self::Last => customers,
        }
    }
}

fn measure(choices: &Choices, contender: Contender, customers: u32, firewall: &mut Firewall) -> Result<()> {
    let policy = Policy { devices: DEVICES, ..Policy::of(customers) };
    let mut by_place: BTreeMap<Place, Vec<Case>> = BTreeMap::new();
    for case in choices.cases(contender, customers) {
        by_place.entry(case.place).or_default().push(case);
    }
    for (place, cases) in by_place {
        let customer = place.customer(customers);
        let working = Working::start(contender, "bench", &policy, &[customer], firewall)?;
        for case in cases {
            let seed = choices.seed ^ u64::from(case.workload as u32) << 32;
            let mut traffic = Traffic::new(case.workload, case.frame_bytes, &[customer], DEVICES, seed);
            let rounds = rounds(&working, &mut traffic, case, choices.rounds)
                .with_context(|| format!("{:?} of {} bytes", case.workload, case.frame_bytes))?;
            report(contender, customers, case, &rounds)?;
        }
        working.stop()?;
    }
    Ok(())
}

fn rounds(working: &Working, traffic: &mut Traffic, case: Case, rounds: u32) -> Result<Vec<f64>> {
    let units = probe(working, traffic, case)?;
    (0..rounds).map(|_| round(working, traffic, case, units)).collect()
}

/// How many packets fit a round.
fn probe(working: &Working, traffic: &mut Traffic, case: Case) -> Result<u32> {
    const UNITS_OF_PROBE: u32 = 20;
    open(working, traffic, case)?;
    let probe = traffic.batch(UNITS_OF_PROBE);
    let each = send(working, &probe)?.lasted.as_nanos() as f64 / f64::from(UNITS_OF_PROBE);
    // N and 2N.
    Ok(((ROUND_INSTRUCTIONS / 3.0 / each) as u32).clamp(UNITS.1, UNITS.0))
}

/// The slope between N and 2N, after some that warm up.
fn round(working: &Working, traffic: &mut Traffic, case: Case, units: u32) -> Result<f64> {
    open(working, traffic, case)?;
    let batches = [units / 10, units, 2 * units].map(|units| traffic.batch(units));
    let mut lasted = [0.0; 3];
    for (lasted, batch) in lasted.iter_mut().zip(&batches) {
        *lasted = send(working, batch)?.lasted.as_nanos() as f64;
    }
    Ok((lasted[2] - lasted[1]) / f64::from(units))
}

fn open(working: &Working, traffic: &mut Traffic, case: Case) -> Result<()> {
    if traffic.needs_flows() {
        let handshakes = traffic.open(case.flows, case.choice);
        send(working, &handshakes)?;
    }
    Ok(())
}

/// Sends a batch, and makes sure that what arrived is what should.
pub fn send(working: &Working, batch: &Batch) -> Result<Passed> {
    let passed = working.ground.send(batch)?;
    for from in [Side::Site, Side::Lan] {
        let expected = match working.contender {
            Contender::IngressDrop | Contender::Forwarding => batch.sent(from),
            _ => batch.passing(from),
        };
        let arrived = passed.arrived[from as usize];
        ensure!(
            arrived == expected,
            "{arrived} packets of {} from {from:?} arrived, and should have been {expected}",
            batch.sent(from)
        );
    }
    Ok(passed)
}

fn report(contender: Contender, customers: u32, case: Case, rounds: &[f64]) -> Result<()> {
    let (low, high) = extremes(rounds);
    let figure = Figure {
        contender,
        workload: case.workload,
        customers,
        place: case.place,
        flows: case.flows,
        choice: case.choice,
        frame_bytes: case.frame_bytes,
        unit: Unit::Instructions,
        value: median(rounds),
        low,
        high,
        rounds: rounds.len() as u32,
    };
    eprintln!(
        "{contender:?}, {:?} of {} bytes, {customers} customers, {:?}: {:.0} ({low:.0} to {high:.0})",
        case.workload, case.frame_bytes, case.place, figure.value
    );
    figure.write(&mut io::stdout())
}
