//! `cargo xtask fuzz`: the targets of `tests/fuzz` under libFuzzer, or replayed over existing inputs.
//!
//! Crate libfuzzer-sys compiles libFuzzer, and coverage comes from LLVM's own pass, so the pinned stable toolchain
//! suffices. The flags are those of cargo-fuzz without a sanitizer.
use std::{
    collections::VecDeque,
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, ChildStderr, Stdio},
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    command::{self, cannot_start, command, pinned as pinned_command},
    project::{self, Pinned},
    setup::{self, Needs},
};

/// The flags of cargo-fuzz 0.13.
const COVERAGE: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing -Ccodegen-units=1";
/// Default duration for each target.
const SECONDS: u64 = 60;
/// Interval between two lines of progress.
const PROGRESS: Duration = Duration::from_secs(10);
/// Limit of the size of a target's committed corpus.
const CORPUS_BYTES: u64 = 56 * 1024;
/// Number of lines shown of a crash.
const LAST_LINES: usize = 30;

/// The targets to run, and for how long.
#[derive(clap::Args)]
pub struct Choice {
    /// Only these targets: outer, inner, tracking, policy, vici
    target: Vec<String>,
    /// Seconds for each target; 60 without --runs
    #[arg(long, value_name = "N", conflicts_with = "runs")]
    seconds: Option<u64>,
    /// Executions for each target
    #[arg(long, value_name = "N")]
    runs: Option<u64>,
    /// Parallel processes; as many as processors by default
    #[arg(long, value_name = "N")]
    jobs: Option<u64>,
    /// Run the committed corpus once, without libFuzzer
    #[arg(long, conflicts_with_all = ["seconds", "runs", "jobs"])]
    replay: bool,
    /// Run this input of a single target once; may be repeated
    #[arg(long, value_name = "FILE", conflicts_with_all = ["seconds", "runs", "jobs", "replay"])]
    input: Vec<PathBuf>,
    /// Replace the committed corpus by the fewest known inputs with the same coverage
    #[arg(long, conflicts_with_all = ["seconds", "runs", "jobs", "replay", "input"])]
    minimize: bool,
}

/// Returns the exit status: 0 if nothing was found.
pub fn run(choice: &Choice) -> Result<i32> {
    let targets = targets(&choice.target)?;
    setup::ensure(Needs::default())?;
    if choice.replay || !choice.input.is_empty() {
        ensure!(choice.input.is_empty() || choice.target.len() == 1, "--input needs one target");
        return replay(&targets, &choice.input);
    }
    let program = build()?;
    if choice.minimize {
        targets.iter().try_for_each(|target| minimize(&program, target))?;
        return Ok(0);
    }
    let jobs = choice.jobs.unwrap_or_else(|| thread::available_parallelism().map_or(1, |n| n.get() as u64));
    let limit = match (choice.runs, choice.seconds) {
        (Some(runs), _) => format!("-runs={}", runs.div_ceil(jobs.max(1))),
        (None, seconds) => format!("-max_total_time={}", seconds.unwrap_or(SECONDS)),
    };
    let mut table = Vec::new();
    for target in &targets {
        table.push(fuzz(&program, target, &limit, jobs.max(1))?);
    }
    Ok(report(&table))
}

/// Returns the wanted targets, or all that have a corpus.
fn targets(wanted: &[String]) -> Result<Vec<String>> {
    let corpus = corpus();
    let entries = fs::read_dir(&corpus).with_context(|| format!("cannot read {}", corpus.display()))?;
    let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let mut names: Vec<String> = names.collect::<Result<_>>()?;
    names.sort();
    if let Some(unknown) = wanted.iter().find(|name| !names.contains(name)) {
        bail!("unknown target {unknown:?}; the targets are {}", names.join(", "));
    }
    names.retain(|name| wanted.is_empty() || wanted.contains(name));
    Ok(names)
}

/// Returns the committed corpus, a directory for each target.
fn corpus() -> PathBuf {
    project::root().join("tests/fuzz/corpus")
}

/// Creates a directory for the findings of this kind.
fn found(what: &str) -> Result<PathBuf> {
    let directory = project::target().join("fuzz").join(what);
    fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
    Ok(directory)
}

fn replay(targets: &[String], inputs: &[PathBuf]) -> Result<i32> {
    let pinned = Pinned::read()?;
    for target in targets {
        let mut replay = pinned_command(&pinned, "cargo");
        replay.args(["run", "--quiet", "-p", "gateway-fuzz", "--bin", "replay", "--", target]);
        let inputs = inputs.iter().map(|input| std::path::absolute(input).unwrap_or_else(|_| input.clone()));
        replay.args(inputs);
        let status = replay.status().with_context(|| cannot_start(&replay))?;
        if !status.success() {
            return Ok(1);
        }
    }
    Ok(0)
}

