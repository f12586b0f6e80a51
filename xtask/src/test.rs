//! `cargo xtask test`: all tests, in stages. CI reads the last line, `N passed, N failed, N skipped`.
use std::{
    io::{self, Write},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use crate::{
    bench, bpf, build,
    command::{cannot_start, pinned as pinned_command},
    diff, flood,
    lab::{self, Choice, Place},
    lint,
    machine::Machine,
    project::{self, Pinned},
    setup::{self, Needs},
    signals, stream,
    vm::{self, Console},
};

/// A group of tests that run in the same way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Stage {
    /// Unit and property tests on this machine
    Host,
    /// Packets through the real eBPF programs, with BPF_PROG_TEST_RUN
    Replay,
    /// The same packets through iptables and through the programs
    Diff,
    /// One customer floods; the others must not notice
    Flood,
    /// The lab: real tunnels and real attacks
    Lab,
    /// Instructions for each packet, compared with the committed figures
    Bench,
    /// Format, clippy, cargo-deny, imports, references, language
    Lint,
}

impl Stage {
    const ALL: [Self; 7] =
        [Self::Host, Self::Replay, Self::Diff, Self::Flood, Self::Lab, Self::Bench, Self::Lint];

    fn title(self) -> &'static str {
        match self {
            Self::Host => "host tests",
            Self::Replay => "packet replay",
            Self::Diff => "differential",
            Self::Flood => "flood",
            Self::Lab => "end to end",
            Self::Bench => "bench",
            Self::Lint => "lint",
        }
    }
}

/// The numbers of tests by result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    passed: u64,
    failed: u64,
    skipped: u64,
}

/// The result of a stage.
struct Outcome {
    counts: Counts,
    /// Why the stage failed or was skipped, beyond the output of its tests.
    note: Option<String>,
}

impl Outcome {
    fn skipped(why: String) -> Self {
        Self { counts: Counts { skipped: 1, ..Counts::default() }, note: Some(why) }
    }

    fn failed(mut counts: Counts, why: String) -> Self {
        counts.failed = counts.failed.max(1);
        Self { counts, note: Some(why) }
    }

    /// Counts runs that each pass or fail as a whole, by exit status.
    fn of_runs(runs: &[(&str, i32)]) -> Self {
        let failed: Vec<_> = runs.iter().filter(|(_, status)| *status != 0).map(|(name, _)| *name).collect();
        let counts =
            Counts { passed: (runs.len() - failed.len()) as u64, failed: failed.len() as u64, skipped: 0 };
        Self { counts, note: (!failed.is_empty()).then(|| failed.join("; ")) }
    }

    /// Judges a run by its exit status and its counts. A non-zero status without a counted failure is a failure, and
    /// so is a run without tests, unless a filter may have left none.
    fn of(status: i32, counts: Counts, filtered: bool) -> Self {
        match counts {
            _ if status != 0 && counts.failed == 0 => Self::failed(counts, format!("exit status {status}")),
            _ if status == 0 && counts.failed != 0 => {
                Self { counts, note: Some("failed with exit status 0".to_owned()) }
            }
            Counts { passed: 0, failed: 0, .. } if !filtered => {
                Self::failed(counts, "no test was executed".to_owned())
            }
            _ => Self { counts, note: None },
        }
    }
}

/// Runs the stages and returns true if all passed. Without `only` these are all stages, or with a filter those that
/// can be filtered.
pub fn run(only: &[Stage], filter: Option<&str>, choice: Choice, machine: &Machine) -> Result<bool> {
    let wanted = |stage: &Stage| {
        let filterable = matches!(stage, Stage::Host | Stage::Replay | Stage::Lab);
        if only.is_empty() { filter.is_none() || filterable } else { only.contains(stage) }
    };
    let stages: Vec<_> = Stage::ALL.into_iter().filter(wanted).collect();
    let has = |stage| stages.contains(&stage);
    setup::ensure(Needs { host: has(Stage::Host), lint: has(Stage::Lint), ..Needs::default() })?;
    let mut table = Vec::new();
    for (number, stage) in stages.iter().enumerate() {
        if signals::interrupted() {
            eprintln!("\nInterrupted: {} of {} stages not run.", stages.len() - number, stages.len());
            report(&table);
            return Ok(false);
        }
        eprintln!("\n=== {}/{}: {}", number + 1, stages.len(), stage.title());
        let begun = Instant::now();
        let result = match stage {
            Stage::Host => host(filter),
            Stage::Replay => replay(filter, machine),
            Stage::Diff => differential(machine),
            Stage::Flood => flooded(machine),
            Stage::Lab => end_to_end(filter, choice, machine),
            Stage::Bench => instructions(machine),
            Stage::Lint => lint(),
        };
        let outcome = result.unwrap_or_else(|error| Outcome::failed(Counts::default(), format!("{error:#}")));
        table.push((*stage, outcome, begun.elapsed()));
    }
    Ok(report(&table))
}

