//! `cargo xtask mutate`: breaks the rules of the packet decision one at a time and checks that a test fails.
//!
//! `tests/mutations.toml` lists the rules. The source stays unchanged: gateway-common is copied to `target/mutate`,
//! mutated there and tested there.
use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    command::{cannot_start, pinned as pinned_command},
    project::{self, Pinned},
};

/// The list of mutations.
const LIST: &str = "tests/mutations.toml";
/// The crate that is mutated.
const PACKAGE: &str = "gateway-common";
/// Test targets that run fast and find nearly everything.
const QUICK: [&str; 7] = ["tracking", "learning", "tcp_table", "rules", "filter", "exact", "counters"];
/// Test targets with some random tests, which take longer to build and run.
const MIXED: [&str; 3] = ["outer", "budgets", "wheel"];
/// Slow tests in those targets, by prefix: random packets, random times, a flood.
const SLOW: [&str; 13] = [
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
];
/// Time limit, since a mutation may make a test loop. Unmutated, the tests take half a minute.
const PATIENCE: Duration = Duration::from_secs(300);

/// A rule and a way to break it.
#[derive(Default)]
struct Mutation {
    name: String,
    /// The broken rule, in words.
    rule: String,
    /// Path below `gateway-common/src`.
    file: String,
    /// Text of the first line of the item to search; the whole file if empty.
    within: String,
    /// Text that occurs there exactly once.
    from: String,
    /// Its replacement.
    to: String,
}

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

impl Mutation {
    /// Returns the mutated text of the file in this copy of the package.
    fn applied(&self, package: &Path) -> Result<String> {
        let path = package.join("src").join(&self.file);
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        replaced(&text, &self.within, &self.from, &self.to)
    }
}

/// Replaces `from`, which must occur exactly once in the item that begins with `within`.
fn replaced(text: &str, within: &str, from: &str, to: &str) -> Result<String> {
    let (start, end) = item(text, within).with_context(|| format!("no item {within:?}, or several"))?;
    match text[start..end].matches(from).count() {
        1 => {}
        count => bail!("{from:?} occurs {count} times in {within:?}, not once"),
    }
    ensure!(from != to, "{from:?} is replaced by itself");
    let at = start + text[start..end].find(from).context("counted above")?;
    Ok(format!("{}{to}{}", &text[..at], &text[at + from.len()..]))
}

