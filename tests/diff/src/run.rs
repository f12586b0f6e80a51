//! The whole differential test: first the seeds that ever failed, then new ones up to the wanted packets.
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use gateway_common::{
    layout::LayoutFamily,
    reason::Reason,
    tcp::{Flow as Tracked, FlowKey, State},
    wire::{Ipv4, Ipv6},
};
use gateway_tests_kit::{
    flow::{FlowId, flow_id},
    random::Random,
    test_run,
    text::number,
};

use crate::{
    arena::{self, Arena, Families},
    finding, kernel_state,
    purpose::PURPOSES,
    round::{self, Difference, SequenceRun},
    segment::{Flow, Segment},
    shrink::{shrink, shrink_while},
};

/// The options of a run.
pub struct Options {
    /// Least number of packets.
    pub packets: usize,
    /// Seed of the random numbers.
    pub seed: u64,
    /// `nf_conntrack_tcp_loose`, and mid-stream adoption in our programs.
    pub loose: bool,
    /// The flows' address families.
    pub families: Families,
    /// File of the seeds that ever failed.
    pub seeds: PathBuf,
    /// Folder for findings, a file each, if they should be written.
    pub findings: Option<PathBuf>,
}

/// Largest number of signatures reported; of each, the first finding is shown.
const MOST_FINDINGS: usize = 40;

/// Packets from which on a run must reach every state and reason: two arenas.
const LONG: usize = 2 * arena::PACKETS;

/// Reasons for which generated packets are dropped, and the families in which a run must reach them.
const REACHABLE: &[(Reason, Families)] = &[
    (Reason::InnerFragment, Families::Both),
    (Reason::InnerHasIpOptions, Families::Both),
    (Reason::TtlExpired, Families::Both),
    (Reason::InnerSourceNotInSite, Families::Both),
    (Reason::DestinationNotServer, Families::Both),
    (Reason::ProtocolNotAllowed, Families::Both),
    (Reason::PortNotAllowed, Families::Both),
    (Reason::TcpMalformed, Families::Both),
    (Reason::TcpFlagsInvalid, Families::Both),
    (Reason::NoConnection, Families::Both),
    (Reason::TcpStateInvalid, Families::Both),
    (Reason::OutOfWindow, Families::Both),
    (Reason::RstOutOfSequence, Families::Both),
    (Reason::InnerChecksumWrong, Families::V4),
    (Reason::FlowQuotaExceeded, Families::V4),
    (Reason::HalfOpenQuotaExceeded, Families::V4),
    (Reason::NewFlowsOverBudget, Families::V4),
    (Reason::SourceNotServer, Families::V6),
    (Reason::NewFromServer, Families::Both),
    (Reason::ReplyWithoutConnection, Families::Both),
];

/// The results of a run.
#[derive(Default)]
struct Report {
    sequences: usize,
    packets: usize,
    passed: usize,
    dropped: usize,
    purposes: BTreeMap<&'static str, usize>,
    after: usize,
    unexplained: usize,
    findings: BTreeMap<String, usize>,
    unrepeatable: Vec<u64>,
    kernel_states: BTreeMap<String, usize>,
    our_states: BTreeMap<&'static str, usize>,
    mismatches: BTreeMap<String, Vec<u64>>,
    reasons: BTreeMap<&'static str, u64>,
    time: Duration,
}

/// Runs the test and prints the report. Returns true if every difference was intended and a long run reached
/// every state and reason.
pub fn run(options: &Options) -> Result<bool> {
    test_run::prepare()?;
    test_run::supported()?;
    fs::create_dir_all("/run/netns")?;
    let mut seeds = read_seeds(&options.seeds, options.loose)?;
    let kept = seeds.len();
    if options.families == Families::Both {
        // The families alternate from flow to flow: run each seed in both.
        seeds = seeds.into_iter().flat_map(|seed| [seed; 2]).collect();
    }
    let mut random = Random::new(options.seed);
    let mut report = Report::default();
    let start = Instant::now();
    for number in 0.. {
        let mut arena = Arena::create(number, options.loose, options.families)?;
        let mut finished: Vec<SequenceRun> = Vec::new();
        let end = (report.packets + arena::PACKETS).min(options.packets);
        while report.packets < end || !seeds.is_empty() {
            while seeds.len() < 256 {
                seeds.push(random.any());
            }
            for run in round::run(&mut arena, &mut seeds, &mut random)? {
                report.add(&mut arena, &run, options)?;
                finished.push(run);
            }
            if report.packets >= end {
                seeds.clear();
            }
        }
        report.add_arena(&arena, &finished)?;
        if report.packets >= options.packets {
            break;
        }
    }
    report.time = start.elapsed();
    report.print(options, kept);
    let covered = report.covers_states(options) & report.covers_reasons(options);
    Ok(report.unexplained == 0 && covered)
}

