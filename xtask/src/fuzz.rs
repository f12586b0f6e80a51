//! `cargo xtask fuzz`: the targets of `tests/fuzz` under libFuzzer, or over inputs that there are.
//!
//! libFuzzer is compiled by crate libfuzzer-sys, and the coverage it goes by comes from LLVM's own pass, so that
//! the pinned stable toolchain will do: the flags are those that cargo-fuzz passes, without a sanitizer.
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

/// What cargo-fuzz 0.13 passes.
const COVERAGE: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing -Ccodegen-units=1";
/// For a target, unless said.
const SECONDS: u64 = 60;
/// Between two lines of progress.
const PROGRESS: Duration = Duration::from_secs(10);
/// Most bytes of a target's inputs in the repository.
const CORPUS_BYTES: u64 = 56 * 1024;
/// Lines of a crash that are shown.
const LAST_WORDS: usize = 30;

/// What to run, and for how long.
#[derive(clap::Args)]
pub struct Choice {
    /// Only these targets: outer, inner, tracking, policy, vici
    target: Vec<String>,
    /// How long for each target; 60 without --runs
    #[arg(long, value_name = "N", conflicts_with = "runs")]
    seconds: Option<u64>,
    /// How many executions for each target
    #[arg(long, value_name = "N")]
    runs: Option<u64>,
    /// Processes at once; as many as there are processors
    #[arg(long, value_name = "N")]
    jobs: Option<u64>,
    /// Run the committed corpus once, without libFuzzer
    #[arg(long, conflicts_with_all = ["seconds", "runs", "jobs"])]
    replay: bool,
    /// Run this input of the one target once; may be repeated
    #[arg(long, value_name = "FILE", conflicts_with_all = ["seconds", "runs", "jobs", "replay"])]
    input: Vec<PathBuf>,
    /// Replace the committed corpus by the fewest inputs, of it and of those found since, that reach as much
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

/// Those that have a corpus, all or some.
fn targets(wanted: &[String]) -> Result<Vec<String>> {
    let corpus = corpus();
    let entries = fs::read_dir(&corpus).with_context(|| format!("cannot read {}", corpus.display()))?;
    let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let mut names: Vec<String> = names.collect::<Result<_>>()?;
    names.sort();
    if let Some(unknown) = wanted.iter().find(|name| !names.contains(name)) {
        bail!("there is no target {unknown:?}; there are {}", names.join(", "));
    }
    names.retain(|name| wanted.is_empty() || wanted.contains(name));
    Ok(names)
}

/// The committed corpus: a directory for each target.
fn corpus() -> PathBuf {
    project::root().join("tests/fuzz/corpus")
}

/// A directory for what fuzzing finds.
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

/// Builds the targets with coverage and every check, and returns the program.
fn build() -> Result<PathBuf> {
    if command::find("c++").is_none() {
        bail!("libFuzzer needs a C++ compiler: apt-get install g++ (or only replay: --replay)");
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
    // With a target, build scripts and macros do without the flags.
    build.args(["--target", &triple]).env("RUSTFLAGS", COVERAGE);
    command::run(&mut build)?;
    Ok(project::target().join(triple).join("fuzz/fuzz"))
}

/// What became of a target.
struct Outcome {
    target: String,
    executions: u64,
    time: Duration,
    /// What libFuzzer counts as covered: edges, and features.
    coverage: (u64, u64),
    /// Inputs that failed.
    crashes: Vec<PathBuf>,
}

/// A process, and what it has said.
struct Job {
    child: Child,
    said: Arc<Mutex<Said>>,
    reader: JoinHandle<()>,
}

#[derive(Default)]
struct Said {
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
        let said = Arc::<Mutex<Said>>::default();
        let reader = thread::spawn({
            let said = Arc::clone(&said);
            move || listen(stderr, &said)
        });
        running.push(Job { child, said, reader });
    }
    let mut told = Instant::now();
    while running.iter_mut().any(|job| matches!(job.child.try_wait(), Ok(None))) {
        thread::sleep(Duration::from_millis(100));
        if told.elapsed() >= PROGRESS {
            told = Instant::now();
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
        let said = job.said.lock().expect("nobody panics with it");
        outcome.executions += said.executions;
        outcome.coverage = outcome.coverage.max(said.coverage);
        if !status.success() {
            for line in &said.last {
                eprintln!("  | {line}");
            }
            let Some(crash) = &said.crash else { bail!("{target} ended with {status} and no input") };
            outcome.crashes.push(crash.clone());
        }
    }
    Ok(outcome)
}

/// libFuzzer with a target and what helps it.
fn libfuzzer(program: &Path, target: &str) -> Result<std::process::Command> {
    let mut fuzz = command(program);
    fuzz.env("FUZZ_TARGET", target).stdin(Stdio::null()).stdout(Stdio::null());
    let dictionary = project::root().join("tests/fuzz/dictionary").join(format!("{target}.txt"));
    if dictionary.exists() {
        fuzz.arg(format!("-dict={}", dictionary.display()));
    }
    Ok(fuzz)
}

/// Reads libFuzzer's lines: `#1234 NEW cov: 5 ft: 6 …`, `stat::number_of_executed_units: 7`, `… Test unit written
/// to FILE`.
fn listen(stderr: ChildStderr, said: &Mutex<Said>) {
    for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line).into_owned();
        let mut said = said.lock().expect("nobody panics with it");
        said.hear(&line);
        if said.last.len() == LAST_WORDS {
            said.last.pop_front();
        }
        said.last.push_back(line);
    }
}

impl Said {
    fn hear(&mut self, line: &str) {
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
        let said = job.said.lock().expect("nobody panics with it");
        executions += said.executions;
        coverage = coverage.max(said.coverage);
    }
    let seconds = elapsed.as_secs_f64();
    eprintln!(
        "  {target}: {seconds:.0} s, {executions} executions at least, {:.0}/s, {} edges, {} features",
        executions as f64 / seconds,
        coverage.0,
        coverage.1
    );
}

/// Prints a table, and how to see a crash again.
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
        println!("  see it again: cargo xtask fuzz {target} --input {}", crash.display());
    }
    println!("\n{executions} executions, {} inputs that fail", crashes.len());
    i32::from(!crashes.is_empty())
}

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
    // The shortest reach most for their size.
    inputs.sort();
    let (mut count, mut bytes) = (0, 0);
    for (length, path) in &inputs {
        if bytes + length > CORPUS_BYTES {
            break;
        }
        // libFuzzer names inputs by SHA-1; a part of it will do.
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
    fn what_libfuzzer_says_is_understood() {
        let mut said = Said::default();
        said.hear("INFO: Loaded 1 modules");
        said.hear("#65536\tpulse  cov: 310 ft: 801 corp: 45/2301b lim: 21 exec/s: 32768 rss: 40Mb");
        assert_eq!((said.executions, said.coverage), (65_536, (310, 801)));
        said.hear("stat::number_of_executed_units: 70001");
        said.hear("artifact_prefix='x'; Test unit written to x-crash-00ff");
        assert_eq!((said.executions, said.crash), (70_001, Some(PathBuf::from("x-crash-00ff"))));
    }
}