fn host(filter: Option<&str>) -> Result<Outcome> {
    let pinned = Pinned::read()?;
    let mut all = Counter::default();
    let mut status = 0;
    // The test tools are stages of their own; only their unit tests run here. gateway-fuzz replays its corpus.
    let of = |packages: &[&'static str]| packages.iter().flat_map(|name| ["-p", name]).collect::<Vec<_>>();
    let tools = [of(&project::TOOL_PACKAGES), vec!["--lib", "--bins"]].concat();
    for packages in [of(&project::HOST_PACKAGES), tools] {
        build::tests(&packages)?;
        let mut cargo = pinned_command(&pinned, "cargo");
        cargo.args(["test", "--no-fail-fast"]).args(packages).args(filter);
        let mut child = cargo.stdout(Stdio::piped()).spawn().with_context(|| cannot_start(&cargo))?;
        stream::copy(child.stdout.take().context("no pipe")?, &mut all, "no mark")?;
        let ended = child.wait()?;
        if !ended.success() {
            status = ended.code().unwrap_or(1);
        }
    }
    Ok(Outcome::of(status, all.counts, filter.is_some()))
}

/// Runs on this machine if its kernel allows BPF_PROG_TEST_RUN, else in the virtual machine.
fn replay(filter: Option<&str>, machine: &Machine) -> Result<Outcome> {
    let mut counter = Counter::default();
    let fault = bpf::can_test_run();
    if let Err(fault) = &fault {
        if !nix::unistd::geteuid().is_root() {
            return Ok(Outcome::skipped(format!("needs root ({fault})")));
        }
        eprintln!("The packet replay runs in a virtual machine: this kernel {fault}.");
        setup::ensure(Needs { vm: true, ..Needs::default() })?;
    }
    let executable = build::replay()?;
    // cargo would run it there too.
    let directory = project::root().join(project::REPLAY_DIRECTORY);
    let status = if fault.is_err() {
        let mut words = ["env", "-C", &directory.to_string_lossy(), &executable.to_string_lossy()]
            .map(str::to_owned)
            .to_vec();
        words.extend(filter.map(str::to_owned));
        vm::run(machine, &words, Console::Output(&mut counter))?
    } else {
        let mut replay = crate::command::command(&executable);
        replay.current_dir(&directory).args(filter).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = replay.spawn().with_context(|| cannot_start(&replay))?;
        stream::copy(child.stdout.take().context("no pipe")?, &mut counter, "no mark")?;
        child.wait()?.code().unwrap_or(1)
    };
    Ok(Outcome::of(status, counter.counts, filter.is_some()))
}

/// Runs a fixed number of packets, after every seed that ever failed.
fn differential(machine: &Machine) -> Result<Outcome> {
    const PACKETS: &str = "220000";
    if !nix::unistd::geteuid().is_root() {
        return Ok(Outcome::skipped("needs root for namespaces".to_owned()));
    }
    let run = |loose: &str| {
        let arguments = ["--packets", PACKETS, "--loose", loose].map(str::to_owned);
        diff::run(&arguments, machine)
    };
    Ok(Outcome::of_runs(&[("tcp_loose=0", run("0")?), ("tcp_loose=1", run("1")?)]))
}

fn flooded(machine: &Machine) -> Result<Outcome> {
    const SECONDS: &str = "15";
    if !nix::unistd::geteuid().is_root() {
        return Ok(Outcome::skipped("needs root for namespaces".to_owned()));
    }
    let status = flood::run(&["--seconds", SECONDS].map(str::to_owned), machine)?;
    Ok(Outcome::of_runs(&[("flood", status)]))
}

fn end_to_end(filter: Option<&str>, choice: Choice, machine: &Machine) -> Result<Outcome> {
    if !nix::unistd::geteuid().is_root() {
        return Ok(Outcome::skipped("needs root for namespaces and the virtual machine".to_owned()));
    }
    if cfg!(not(target_arch = "x86_64")) && lab::native_fault().is_some() {
        return Ok(Outcome::skipped(
            "this kernel has no ESP, and the virtual machine runs on x86_64 only".to_owned(),
        ));
    }
    let place: Place = lab::prepare(choice)?;
    let mut counter = Counter::default();
    let status = lab::test(place, filter, machine, &mut counter)?;
    Ok(Outcome::of(status, counter.counts, filter.is_some()))
}

fn instructions(machine: &Machine) -> Result<Outcome> {
    if !nix::unistd::geteuid().is_root() || cfg!(not(target_arch = "x86_64")) {
        return Ok(Outcome::skipped(
            "needs root and the virtual machine, which runs on x86_64 only".to_owned(),
        ));
    }
    Ok(Outcome::of_runs(&[("instructions", bench::check(machine)?)]))
}

fn lint() -> Result<Outcome> {
    let checks = lint::run(&[], false)?;
    let runs: Vec<_> = checks.iter().map(|check| (check.name, i32::from(!check.passed))).collect();
    Ok(Outcome::of_runs(&runs))
}

/// Prints the table and the last line. Returns true if nothing failed.
fn report(table: &[(Stage, Outcome, Duration)]) -> bool {
    println!("\n{:<14} {:>7} {:>7} {:>8} {:>7}", "stage", "passed", "failed", "skipped", "time");
    let mut sum = Counts::default();
    for (stage, Outcome { counts, note }, time) in table {
        println!(
            "{:<14} {:>7} {:>7} {:>8} {:>5} s  {}",
            stage.title(),
            counts.passed,
            counts.failed,
            counts.skipped,
            time.as_secs(),
            note.as_deref().unwrap_or_default(),
        );
        sum.add(*counts);
    }
    if sum.passed + sum.failed == 0 {
        println!("No test was executed.");
        sum.failed = 1;
    }
    println!("\n{} passed, {} failed, {} skipped", sum.passed, sum.failed, sum.skipped);
    sum.failed == 0
}

impl Counts {
    fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }

    /// Parses libtest's `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; …`.
    fn parse(line: &str) -> Option<Self> {
        let result = line.strip_prefix("test result: ")?;
        let number = |what: &str| {
            let (before, _) = result.split_once(&format!(" {what}"))?;
            before.rsplit(|character: char| !character.is_ascii_digit()).next()?.parse().ok()
        };
        Some(Self { passed: number("passed")?, failed: number("failed")?, skipped: number("ignored")? })
    }
}