fn other(families: Families) -> Families {
    match families {
        Families::V4 => Families::V6,
        Families::V6 => Families::V4,
        Families::Both => Families::Both,
    }
}

/// The TCP states of all connections on both sides.
struct States {
    kernel: kernel_state::States,
    ours: BTreeMap<FlowId, &'static str>,
}

impl States {
    fn read(arena: &Arena) -> Result<Self> {
        let mut ours = BTreeMap::new();
        for flow in arena.maps().flows::<Ipv4>() {
            ours.extend([named(flow?)]);
        }
        for flow in arena.maps().flows::<Ipv6>() {
            ours.extend([named(flow?)]);
        }
        Ok(Self { kernel: kernel_state::read(arena.kernel())?, ours })
    }

    /// Returns both sides' states of a flow if they differ.
    fn mismatch(&self, flow: &Flow) -> Option<String> {
        let kernel = self.kernel.get(&(flow.device, flow.port, flow.customer().1));
        let kernel = kernel.map_or("none".to_owned(), |state| state.to_lowercase().replace('_', "-"));
        let id = FlowId { customer: flow.tunnel().customer, device: flow.device, port: flow.port };
        let ours = self.ours.get(&id).copied().unwrap_or("none");
        (kernel != ours).then(|| format!("kernel {kernel}, ours {ours}"))
    }
}

fn named<A: LayoutFamily>((key, flow): (FlowKey<A>, Tracked)) -> (FlowId, &'static str) {
    (flow_id(&key), State::from_number(flow.state()).map_or("none", State::name))
}

/// Runs segments alone and returns them if the two sides agree on every packet but end in different states.
fn ends_in_different_states(
    arena: &mut Arena,
    like: &SequenceRun,
    segments: &[Segment],
) -> Result<Option<SequenceRun>> {
    let run = round::run_alone(arena, like.seed, &like.flow, segments)?;
    let agrees = run.compare().difference.is_none();
    let mismatch = if agrees { States::read(arena)?.mismatch(&run.flow) } else { None };
    Ok(mismatch.filter(|states| !states.starts_with("kernel none, ours close")).map(|_| run))
}

/// Shrinks a sequence that ends in different states and prints it.
pub fn trace_states(seed: u64, loose: bool, families: Families) -> Result<()> {
    test_run::prepare()?;
    fs::create_dir_all("/run/netns")?;
    let mut arena = Arena::create(0, loose, families)?;
    let flow = arena.new_flow();
    let run = round::run_alone(&mut arena, seed, &flow, &super::generate::sequence(seed))?;
    match shrink_while(&mut arena, &run, ends_in_different_states)? {
        Some(run) => {
            print!("{}", finding::trace(&run)?);
            println!("{}", States::read(&arena)?.mismatch(&run.flow).unwrap_or_default());
        }
        None => println!("run alone, the sequence does not end in different states"),
    }
    Ok(())
}

/// Runs one sequence alone and prints the verdicts and states of both sides.
pub fn trace(seed: u64, loose: bool, families: Families) -> Result<()> {
    test_run::prepare()?;
    fs::create_dir_all("/run/netns")?;
    let mut arena = Arena::create(0, loose, families)?;
    let flow = arena.new_flow();
    let run = round::run_alone(&mut arena, seed, &flow, &super::generate::sequence(seed))?;
    print!("{}", finding::trace(&run)?);
    println!("{:?}", run.compare());
    for (connection, state) in kernel_state::read(arena.kernel())? {
        println!("kernel {connection:?} {state}");
    }
    for (id, state) in States::read(&arena)?.ours {
        println!("ours {id:?} {state}");
    }
    Ok(())
}

/// Reads a file of lines `SEED loose 0|1`; `#` begins a comment.
fn read_seeds(path: &Path, loose: bool) -> Result<Vec<u64>> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or("").trim());
    let mut seeds = Vec::new();
    for line in lines.filter(|line| !line.is_empty()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [seed, "loose", value] = words[..] else { bail!("{line:?} is not `SEED loose 0|1`") };
        if value == if loose { "1" } else { "0" } {
            seeds.push(number(seed)?);
        }
    }
    Ok(seeds)
}

impl Report {
    fn add(&mut self, arena: &mut Arena, run: &SequenceRun, options: &Options) -> Result<()> {
        let comparison = run.compare();
        self.sequences += 1;
        self.packets += run.packets.len();
        let passed = run.packets[..comparison.agreed].iter().filter(|packet| packet.ours).count();
        self.passed += passed;
        self.dropped += comparison.agreed - passed;
        match comparison.difference {
            None => return Ok(()),
            Some(Difference::OnPurpose(which)) => {
                *self.purposes.entry(PURPOSES[which].name).or_default() += 1;
            }
            Some(Difference::Unexplained) => {
                self.unexplained += 1;
                self.find(arena, run, options)?;
            }
        }
        self.after += run.packets.len() - comparison.agreed - 1;
        Ok(())
    }

