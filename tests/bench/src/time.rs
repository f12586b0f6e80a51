//! Time for each packet on this machine: blocks of packets through a contender, each next to a block through
//! the floor, in random order. A busy machine slows both blocks alike, so ratios of adjacent blocks hold even
//! if nanoseconds do not.
//!
//! Each run also checks itself. It measures the floor against the floor, which must come out at 1.00 ± 0.02,
//! and against the floor with a program that takes 50 ns, which must be noticed. Otherwise the run is void.
use std::fs;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, builder::RangedU64ValueParser};
use gateway::kernel::programs::Purpose;
use gateway_tests_kit::{
    bpf::{Classifier, Link, Way},
    cpu::on_last_cpu,
    random::Random,
};

use super::{
    case::Case,
    conntrack::Table,
    contender::{Conntrack, Contender, Exit, Setup},
    figure::{Figure, Measured, Unit},
    firewall::{Firewall, Firewalls},
    rules::{Policy, SITE_INTERFACE},
    selection::Selection,
    statistics::{confidence, median},
    traffic::Traffic,
    verdicts,
    working::Working,
    workload::Workload,
};

/// Minimum and maximum number of packets of a block. Slow contenders send fewer.
const UNITS: (u32, u32) = (50, 2000);
/// Budget of a block.
const BLOCK_NS: f64 = 5e6;
/// Minimum number of blocks of each control: 50 ns are hard to notice.
const CONTROL_ROUNDS: u32 = 200;
/// Largest error of the floor against itself.
const TOLERANCE: f64 = 0.02;
/// Added work that must be noticed.
const INJECTED_NS: f64 = 50.0;

/// Command-line choice of measurements and their parameters.
#[derive(Args, Clone, Debug)]
pub struct Choices {
    #[command(flatten)]
    selection: Selection,
    /// Blocks of each contender; 60 if quick, else 200
    #[arg(long, value_parser = RangedU64ValueParser::<u32>::new().range(10..=100_000))]
    rounds: Option<u32>,
}

/// Measures all selected cases and prints two figures for each: nanoseconds, and the ratio to the floor.
pub fn run(choices: &Choices) -> Result<()> {
    refuse_statistics()?;
    let selection = &choices.selection;
    let rounds = choices.rounds.unwrap_or(if selection.quick { 60 } else { 200 });
    let mut contenders = selection.contenders();
    contenders.retain(|contender| kernel_has(*contender));
    let mut firewall = Firewalls::load(&contenders, "verdicts", verdicts::POLICY.0, 1 << 16)?;
    verdicts::compare(&contenders, selection.random_packets, selection.seed, &mut firewall)?;
    drop(firewall);
    on_last_cpu()?;
    controls(rounds.max(CONTROL_ROUNDS), selection.seed)?;
    let cases = match selection.quick {
        true => selection.cases(&[1], &[1]),
        false => selection.cases(&[1, 1000, 100_000], &[1, 1000, 64_000, 1_000_000]),
    };
    for case in cases {
        let mut able: Vec<_> = contenders.clone();
        able.retain(|one| (one.row().measures)(&case) && case.customers <= one.row().max_customers);
        // All contenders share the kernel's buckets, so tuned ones run by themselves.
        let (tuned, others): (Vec<_>, Vec<_>) =
            able.into_iter().partition(|contender| contender.row().conntrack == Conntrack::Tuned);
        for (group, tuned) in
            [(others, false), (tuned, true)].into_iter().filter(|(group, _)| !group.is_empty())
        {
            measure(&case, &group, tuned, rounds, selection.seed).with_context(|| format!("{case:?}"))?;
        }
    }
    // The machine may have become busy in the meantime.
    controls(rounds.max(CONTROL_ROUNDS), selection.seed)
}

fn load(purpose: Purpose, name: &str, case: &Case, flows: u32) -> Result<Firewall> {
    let mut firewall = Firewall::load(purpose, name, case.customers, flows)?;
    firewall.set_customers(case.customers)?;
    Ok(firewall)
}

/// A contender with its traffic and the times of its blocks.
struct Lane {
    working: Working,
    traffic: Traffic,
    units: u32,
    /// For each round: nanoseconds for a packet, and for a packet of the floor's adjacent block.
    blocks: Vec<(f64, f64)>,
    _own: Option<Firewall>,
    _injected: Option<Link>,
}

