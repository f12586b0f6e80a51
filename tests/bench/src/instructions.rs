//! Instructions for each packet: on a machine whose clock counts them (`-icount shift=0`, one CPU), the
//! time that N more packets take, from the send to the drop at the far end.
use std::{collections::BTreeSet, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use clap::{Args, builder::RangedU64ValueParser};

use super::{
    case::{Case, Measured, Selection},
    conntrack::Table,
    contender::Working,
    esp,
    figure::{Contender, Unit},
    firewall::Firewalls,
    rules::Policy,
    statistics::{extremes, median},
    traffic::Traffic,
    verdicts,
};

/// What a round may take, so that what is slow is measured with fewer packets; and if it is to be quick.
const ROUND_INSTRUCTIONS: f64 = 60e6;
const QUICK_ROUND_INSTRUCTIONS: f64 = 20e6;
/// Packets or connections between which the slope is, at least and at most.
const UNITS: (u32, u32) = (50, 2000);
/// Room for flows.
const FLOWS: u32 = 1 << 18;

/// What to measure, and how.
#[derive(Args, Clone, Debug)]
pub struct Choices {
    #[command(flatten)]
    selection: Selection,
    /// Rounds, each with flows of its own and thus other places in hash tables; 3 if quick, else 5
    #[arg(long, value_parser = RangedU64ValueParser::<u32>::new().range(1..=1000))]
    rounds: Option<u32>,
}

/// Measures all that is chosen, and prints a figure for each.
pub fn run(choices: &Choices) -> Result<()> {
    let selection = &choices.selection;
    ensure!(
        thread::available_parallelism()?.get() == 1,
        "this machine has several CPUs, so its clock counts no instructions: `cargo xtask vm --icount -- …`"
    );
    let cases = match selection.quick {
        true => selection.cases(&[1, 1000], &[1]),
        false => selection.cases(&[1, 10, 100, 1000, 10_000, 100_000], &[1, 1000, 64_000]),
    };
    let most = cases.iter().map(|case| case.customers).max().unwrap_or(0).max(verdicts::POLICY.0);
    eprintln!("Loading …");
    let mut firewall = Firewalls::load(&selection.contenders(), "bench", most, FLOWS)?;
    verdicts::compare(&selection.contenders(), selection.random_packets, selection.seed, &mut firewall)?;
    for cases in cases.chunk_by(|one, other| one.customers == other.customers) {
        let customers = cases[0].customers;
        firewall.set_customers(customers)?;
        for contender in selection.contenders() {
            if customers > contender.most_customers() {
                eprintln!("{contender:?}: skipped with {customers} customers, it takes too long");
                continue;
            }
            for cases in cases.chunk_by(|one, other| one.flows == other.flows) {
                measure(choices, contender, cases, &mut firewall)
                    .with_context(|| format!("{contender:?} with {customers} customers"))?;
            }
        }
    }
    drop(firewall);
    let through_esp = selection.chosen_of(&esp::WORKLOADS);
    if !through_esp.is_empty() {
        esp::run(&selection.contenders_through_esp(), &through_esp, choices.rounds(), selection.seed)?;
    }
    Ok(())
}

impl Choices {
    fn rounds(&self) -> u32 {
        self.rounds.unwrap_or(if self.selection.quick { 3 } else { 5 })
    }

    fn round_instructions(&self) -> f64 {
        if self.selection.quick { QUICK_ROUND_INSTRUCTIONS } else { ROUND_INSTRUCTIONS }
    }
}

/// Measures cases of one number of customers and of flows.
fn measure(choices: &Choices, contender: Contender, cases: &[Case], firewall: &mut Firewalls) -> Result<()> {
    let cases: Vec<_> = cases.iter().filter(|case| contender.can(case)).collect();
    let Some(first) = cases.first() else { return Ok(()) };
    let policy = Policy { devices: first.devices(), ..Policy::of(first.customers) };
    let known: BTreeSet<u32> = cases.iter().map(|case| case.customer()).collect();
    let known: Vec<u32> = known.into_iter().collect();
    let working = Working::start(contender, "bench", &policy, &known, firewall.of(contender))?;
    let _table = contender
        .tracks_with_kernel()
        .then(|| Table::with_room(FLOWS, contender == Contender::NftablesTuned))
        .transpose()?;
    // The kernel takes the last contender's namespace apart in the background. To wait costs nothing here: time
    // goes on at once when nobody works.
    thread::sleep(Duration::from_secs(1));
    for case in cases {
        let seed = choices.selection.seed ^ u64::from(case.workload as u32) << 32;
        let mut traffic = Traffic::new(case, seed);
        let rounds = rounds(&working, &mut traffic, case, choices)
            .with_context(|| format!("{:?} of {} bytes", case.workload, case.frame_bytes))?;
        let (low, high) = extremes(&rounds);
        let measured = Measured { value: median(&rounds), low, high, rounds: rounds.len() as u32 };
        case.report(contender, Unit::Instructions, measured)?;
    }
    working.stop()
}

fn rounds(working: &Working, traffic: &mut Traffic, case: &Case, choices: &Choices) -> Result<Vec<f64>> {
    traffic.open(case.flows, case.choice, |batch| working.send(batch).map(drop))?;
    let units = probe(working, traffic, choices.round_instructions())?;
    (0..choices.rounds()).map(|_| round(working, traffic, case, units)).collect()
}

/// How many packets fit a round.
fn probe(working: &Working, traffic: &mut Traffic, instructions: f64) -> Result<u32> {
    const UNITS_OF_PROBE: u32 = 20;
    let probe = traffic.batch(UNITS_OF_PROBE);
    let each = working.send(&probe)?.as_nanos() as f64 / f64::from(UNITS_OF_PROBE);
    // N and 2N.
    Ok(((instructions / 3.0 / each) as u32).clamp(UNITS.0, UNITS.1))
}

/// The slope between N and 2N, after some that warm up. Few flows are others in each round.
fn round(working: &Working, traffic: &mut Traffic, case: &Case, units: u32) -> Result<f64> {
    const FEW: u32 = 1000;
    if case.flows <= FEW {
        traffic.open(case.flows, case.choice, |batch| working.send(batch).map(drop))?;
    }
    let batches = [units / 10, units, 2 * units].map(|units| traffic.batch(units));
    let mut lasted = [0.0; 3];
    for (lasted, batch) in lasted.iter_mut().zip(&batches) {
        *lasted = working.send(batch)?.as_nanos() as f64;
    }
    Ok((lasted[2] - lasted[1]) / f64::from(units))
}
