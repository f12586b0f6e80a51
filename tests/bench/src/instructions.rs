//! Instructions for each packet: the time that N more packets take from the send to the drop at the far end,
//! on a machine whose clock counts instructions (`-icount shift=0`, one CPU).
use std::{collections::BTreeSet, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use clap::{Args, builder::RangedU64ValueParser};

use super::{
    case::Case,
    conntrack::Table,
    contender::{Conntrack, Contender},
    esp,
    figure::{Figure, Measured, Unit},
    firewall::Firewalls,
    rules::Policy,
    selection::Selection,
    statistics::{extremes, median},
    traffic::Traffic,
    verdicts,
    working::Working,
};

/// Budget of a round: slow contenders send fewer packets.
const ROUND_INSTRUCTIONS: f64 = 60e6;
/// Budget of a round in a quick run.
const QUICK_ROUND_INSTRUCTIONS: f64 = 20e6;
/// Minimum and maximum number of packets or connections that the slope is taken over.
const UNITS: (u32, u32) = (50, 2000);
/// Size of the flow tables.
const FLOWS: u32 = 1 << 18;

/// Command-line choice of measurements and their parameters.
#[derive(Args, Clone, Debug)]
pub struct Choices {
    #[command(flatten)]
    selection: Selection,
    /// Rounds, each with new flows and thus other places in hash tables; 3 if quick, else 5
    #[arg(long, value_parser = RangedU64ValueParser::<u32>::new().range(1..=1000))]
    rounds: Option<u32>,
}

/// Measures all selected cases and prints a figure for each.
pub fn run(choices: &Choices) -> Result<()> {
    let selection = &choices.selection;
    ensure!(
        thread::available_parallelism()?.get() == 1,
        "this machine has several CPUs, so its clock counts no instructions; run `cargo xtask vm --icount -- …`"
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
            if customers > contender.row().max_customers {
                eprintln!("{contender}: skipped with {customers} customers: it takes too long");
                continue;
            }
            for cases in cases.chunk_by(|one, other| one.flows == other.flows) {
                measure(choices, contender, cases, &mut firewall)
                    .with_context(|| format!("{contender} with {customers} customers"))?;
            }
        }
    }
    drop(firewall);
    let through_esp = selection.selected_of(&esp::WORKLOADS);
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

/// Measures cases that share the numbers of customers and flows.
fn measure(choices: &Choices, contender: Contender, cases: &[Case], firewall: &mut Firewalls) -> Result<()> {
    let row = contender.row();
    let cases: Vec<_> = cases.iter().filter(|case| (row.measures)(case)).collect();
    let Some(first) = cases.first() else { return Ok(()) };
    let policy = Policy { devices: first.devices(), ..Policy::of(first.customers) };
    let known: BTreeSet<u32> = cases.iter().map(|case| case.customer()).collect();
    let known: Vec<u32> = known.into_iter().collect();
    let working = Working::start(contender, "bench", &policy, &known, firewall.of(contender)?)?;
    let _table = match row.conntrack {
        Conntrack::None => None,
        Conntrack::Default => Some(Table::with_room(FLOWS, false)?),
        Conntrack::Tuned => Some(Table::with_room(FLOWS, true)?),
    };
    // The kernel tears down the previous contender's namespace in the background. Waiting costs nothing: an
    // idle machine under icount skips ahead.
    thread::sleep(Duration::from_secs(1));
    for case in cases {
        let seed = choices.selection.seed ^ u64::from(case.workload as u32) << 32;
        let mut traffic = Traffic::new(case, seed);
        let rounds = rounds(&working, &mut traffic, case, choices)
            .with_context(|| format!("{:?} of {} bytes", case.workload, case.frame_bytes))?;
        let (low, high) = extremes(&rounds);
        let measured = Measured { value: median(&rounds), low, high, rounds: rounds.len() as u32 };
        Figure::of_case(case, contender, Unit::Instructions, measured).report()?;
    }
    working.stop()
}

fn rounds(working: &Working, traffic: &mut Traffic, case: &Case, choices: &Choices) -> Result<Vec<f64>> {
    traffic.open(case.flows, case.choice, |batch| working.send(batch).map(drop))?;
    let units = probe(working, traffic, choices.round_instructions())?;
    (0..choices.rounds()).map(|_| round(working, traffic, case, units)).collect()
}

/// Returns the number of packets that fit a round.
fn probe(working: &Working, traffic: &mut Traffic, instructions: f64) -> Result<u32> {
    const UNITS_OF_PROBE: u32 = 20;
    let probe = traffic.batch(UNITS_OF_PROBE);
    let each = working.send(&probe)?.as_nanos() as f64 / f64::from(UNITS_OF_PROBE);
    // A round sends N and 2N packets.
    Ok(((instructions / 3.0 / each) as u32).clamp(UNITS.0, UNITS.1))
}

/// Returns the slope between N and 2N packets, after some packets to warm up. Opens new flows if there are
/// few.
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