impl Lane {
    /// Sets up a contender. `identities` provides the customers' marks for contenders without programs of
    /// their own.
    fn start(
        number: usize,
        contender: Contender,
        case: &Case,
        identities: &mut Firewall,
        seed: u64,
    ) -> Result<Self> {
        let policy = Policy { devices: case.devices(), ..Policy::of(case.customers) };
        let name = format!("lane-{number}");
        let purpose = match contender.row().setup {
            Setup::Gateway(Exit::Redirect) | Setup::CallsOnly => Some(Purpose::ReplayIdentity),
            Setup::Gateway(Exit::Stack) => Some(Purpose::ReplayIdentityToStack),
            Setup::DropAtIngress | Setup::Nothing | Setup::Ruleset(_) => None,
        };
        let mut own =
            purpose.map(|purpose| load(purpose, &name, case, (2 * case.flows).max(1 << 18))).transpose()?;
        let firewall = own.as_mut().unwrap_or(identities);
        let working = Working::start(contender, &name, &policy, &[case.customer()], firewall)?;
        let traffic = Traffic::new(case, seed);
        Ok(Self { working, traffic, units: UNITS.1, blocks: Vec::new(), _own: own, _injected: None })
    }

    fn open(&mut self, case: &Case, rounds: u32) -> Result<()> {
        const UNITS_OF_PROBE: u32 = 100;
        let working = &self.working;
        self.traffic.open(case.flows, case.choice, |batch| working.send(batch).map(drop))?;
        self.units = UNITS_OF_PROBE;
        let probe = self.block()?;
        // No flow may repeat, and each round opens some to warm up.
        let opens_flows = matches!(case.workload, Workload::FloodOfNewTuples | Workload::NewConnection);
        let new_each_round = if opens_flows { case.tuples() / 2 / (rounds + 10) } else { UNITS.1 };
        self.units = ((BLOCK_NS / probe) as u32).clamp(UNITS.0, UNITS.1).min(new_each_round);
        Ok(())
    }

    /// Sends a block and returns the nanoseconds for each packet.
    fn block(&mut self) -> Result<f64> {
        self.working.send(&self.traffic.acknowledge())?;
        let (warming, block) = (self.traffic.batch(self.units / 10), self.traffic.batch(self.units));
        self.working.send(&warming)?;
        Ok(self.working.send(&block)?.as_nanos() as f64 / f64::from(self.units))
    }

    /// Returns median and confidence interval of a value of each block.
    fn measured(&self, random: &mut Random, of: impl Fn(&(f64, f64)) -> f64) -> Measured {
        let values: Vec<f64> = self.blocks.iter().map(of).collect();
        let (low, high) = confidence(&values, random);
        Measured { value: median(&values), low, high, rounds: values.len() as u32 }
    }

    fn ratio(&self, random: &mut Random) -> Measured {
        self.measured(random, |(own, floor)| own / floor)
    }
}

/// Measures contenders next to the floor.
fn measure(case: &Case, contenders: &[Contender], tuned: bool, rounds: u32, seed: u64) -> Result<()> {
    let mut identities = load(Purpose::ReplayIdentity, "identities", case, 2)?;
    let mut lanes = Vec::new();
    for (number, contender) in [Contender::Forwarding].iter().chain(contenders).enumerate() {
        // Lane 0 is the floor already.
        if number == 0 || *contender != Contender::Forwarding {
            lanes.push(Lane::start(number, *contender, case, &mut identities, seed)?);
        }
    }
    let tracks = contenders.iter().any(|contender| contender.uses_conntrack());
    let _table = tracks.then(|| Table::with_room(case.flows.max(case.tuples()), tuned)).transpose()?;
    lanes.iter_mut().try_for_each(|lane| lane.open(case, rounds))?;
    interleave(&mut lanes, rounds, seed)?;
    let random = &mut Random::new(seed);
    for (number, lane) in lanes.iter().enumerate() {
        let contender = lane.working.contender;
        let report = |unit, measured| Figure::of_case(case, contender, unit, measured).report();
        if number > 0 {
            report(Unit::Nanoseconds, lane.measured(random, |(own, _)| *own))?;
            report(Unit::Ratio, lane.ratio(random))?;
        } else if contenders.contains(&contender) {
            report(Unit::Nanoseconds, lane.measured(random, |(_, floor)| *floor))?;
        }
    }
    lanes.into_iter().try_for_each(|lane| lane.working.stop())
}

