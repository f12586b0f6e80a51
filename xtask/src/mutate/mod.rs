//! `cargo xtask mutate`: breaks the rules of the packet decision one at a time and checks that a test fails.
//!
//! `tests/mutations.toml` lists the rules. The source stays unchanged: gateway-common is copied to `target/mutate`,
//! mutated there and tested there.
mod list;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use self::list::{LIST, Mutation, PACKAGE, parse};
use crate::{
    command::{cannot_start, pinned as pinned_command},
    project::{self, Pinned},
};

/// Test targets that run fast and find nearly everything.
const QUICK: [&str; 7] = ["tracking", "tcp_table", "rules", "filter", "cookies", "exact", "counters"];
/// Test targets that most likely notice a mutation, by the beginning of its file's name. They are built and run
/// first: each target costs a second for each mutation.
const LIKELY: [(&str, &[&str]); 12] = [
    ("tcp/predict.rs", &["rules"]),
    ("tcp/", &["tracking"]),
    ("family/", &["rules"]),
    ("wire/", &["filter"]),
    ("decide/", &["rules"]),
    ("packet/", &["rules"]),
    ("outer/cookie/", &["cookies"]),
    ("outer/", &["filter"]),
    ("wheel.rs", &["wheel"]),
    ("node.rs", &["wheel"]),
    ("magazine.rs", &["magazine"]),
    ("layout/counters.rs", &["counters"]),
];
/// Test targets with some random tests, which take longer to build and run.
const MIXED: [&str; 5] = ["outer", "budgets", "wheel", "magazine", "stall"];
/// Slow tests in those targets, by prefix: random packets, random times, a flood, millions of flows.
const SLOW: [&str; 18] = [
    "arbitrary_bytes_",
    "arriving_frames_",
    "leaving_frames_",
    "frames_to_the_lan_",
    "only_neighbour_discovery_",
    "a_bucket_is_",
    "no_window_holds_",
    "a_refusal_",
    "a_million_",
    "flow_is_visited_",
    "expired_flow_",
    "slots_are_counted_over_",
    "nodes_round_trip",
    "first_node_of_a_list_",
    "each_node_is_in_one_place_",
    "wheel_catches_up_",
    "flows_that_end_in_the_same_second_",
    "wheel_with_more_flows_",
];
/// Time limit, since a mutation may make a test loop. Unmutated, the tests take half a minute.
const PATIENCE: Duration = Duration::from_secs(300);

/// The result of testing a mutation.
#[derive(Clone, PartialEq, Eq)]
enum Fate {
    /// The named test failed.
    Killed(String),
    /// The tests exceeded the time limit.
    Hung,
    /// All tests passed.
    Survived,
    /// The mutation does not compile.
    Broken,
}

/// Breaks each rule, or those with one of `only` in their names, and prints a table. Returns true if a test failed
/// for every rule. With `list` it only prints the rules; with `quick` it skips the random tests.
pub fn run(only: &[String], list: bool, quick: bool) -> Result<bool> {
    let path = project::root().join(LIST);
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut mutations = parse(&text).with_context(|| LIST.to_owned())?;
    // Deselected mutations are checked too, so that a change of the code shows at once.
    for mutation in &mutations {
        mutation
            .applied(&project::root().join(PACKAGE))
            .with_context(|| format!("{LIST}: {}", mutation.name))?;
    }
    mutations.retain(|mutation| only.is_empty() || only.iter().any(|name| mutation.name.contains(&**name)));
    ensure!(!mutations.is_empty(), "no mutation has {only:?} in its name");
    let width = mutations.iter().map(|mutation| mutation.name.len()).max().unwrap_or(0);
    if list {
        for mutation in &mutations {
            println!("{:<width$}  {:<10}  {}", mutation.name, mutation.file, mutation.rule);
        }
        println!("\n{} mutations", mutations.len());
        return Ok(true);
    }
    let bench = Bench::new(quick)?;
    bench.check_tests_pass()?;
    let mut survivors = Vec::new();
    for (number, mutation) in mutations.iter().enumerate() {
        let fate = bench.judge(mutation).with_context(|| mutation.name.clone())?;
        let result = match &fate {
            Fate::Killed(test) => format!("killed by {test}"),
            Fate::Hung => "killed: the tests exceeded the time limit".to_owned(),
            Fate::Survived => "SURVIVED".to_owned(),
            Fate::Broken => "DOES NOT COMPILE".to_owned(),
        };
        println!("{:>3}/{}  {:<width$}  {result}", number + 1, mutations.len(), mutation.name);
        if matches!(fate, Fate::Survived | Fate::Broken) {
            survivors.push(mutation);
        }
    }
    println!("\n{} killed, {} survived", mutations.len() - survivors.len(), survivors.len());
    for mutation in &survivors {
        println!("survived: {} ({}): {}", mutation.name, mutation.file, mutation.rule);
    }
    Ok(survivors.is_empty())
}