/// Builds the targets with coverage and all checks, and returns the program.
fn build() -> Result<PathBuf> {
    if command::find("c++").is_none() {
        bail!(
            "libFuzzer needs a C++ compiler: run `apt-get install g++`, or only replay the corpus with --replay"
        );
    }
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let mut build = pinned_command(&Pinned::read()?, "cargo");
    build.args([
        "build",
        "-p",
        "gateway-fuzz",
        "--bin",
        "fuzz",
        "--features",
        "libfuzzer",
        "--profile",
        "fuzz",
    ]);
    // With --target, build scripts and macros are built without the flags.
    build.args(["--target", &triple]).env("RUSTFLAGS", COVERAGE);
    command::run(&mut build)?;
    Ok(project::target().join(triple).join("fuzz/fuzz"))
}

/// The result of a target.
struct Outcome {
    target: String,
    executions: u64,
    time: Duration,
    /// libFuzzer's coverage: edges and features.
    coverage: (u64, u64),
    /// Failing inputs.
    crashes: Vec<PathBuf>,
}

/// A process and its parsed output.
struct Job {
    child: Child,
    output: Arc<Mutex<Output>>,
    reader: JoinHandle<()>,
}

/// The figures in libFuzzer's output, and its last lines.
#[derive(Default)]
struct Output {
    executions: u64,
    coverage: (u64, u64),
    crash: Option<PathBuf>,
    last: VecDeque<String>,
}

fn fuzz(program: &Path, target: &str, limit: &str, jobs: u64) -> Result<Outcome> {
    eprintln!("{target}: {jobs} processes, {limit}");
    let begun = Instant::now();
    let crash = found("crash")?.join(format!("{target}-"));
    let mut running = Vec::new();
    for _ in 0..jobs {
        let mut fuzz = libfuzzer(program, target)?;
        fuzz.arg(limit).arg(format!("-artifact_prefix={}", crash.display()));
        fuzz.args(["-print_final_stats=1", "-timeout=10"]);
        fuzz.arg(found(&format!("corpus/{target}"))?).arg(corpus().join(target));
        let mut child = fuzz.stderr(Stdio::piped()).spawn().with_context(|| cannot_start(&fuzz))?;
        let stderr = child.stderr.take().context("no pipe")?;
        let output = Arc::<Mutex<Output>>::default();
        let reader = thread::spawn({
            let output = Arc::clone(&output);
            move || read(stderr, &output)
        });
        running.push(Job { child, output, reader });
    }
    let mut reported = Instant::now();
    while running.iter_mut().any(|job| matches!(job.child.try_wait(), Ok(None))) {
        thread::sleep(Duration::from_millis(100));
        if reported.elapsed() >= PROGRESS {
            reported = Instant::now();
            progress(target, &running, begun.elapsed());
        }
    }
    let mut outcome = Outcome {
        target: target.to_owned(),
        executions: 0,
        time: begun.elapsed(),
        coverage: (0, 0),
        crashes: Vec::new(),
    };
    for mut job in running {
        let status = job.child.wait()?;
        let _ = job.reader.join();
        let output = job.output.lock().expect("no thread panics while it holds the lock");
        outcome.executions += output.executions;
        outcome.coverage = outcome.coverage.max(output.coverage);
        if !status.success() {
            for line in &output.last {
                eprintln!("  | {line}");
            }
            let Some(crash) = &output.crash else {
                bail!("{target} failed with {status} and saved no input")
            };
            outcome.crashes.push(crash.clone());
        }
    }
    Ok(outcome)
}

/// Returns a command that runs libFuzzer with a target and its dictionary.
fn libfuzzer(program: &Path, target: &str) -> Result<std::process::Command> {
    let mut fuzz = command(program);
    fuzz.env("FUZZ_TARGET", target).stdin(Stdio::null()).stdout(Stdio::null());
    let dictionary = project::root().join("tests/fuzz/dictionary").join(format!("{target}.txt"));
    if dictionary.exists() {
        fuzz.arg(format!("-dict={}", dictionary.display()));
    }
    Ok(fuzz)
}

/// Reads libFuzzer's output to its end.
fn read(stderr: ChildStderr, output: &Mutex<Output>) {
    for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line).into_owned();
        let mut output = output.lock().expect("no thread panics while it holds the lock");
        output.parse(&line);
        if output.last.len() == LAST_LINES {
            output.last.pop_front();
        }
        output.last.push_back(line);
    }
}