/// Sends in each round a block of each lane, with a block of lane 0, the floor, before or after it.
fn interleave(lanes: &mut [Lane], rounds: u32, seed: u64) -> Result<()> {
    let mut random = Random::new(seed);
    let mut order: Vec<usize> = (1..lanes.len()).collect();
    for _ in 0..rounds {
        for last in (1..order.len()).rev() {
            order.swap(last, random.below(last as u64 + 1) as usize);
        }
        for &number in &order {
            let (own, floor) = if random.per_mille(500) {
                let floor = lanes[0].block()?;
                (lanes[number].block()?, floor)
            } else {
                let own = lanes[number].block()?;
                (own, lanes[0].block()?)
            };
            lanes[number].blocks.push((own, floor));
            lanes[0].blocks.push((floor, floor));
        }
    }
    Ok(())
}

/// Measures the floor against itself, and against itself plus 50 ns. Returns an error if the run is void.
fn controls(rounds: u32, seed: u64) -> Result<()> {
    let case = Case::usual(Workload::Established, 1);
    let mut identities = load(Purpose::ReplayIdentity, "identities", &case, 2)?;
    let mut lanes = (0..3)
        .map(|number| Lane::start(number, Contender::Forwarding, &case, &mut identities, seed))
        .collect::<Result<Vec<_>>>()?;
    let (program, injected_ns) = slow_program()?;
    lanes[2]._injected =
        Some(lanes[2].working.ground.namespace.enter(|| program.attach(SITE_INTERFACE, Way::Ingress))?);
    lanes.iter_mut().try_for_each(|lane| lane.open(&case, rounds))?;
    interleave(&mut lanes, rounds, seed)?;
    let random = &mut Random::new(seed);
    let same = lanes[1].ratio(random);
    let more = lanes[2].ratio(random);
    let added = lanes[2].measured(random, |(own, floor)| own - floor);
    for (workload, measured) in [(Workload::ControlAA, same), (Workload::Control50Ns, more)] {
        let case = Case { workload, ..case };
        Figure::of_case(&case, Contender::Forwarding, Unit::Ratio, measured).report()?;
    }
    eprintln!(
        "{injected_ns:.0} ns of added work measured as {:.0} ns ({:.0} to {:.0}).",
        added.value, added.low, added.high
    );
    lanes.into_iter().try_for_each(|lane| lane.working.stop())?;
    if (same.value - 1.0).abs() > TOLERANCE {
        bail!("void: the floor against itself measured {:.3}; run again on a quieter machine", same.value);
    }
    if added.low <= 0.0 || more.value <= same.high.min(1.0 + TOLERANCE) && more.low <= 1.0 {
        bail!("void: {injected_ns:.0} ns of added work went unnoticed; use more rounds or a quieter machine");
    }
    Ok(())
}

/// Returns a program that works for 50 ns, and its time as measured by the kernel.
fn slow_program() -> Result<(Classifier, f64)> {
    const REPEAT: u32 = 100_000;
    const TRIAL_ROUNDS: i32 = 1000;
    // The kernel reports whole nanoseconds, so the time of one round follows from a long program.
    let least = |program: &Classifier| -> Result<f64> {
        let times = (0..15).map(|_| program.time(REPEAT)).collect::<Result<Vec<_>>>()?;
        Ok(f64::from(times.into_iter().min().unwrap_or(0)))
    };
    let nothing = least(&Classifier::nothing()?)?;
    let each = (least(&Classifier::working(TRIAL_ROUNDS)?)? - nothing) / f64::from(TRIAL_ROUNDS);
    ensure!(each > 0.0, "the kernel measures no time for a program");
    let program = Classifier::working((INJECTED_NS / each).round() as i32)?;
    let takes = least(&program)? - nothing;
    Ok((program, takes))
}

/// Returns an error if the kernel keeps statistics of eBPF programs: they would slow down this project only.
fn refuse_statistics() -> Result<()> {
    const PATH: &str = "/proc/sys/kernel/bpf_stats_enabled";
    let text = fs::read_to_string(PATH).with_context(|| format!("read {PATH}"))?;
    ensure!(text.trim() == "0", "{PATH} is {}, which slows programs down; set it to 0", text.trim());
    Ok(())
}

/// Returns true if this kernel has the symbols that a contender needs; prints a line if not.
fn kernel_has(contender: Contender) -> bool {
    let needed = contender.row().needs_symbol;
    if needed.is_empty() {
        return true;
    }
    let symbols = fs::read_to_string("/proc/kallsyms").unwrap_or_default();
    let has = needed.iter().any(|symbol| symbols.contains(symbol));
    if !has {
        eprintln!("{contender}: skipped: this kernel has none of {needed:?}");
    }
    has
}