/// A copy of the crate in a workspace of its own, and a second copy to restore it from, so that the source may be
/// edited meanwhile.
struct Bench {
    pinned: Pinned,
    root: PathBuf,
    original: PathBuf,
    /// Skips the random tests.
    quick: bool,
}

impl Bench {
    fn new(quick: bool) -> Result<Self> {
        let root = project::target().join("mutate");
        fs::create_dir_all(&root)?;
        let manifest = fs::read_to_string(project::root().join("Cargo.toml"))?;
        fs::write(root.join("Cargo.toml"), alone(&manifest))?;
        fs::copy(project::root().join("Cargo.lock"), root.join("Cargo.lock"))?;
        let original = root.join("original");
        replace_directory(&project::root().join(PACKAGE), &original)?;
        Ok(Self { pinned: Pinned::read()?, root, original, quick })
    }

    fn check_tests_pass(&self) -> Result<()> {
        /// For compiling all dependencies on a busy machine.
        const BUILD_PATIENCE: Duration = Duration::from_secs(3600);
        self.restore()?;
        self.cargo(&["--no-run"], BUILD_PATIENCE)?;
        match self.test(&[])? {
            Fate::Survived => Ok(()),
            Fate::Killed(test) => bail!("{test} fails without any mutation"),
            Fate::Hung => bail!("the tests exceed the time limit without any mutation"),
            Fate::Broken => {
                bail!("{PACKAGE} and its tests do not compile: see {}", self.root.join("log").display())
            }
        }
    }

    fn judge(&self, mutation: &Mutation) -> Result<Fate> {
        self.restore()?;
        let file = self.root.join(PACKAGE).join("src").join(&mutation.file);
        fs::write(&file, mutation.applied(&self.original)?)?;
        self.test(likely(&mutation.file))
    }

    /// Restores the unmutated crate.
    fn restore(&self) -> Result<()> {
        replace_directory(&self.original, &self.root.join(PACKAGE))
    }

    /// Runs these test targets first, then the other fast ones.
    fn test(&self, first: &[&'static str]) -> Result<Fate> {
        let of = |tests: &[&'static str]| tests.iter().flat_map(|test| ["--test", test]).collect::<Vec<_>>();
        let built = if first.is_empty() { &QUICK[..] } else { first };
        if self.cargo(&[&["--no-run"], &of(built)[..]].concat(), PATIENCE)?.0 != Some(true) {
            return Ok(Fate::Broken);
        }
        let fast = SLOW.iter().flat_map(|name| ["--skip", name]);
        let mixed = of(&MIXED).into_iter().chain(["--"]).chain(fast).collect();
        // Some of the targets that come first have slow tests.
        let first = if first.is_empty() {
            Vec::new()
        } else {
            of(first).into_iter().chain(["--"]).chain(SLOW.iter().flat_map(|name| ["--skip", name])).collect()
        };
        let mut rounds = vec![first, of(&QUICK), mixed];
        rounds.retain(|round| !round.is_empty());
        if !self.quick {
            rounds.push(Vec::new());
        }
        for tests in &rounds {
            match self.cargo(tests, PATIENCE)? {
                (None, _) => return Ok(Fate::Hung),
                (Some(false), output) => return Ok(Fate::Killed(first_failed(&output))),
                (Some(true), _) => {}
            }
        }
        Ok(Fate::Survived)
    }

    /// Runs `cargo test`. Returns whether it passed, or `None` if it exceeded the time limit; and its output.
    fn cargo(&self, arguments: &[&str], limit: Duration) -> Result<(Option<bool>, String)> {
        let log = self.root.join("log");
        let mut cargo = pinned_command(&self.pinned, "cargo");
        cargo.current_dir(&self.root).args(["test", "--quiet", "--offline"]).args(arguments);
        cargo.env("CARGO_TARGET_DIR", self.root.join("target")).env("CARGO_PROFILE_DEV_DEBUG", "0");
        // In a process group of its own: killing cargo alone would leave a hanging test behind.
        std::os::unix::process::CommandExt::process_group(&mut cargo, 0);
        let out = fs::File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        cargo.stdin(Stdio::null()).stderr(out.try_clone()?).stdout(out);
        let mut child = cargo.spawn().with_context(|| cannot_start(&cargo))?;
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break Some(status);
            }
            if begun.elapsed() > limit {
                let group = nix::unistd::Pid::from_raw(i32::try_from(child.id())?);
                nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL)?;
                child.wait()?;
                break None;
            }
            sleep(Duration::from_millis(20));
        };
        let output = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
        Ok((status.map(|status| status.success()), output))
    }
}

