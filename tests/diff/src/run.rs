//! The whole test: the seeds that ever failed, then as many packets as asked for.
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
    round::{self, Difference, Ran},
    segment::{Flow, Segment},
    shrink::{shrink, shrink_while},
};

/// What to do.
pub struct Options {
    /// So many packets at least.
    pub packets: usize,
    /// Where random numbers begin.
    pub seed: u64,
    /// `nf_conntrack_tcp_loose`, and ours accordingly.
    pub loose: bool,
    /// Of which families flows are.
    pub families: Families,
    /// The file of seeds that ever failed.
    pub seeds: PathBuf,
    /// Where findings are also written to, a file for each.
    pub findings: Option<PathBuf>,
}

/// Of so many findings of one kind, the first is shown; and of so many kinds at most.
const MOST_FINDINGS: usize = 40;

/// A run of so many packets, which is two arenas, reaches everything.
const LONG: usize = 2 * arena::PACKETS;

/// Reasons that the kinds of packets generated here have, and in which families.
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

/// What came out.
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
    unlike_states: BTreeMap<String, Vec<u64>>,
    reasons: BTreeMap<&'static str, u64>,
    time: Duration,
}

/// Runs it and prints the report. True if nothing was unexplained.
pub fn run(options: &Options) -> Result<bool> {
    test_run::prepare()?;
    test_run::supported()?;
    fs::create_dir_all("/run/netns")?;
    let mut seeds = read_seeds(&options.seeds, options.loose)?;
    let kept = seeds.len();
    if options.families == Families::Both {
        // Flows are of one family and the other in turn.
        seeds = seeds.into_iter().flat_map(|seed| [seed; 2]).collect();
    }
    let mut random = Random::new(options.seed);
    let mut report = Report::default();
    let start = Instant::now();
    for number in 0.. {
        let mut arena = Arena::create(number, options.loose, options.families)?;
        let mut finished: Vec<Ran> = Vec::new();
        let end = (report.packets + arena::PACKETS).min(options.packets);
        while report.packets < end || !seeds.is_empty() {
            while seeds.len() < 256 {
                seeds.push(random.any());
            }
            for ran in round::run(&mut arena, &mut seeds, &mut random)? {
                report.add(&mut arena, &ran, options)?;
                finished.push(ran);
            }
            if report.packets >= end {
                seeds.clear();
            }
        }
        report.look_at_states(&arena, &finished)?;
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

/// Where connections stand.
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

    /// Both sides' states of a flow if they are not the same.
    fn unlike(&self, flow: &Flow) -> Option<String> {
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

/// Agrees packet by packet, and stands elsewhere at the end.
fn ends_unlike(arena: &mut Arena, like: &Ran, segments: &[Segment]) -> Result<Option<Ran>> {
    let ran = round::alone(arena, like.seed, &like.flow, segments)?;
    let agrees = ran.compare().difference.is_none();
    let unlike = if agrees { States::read(arena)?.unlike(&ran.flow) } else { None };
    Ok(unlike.filter(|unlike| !unlike.starts_with("kernel none, ours close")).map(|_| ran))
}

/// Shrinks a sequence that ends in different states, and prints it.
pub fn trace_states(seed: u64, loose: bool, families: Families) -> Result<()> {
    test_run::prepare()?;
    fs::create_dir_all("/run/netns")?;
    let mut arena = Arena::create(0, loose, families)?;
    let flow = arena.fresh();
    let ran = round::alone(&mut arena, seed, &flow, &super::generate::sequence(seed))?;
    match shrink_while(&mut arena, &ran, ends_unlike)? {
        Some(ran) => {
            print!("{}", finding::trace(&ran)?);
            println!("{}", States::read(&arena)?.unlike(&ran.flow).unwrap_or_default());
        }
        None => println!("it does not end unlike when run alone"),
    }
    Ok(())
}

/// Prints what becomes of one sequence, run alone.
pub fn trace(seed: u64, loose: bool, families: Families) -> Result<()> {
    test_run::prepare()?;
    fs::create_dir_all("/run/netns")?;
    let mut arena = Arena::create(0, loose, families)?;
    let flow = arena.fresh();
    let ran = round::alone(&mut arena, seed, &flow, &super::generate::sequence(seed))?;
    print!("{}", finding::trace(&ran)?);
    println!("{:?}", ran.compare());
    for (connection, state) in kernel_state::read(arena.kernel())? {
        println!("kernel {connection:?} {state}");
    }
    for (id, state) in States::read(&arena)?.ours {
        println!("ours {id:?} {state}");
    }
    Ok(())
}

/// Lines `SEED loose 0|1`; `#` begins a comment.
fn read_seeds(path: &Path, loose: bool) -> Result<Vec<u64>> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or("").trim());
    let mut seeds = Vec::new();
    for line in lines.filter(|line| !line.is_empty()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [seed, "loose", at] = words[..] else { bail!("{line:?} is not `SEED loose 0|1`") };
        if at == if loose { "1" } else { "0" } {
            seeds.push(number(seed)?);
        }
    }
    Ok(seeds)
}

impl Report {
    fn add(&mut self, arena: &mut Arena, ran: &Ran, options: &Options) -> Result<()> {
        let comparison = ran.compare();
        self.sequences += 1;
        self.packets += ran.packets.len();
        let passed = ran.packets[..comparison.agreed].iter().filter(|packet| packet.ours).count();
        self.passed += passed;
        self.dropped += comparison.agreed - passed;
        match comparison.difference {
            None => return Ok(()),
            Some(Difference::OnPurpose(which)) => {
                *self.purposes.entry(PURPOSES[which].name).or_default() += 1;
            }
            Some(Difference::Unexplained) => {
                self.unexplained += 1;
                self.find(arena, ran, options)?;
            }
        }
        self.after += ran.packets.len() - comparison.agreed - 1;
        Ok(())
    }

    fn find(&mut self, arena: &mut Arena, ran: &Ran, options: &Options) -> Result<()> {
        if self.findings.len() >= MOST_FINDINGS {
            return Ok(());
        }
        let Some(shortest) = shrink(arena, ran)? else {
            self.unrepeatable.push(ran.seed);
            println!("Unexplained, but not alone: seed {:#018x}\n{}", ran.seed, finding::trace(ran)?);
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
                let name = format!("loose{}-{:016x}.txt", u8::from(options.loose), ran.seed);
                fs::write(directory.join(name), text)?;
            }
        }
        Ok(())
    }

    /// Where connections stand at the end, on both sides.
    fn look_at_states(&mut self, arena: &Arena, finished: &[Ran]) -> Result<()> {
        let states = States::read(arena)?;
        for state in states.kernel.values() {
            *self.kernel_states.entry(state.clone()).or_default() += 1;
        }
        for state in states.ours.values() {
            *self.our_states.entry(state).or_default() += 1;
        }
        for ran in finished.iter().filter(|ran| ran.compare().difference.is_none()) {
            if let Some(unlike) = states.unlike(&ran.flow) {
                self.unlike_states.entry(unlike).or_default().push(ran.seed);
            }
        }
        for customer in 0..=arena.maps().customer_limit() {
            for (reason, packets) in arena.maps().counted(customer)?.dropped {
                *self.reasons.entry(Reason::name(reason)).or_default() += packets;
            }
        }
        Ok(())
    }

    /// A long run that never reaches a state proves nothing about it.
    fn covers_states(&self, options: &Options) -> bool {
        let kernel =
            |state: &State| self.kernel_states.contains_key(&state.name().to_uppercase().replace('-', "_"));
        let reached = |state: &State| kernel(state) && self.our_states.contains_key(state.name());
        let missing: Vec<_> =
            State::ALL.iter().filter(|state| !reached(state)).map(|state| state.name()).collect();
        if !missing.is_empty() {
            println!("states that not both sides ended in: {}", missing.join(", "));
        }
        missing.is_empty() || options.packets < LONG
    }

    /// Nor about a reason.
    fn covers_reasons(&self, options: &Options) -> bool {
        let missing: Vec<_> = REACHABLE
            .iter()
            .filter(|(_, families)| *families == Families::Both || options.families != other(*families))
            .map(|(reason, _)| reason.name())
            .filter(|name| !self.reasons.contains_key(name))
            .collect();
        if !missing.is_empty() {
            println!("reasons that were never given: {}", missing.join(", "));
        }
        missing.is_empty() || options.packets < LONG
    }

    fn print(&self, options: &Options, kept: usize) {
        let agreed = self.passed + self.dropped;
        println!(
            "seed {} loose {} families {:?}, kept seeds run first: {kept}",
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
            println!("{times} differ on purpose, {}: {}", purpose.name, purpose.reason);
        }
        println!("{} came after a difference in their flow and were not compared", self.after);
        println!("states at the end, kernel: {:?}", self.kernel_states);
        println!("states at the end, ours:   {:?}", self.our_states);
        for (unlike, seeds) in &self.unlike_states {
            println!(
                "{} sequences agree but end unlike, {unlike}; one has the seed {:#x}",
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
            println!("unexplained, but not when run alone, seeds: {:#x?}", self.unrepeatable);
        }
        println!("{} unexplained differences", self.unexplained);
    }
}