/// Returns the range from the only occurrence of `within` to the closing brace with the indentation of that line.
fn item(text: &str, within: &str) -> Option<(usize, usize)> {
    if within.is_empty() {
        return Some((0, text.len()));
    }
    let mut places = text.match_indices(within);
    let (start, _) = places.next().filter(|_| places.next().is_none())?;
    let line = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
    let indent: String = text[line..].chars().take_while(|character| *character == ' ').collect();
    let end = text[start..].find(&format!("\n{indent}}}"))?;
    Some((start, start + end))
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
        match self.test()? {
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
        self.test()
    }

    /// Restores the unmutated crate.
    fn restore(&self) -> Result<()> {
        replace_directory(&self.original, &self.root.join(PACKAGE))
    }

    /// Runs the fast tests first.
    fn test(&self) -> Result<Fate> {
        let of = |tests: &[&'static str]| tests.iter().flat_map(|test| ["--test", test]).collect::<Vec<_>>();
        if self.cargo(&[&["--no-run"], &of(&QUICK)[..]].concat(), PATIENCE)?.0 != Some(true) {
            return Ok(Fate::Broken);
        }
        let fast = SLOW.iter().flat_map(|name| ["--skip", name]);
        let mixed = of(&MIXED).into_iter().chain(["--"]).chain(fast).collect();
        let mut rounds = vec![of(&QUICK), mixed];
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

/// Parses `[[mutation]]` tables whose values are literal strings (`'…'`), one a line. This needs no TOML parser, see
/// `project::value`.
fn parse(text: &str) -> Result<Vec<Mutation>> {
    let mut mutations: Vec<Mutation> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let here = || format!("line {}: {line}", number + 1);
        let line = line.trim_end();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if line == "[[mutation]]" {
            mutations.push(Mutation::default());
            continue;
        }
        let mutation = mutations.last_mut().with_context(here)?;
        let (key, value) = line.split_once(" = ").with_context(here)?;
        let value = value.strip_prefix('\'').and_then(|value| value.strip_suffix('\'')).with_context(here)?;
        ensure!(!value.contains('\''), "{}", here());
        let field = match key {
            "name" => &mut mutation.name,
            "rule" => &mut mutation.rule,
            "file" => &mut mutation.file,
            "within" => &mut mutation.within,
            "from" => &mut mutation.from,
            "to" => &mut mutation.to,
            _ => bail!("{}", here()),
        };
        ensure!(field.is_empty(), "duplicate key: {}", here());
        value.clone_into(field);
    }
    let mut names: Vec<_> = mutations.iter().map(|mutation| &mutation.name).collect();
    names.sort();
    ensure!(names.windows(2).all(|pair| pair[0] != pair[1]), "two mutations have the same name");
    for Mutation { name, rule, file, from, .. } in &mutations {
        let complete = [name, rule, file, from].iter().all(|field| !field.is_empty());
        ensure!(complete, "{name:?} lacks name, rule, file or from");
    }
    Ok(mutations)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "fn a() {\n    x + 1\n}\n\nfn b() {\n    x + 1\n}\n";

    #[test]
    fn text_is_replaced_only_in_the_item_and_only_if_it_occurs_there_once() {
        let broken = replaced(TEXT, "fn b(", "+ 1", "+ 2").unwrap();
        assert_eq!(broken, TEXT.replace("b() {\n    x + 1", "b() {\n    x + 2"));
        assert!(replaced(TEXT, "", "+ 1", "+ 2").is_err());
        assert!(replaced(TEXT, "fn b(", "+ 3", "+ 2").is_err());
        assert!(replaced(TEXT, "fn ", "+ 1", "+ 2").is_err());
    }

    #[test]
    fn list_is_read_and_nonsense_in_it_is_an_error() {
        let good = "# why\n[[mutation]]\nname = 'n'\nrule = 'r'\nfile = 'f'\nfrom = 'a = \"b\"'\nto = ''\n";
        let parsed = parse(good).unwrap();
        assert_eq!((parsed.len(), &*parsed[0].from, &*parsed[0].to), (1, "a = \"b\"", ""));
        assert!(parse(&good.repeat(2)).is_err());
        for bad in [good.replace("rule = 'r'\n", ""), good.replace("'n'", "n"), good.replace("to", "two")] {
            assert!(parse(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn workspace_of_one_member_replaces_both_forms_of_the_list() {
        for list in ["[\"a\", \"gateway-common\"]", "[\n    \"a\",\n    \"gateway-common\",\n]"] {
            let manifest =
                format!("[workspace]\nmembers = {list}\ndefault-members = [\"a\"]\n\n[profile.dev]\n");
            assert_eq!(alone(&manifest), "[workspace]\nmembers = [\"gateway-common\"]\n\n[profile.dev]\n");
        }
    }

    #[test]
    fn every_mutation_finds_its_place_in_the_code() {
        let text = fs::read_to_string(project::root().join(LIST)).unwrap();
        for mutation in parse(&text).unwrap() {
            let applied = mutation.applied(&project::root().join(PACKAGE));
            assert!(applied.is_ok(), "{}: {:#}", mutation.name, applied.unwrap_err());
        }
    }

    #[test]
    fn slow_tests_exist() {
        let tests = project::root().join(PACKAGE).join("tests");
        let texts: Vec<_> =
            MIXED.map(|name| fs::read_to_string(tests.join(format!("{name}.rs"))).unwrap()).into();
        for prefix in SLOW {
            let function = format!("fn {prefix}");
            assert!(
                texts.iter().any(|text| text.contains(&function)),
                "no test begins with {prefix}: update SLOW"
            );
        }
    }

    #[test]
    fn first_failed_test_is_named() {
        let output =
            "running 2 tests\nF.\nfailures:\n\n---- it_holds stdout ----\nwhy\n\nfailures:\n    it_holds\n";
        assert_eq!(first_failed(output), "it_holds");
    }
}