/// Returns the test targets that most likely notice a mutation of this file.
fn likely(file: &str) -> &'static [&'static str] {
    LIKELY.iter().find(|(prefix, _)| file.starts_with(prefix)).map_or(&[], |(_, tests)| tests)
}

/// Returns the workspace's manifest with this package as its only member.
fn alone(manifest: &str) -> String {
    let mut lines = String::new();
    let mut in_members = false;
    for line in manifest.lines() {
        match line.split_once(" = ") {
            // A list in several lines ends with a line of its own.
            _ if in_members => in_members = line != "]",
            Some(("members", list)) => {
                lines += &format!("members = [{PACKAGE:?}]\n");
                in_members = !list.ends_with(']');
            }
            Some(("default-members", _)) => {}
            _ => lines += &format!("{line}\n"),
        }
    }
    lines
}

fn replace_directory(from: &Path, to: &Path) -> Result<()> {
    if to.exists() {
        fs::remove_dir_all(to)?;
    }
    copy_directory(from, to)
}

fn copy_directory(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_directory(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target).with_context(|| format!("cannot copy {}", target.display()))?;
        }
    }
    Ok(())
}

/// Returns the name of the first failed test in libtest's output.
fn first_failed(output: &str) -> String {
    let named = output.lines().skip_while(|line| *line != "failures:").find_map(|line| {
        let name = line.strip_prefix("---- ")?;
        Some(name.split_once(" stdout").map_or(name, |(name, _)| name))
    });
    named.unwrap_or("a test without a name").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workspace_of_one_member_replaces_both_forms_of_the_list() {
        for list in ["[\"a\", \"gateway-common\"]", "[\n    \"a\",\n    \"gateway-common\",\n]"] {
            let manifest =
                format!("[workspace]\nmembers = {list}\ndefault-members = [\"a\"]\n\n[profile.dev]\n");
            assert_eq!(alone(&manifest), "[workspace]\nmembers = [\"gateway-common\"]\n\n[profile.dev]\n");
        }
    }

    #[test]
    fn slow_tests_exist() {
        let tests = project::root().join(PACKAGE).join("tests");
        let text = |name: &str| {
            let file = tests.join(format!("{name}.rs"));
            fs::read_to_string(file)
                .or_else(|_| fs::read_to_string(tests.join(name).join("main.rs")))
                .unwrap()
        };
        let texts = MIXED.map(text);
        for prefix in SLOW {
            let function = format!("fn {prefix}");
            assert!(
                texts.iter().any(|text| text.contains(&function)),
                "no test begins with {prefix}: update SLOW"
            );
        }
    }

    #[test]
    fn likely_tests_exist_for_files_that_exist() {
        let package = project::root().join(PACKAGE);
        for (prefix, tests) in LIKELY {
            assert!(package.join("src").join(prefix).exists(), "{prefix}");
            for test in tests {
                let files = [format!("tests/{test}.rs"), format!("tests/{test}/main.rs")];
                assert!(files.iter().any(|file| package.join(file).exists()), "{test}");
            }
        }
        assert_eq!(likely("outer/cookie/mod.rs"), ["cookies"]);
        assert_eq!(likely("outer/classify.rs"), ["filter"]);
        assert!(likely("time.rs").is_empty());
    }

    #[test]
    fn first_failed_test_is_named() {
        let output =
            "running 2 tests\nF.\nfailures:\n\n---- it_holds stdout ----\nwhy\n\nfailures:\n    it_holds\n";
        assert_eq!(first_failed(output), "it_holds");
    }
}