    fn find(&mut self, arena: &mut Arena, run: &SequenceRun, options: &Options) -> Result<()> {
        if self.findings.len() >= MOST_FINDINGS {
            return Ok(());
        }
        let Some(shortest) = shrink(arena, run)? else {
            self.unrepeatable.push(run.seed);
            println!(
                "Unexplained, but not when run alone: seed {:#018x}\n{}",
                run.seed,
                finding::trace(run)?
            );
            return Ok(());
        };
        let signature = finding::signature(&shortest);
        let times = self.findings.entry(signature).or_default();
        *times += 1;
        if *times == 1 {
            let text = finding::describe(&shortest, options.loose)?;
            println!("Unexplained: {text}");
            if let Some(directory) = &options.findings {
                fs::create_dir_all(directory)?;
                let name = format!("loose{}-{:016x}.txt", u8::from(options.loose), run.seed);
                fs::write(directory.join(name), text)?;
            }
        }
        Ok(())
    }

    /// Adds the final states of an arena's connections on both sides, and its drop counters.
    fn add_arena(&mut self, arena: &Arena, finished: &[SequenceRun]) -> Result<()> {
        let states = States::read(arena)?;
        for state in states.kernel.values() {
            *self.kernel_states.entry(state.clone()).or_default() += 1;
        }
        for state in states.ours.values() {
            *self.our_states.entry(state).or_default() += 1;
        }
        for run in finished.iter().filter(|run| run.compare().difference.is_none()) {
            if let Some(mismatch) = states.mismatch(&run.flow) {
                self.mismatches.entry(mismatch).or_default().push(run.seed);
            }
        }
        for customer in 0..=arena.maps().customer_limit() {
            for (reason, packets) in arena.maps().counted(customer)?.dropped {
                *self.reasons.entry(Reason::name(reason)).or_default() += packets;
            }
        }
        Ok(())
    }

    /// Returns false if a long run has missed a state: then it proves nothing about that state.
    fn covers_states(&self, options: &Options) -> bool {
        let kernel =
            |state: &State| self.kernel_states.contains_key(&state.name().to_uppercase().replace('-', "_"));
        let reached = |state: &State| kernel(state) && self.our_states.contains_key(state.name());
        let missing: Vec<_> =
            State::ALL.iter().filter(|state| !reached(state)).map(|state| state.name()).collect();
        if !missing.is_empty() {
            println!("states not reached on both sides: {}", missing.join(", "));
        }
        missing.is_empty() || options.packets < LONG
    }

    /// Returns false if a long run has missed a reason.
    fn covers_reasons(&self, options: &Options) -> bool {
        let missing: Vec<_> = REACHABLE
            .iter()
            .filter(|(_, families)| *families == Families::Both || options.families != other(*families))
            .map(|(reason, _)| reason.name())
            .filter(|name| !self.reasons.contains_key(name))
            .collect();
        if !missing.is_empty() {
            println!("reasons not reached: {}", missing.join(", "));
        }
        missing.is_empty() || options.packets < LONG
    }

    fn print(&self, options: &Options, kept: usize) {
        let agreed = self.passed + self.dropped;
        println!(
            "seed {} loose {} families {:?}, {kept} kept seeds run first",
            options.seed,
            u8::from(options.loose),
            options.families
        );
        println!(
            "{} packets of {} sequences in {:.1} s, {:.0} packets/s through both sides",
            self.packets,
            self.sequences,
            self.time.as_secs_f64(),
            self.packets as f64 / self.time.as_secs_f64()
        );
        println!("{agreed} agree ({} passed, {} dropped)", self.passed, self.dropped);
        for purpose in PURPOSES {
            let times = self.purposes.get(purpose.name).copied().unwrap_or(0);
            println!("{times} intended differences, {}: {}", purpose.name, purpose.reason);
        }
        println!("{} not compared, after a difference in their flow", self.after);
        println!("states at the end, kernel: {:?}", self.kernel_states);
        println!("states at the end, ours:   {:?}", self.our_states);
        for (mismatch, seeds) in &self.mismatches {
            println!(
                "{} sequences agree but end in different states, {mismatch}; one of their seeds is {:#x}",
                seeds.len(),
                seeds[0]
            );
        }
        println!("drops by reason:");
        for (reason, packets) in &self.reasons {
            println!("  {packets:>9} {reason}");
        }
        for (signature, times) in &self.findings {
            println!("unexplained {times} times: {signature}");
        }
        if !self.unrepeatable.is_empty() {
            println!("unexplained, but not when run alone: seeds {:#x?}", self.unrepeatable);
        }
        println!("{} unexplained differences", self.unexplained);
    }
}