impl Output {
    /// Parses `#1234 NEW cov: 5 ft: 6 …`, `stat::number_of_executed_units: 7` and `… Test unit written to FILE`.
    fn parse(&mut self, line: &str) {
        let mut words = line.split_ascii_whitespace();
        if let Some(count) = words.next().and_then(|word| word.strip_prefix('#')?.parse().ok()) {
            self.executions = count;
            let words: Vec<_> = words.collect();
            let number = |name| {
                let at = words.iter().position(|word| *word == name)?;
                words.get(at + 1)?.parse().ok()
            };
            if let (Some(edges), Some(features)) = (number("cov:"), number("ft:")) {
                self.coverage = (edges, features);
            }
        } else if let Some(count) = line.strip_prefix("stat::number_of_executed_units:") {
            self.executions = count.trim().parse().unwrap_or(self.executions);
        } else if let Some((_, path)) = line.split_once("Test unit written to ") {
            self.crash = Some(PathBuf::from(path.trim()));
        }
    }
}

fn progress(target: &str, running: &[Job], elapsed: Duration) {
    let (mut executions, mut coverage) = (0, (0, 0));
    for job in running {
        let output = job.output.lock().expect("no thread panics while it holds the lock");
        executions += output.executions;
        coverage = coverage.max(output.coverage);
    }
    let seconds = elapsed.as_secs_f64();
    eprintln!(
        "  {target}: {seconds:.0} s, at least {executions} executions, {:.0}/s, {} edges, {} features",
        executions as f64 / seconds,
        coverage.0,
        coverage.1
    );
}

/// Prints a table and the commands that reproduce the failures. Returns the exit status.
fn report(table: &[Outcome]) -> i32 {
    println!(
        "\n{:<10} {:>13} {:>8} {:>10} {:>7} {:>9}  found",
        "target", "executions", "time", "per s", "edges", "features"
    );
    for Outcome { target, executions, time, coverage: (edges, features), crashes } in table {
        let rate = *executions as f64 / time.as_secs_f64();
        println!(
            "{target:<10} {executions:>13} {:>6} s {rate:>10.0} {edges:>7} {features:>9}  {}",
            time.as_secs(),
            crashes.len()
        );
    }
    let executions: u64 = table.iter().map(|outcome| outcome.executions).sum();
    let crashes: Vec<_> = table
        .iter()
        .flat_map(|outcome| outcome.crashes.iter().map(move |crash| (&outcome.target, crash)))
        .collect();
    for (target, crash) in &crashes {
        println!("\n{target} fails on {}", crash.display());
        println!("  reproduce it with: cargo xtask fuzz {target} --input {}", crash.display());
    }
    println!("\n{executions} executions, {} failing inputs", crashes.len());
    i32::from(!crashes.is_empty())
}

/// Replaces the committed corpus of a target by a minimal one.
fn minimize(program: &Path, target: &str) -> Result<()> {
    let (old, new) = (corpus().join(target), found("corpus")?.join(format!("{target}.new")));
    if new.exists() {
        fs::remove_dir_all(&new)?;
    }
    fs::create_dir(&new)?;
    let log = fs::File::create(project::target().join("fuzz/merge.log"))?;
    let mut merge = libfuzzer(program, target)?;
    merge.arg("-set_cover_merge=1").args([&new, &old, &found(&format!("corpus/{target}"))?]).stderr(log);
    command::run(&mut merge)?;
    fs::remove_dir_all(&old)?;
    fs::create_dir(&old)?;
    let mut inputs = fs::read_dir(&new)?
        .map(|entry| entry.and_then(|entry| Ok((entry.metadata()?.len(), entry.path()))))
        .collect::<std::io::Result<Vec<_>>>()?;
    // The shortest inputs cover most for their size.
    inputs.sort();
    let (mut count, mut bytes) = (0, 0);
    for (length, path) in &inputs {
        if bytes + length > CORPUS_BYTES {
            break;
        }
        // libFuzzer names inputs by SHA-1; a prefix is unique enough.
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        fs::copy(path, old.join(name.chars().take(12).collect::<String>()))?;
        bytes += length;
        count += 1;
    }
    println!("{target}: {count} of {} inputs, {bytes} bytes", inputs.len());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libfuzzer_output_is_parsed() {
        let mut output = Output::default();
        output.parse("INFO: Loaded 1 modules");
        output.parse("#65536\tpulse  cov: 310 ft: 801 corp: 45/2301b lim: 21 exec/s: 32768 rss: 40Mb");
        assert_eq!((output.executions, output.coverage), (65_536, (310, 801)));
        output.parse("stat::number_of_executed_units: 70001");
        output.parse("artifact_prefix='x'; Test unit written to x-crash-00ff");
        assert_eq!((output.executions, output.crash), (70_001, Some(PathBuf::from("x-crash-00ff"))));
    }
}