/// Copies output to our stdout and adds up the results in it.
#[derive(Default)]
struct Counter {
    counts: Counts,
    line: Vec<u8>,
}

impl Counter {
    fn count(&mut self, bytes: &[u8]) {
        /// Longer than any result; the rest of a longer line is ignored.
        const LONGEST_BYTES: usize = 4096;
        for byte in bytes {
            if *byte == b'\n' {
                if let Some(counts) = Counts::parse(&String::from_utf8_lossy(&self.line)) {
                    self.counts.add(counts);
                }
                self.line.clear();
            } else if self.line.len() < LONGEST_BYTES {
                self.line.push(*byte);
            }
        }
    }
}

impl Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.count(bytes);
        io::stdout().write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stdout().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESULT: &str =
        "test result: FAILED. 12 passed; 3 failed; 4 ignored; 0 measured; 9 filtered out; finished in 0.01s";
    const COUNTS: Counts = Counts { passed: 12, failed: 3, skipped: 4 };

    #[test]
    fn results_are_read_in_colour_too() {
        assert_eq!(Counts::parse(RESULT), Some(COUNTS));
        let coloured = RESULT.replace("FAILED", "\u{1b}[31mFAILED\u{1b}[0m");
        assert_eq!(Counts::parse(&coloured), Some(COUNTS));
        assert_eq!(Counts::parse("test x ... ok"), None);
    }

    #[test]
    fn results_of_several_binaries_add_up_however_the_output_is_cut() {
        let mut counter = Counter::default();
        let output = format!("{RESULT}\nnoise\n{RESULT}\n");
        for piece in output.as_bytes().chunks(7) {
            // Not `write`: its output would be counted as results of this run.
            counter.count(piece);
        }
        assert_eq!(counter.counts, Counts { passed: 24, failed: 6, skipped: 8 });
    }

    #[test]
    fn run_without_tests_or_with_uncounted_failure_fails() {
        assert_eq!(Outcome::of(0, Counts::default(), false).counts.failed, 1);
        assert_eq!(Outcome::of(0, Counts::default(), true).counts.failed, 0);
        assert_eq!(Outcome::of(101, Counts { passed: 5, ..Counts::default() }, false).counts.failed, 1);
        assert!(Outcome::of(0, Counts { passed: 5, ..Counts::default() }, false).note.is_none());
    }
}
