//! Packet replay: runs each case of `tests/cases/*.toml` as a test. See `gateway_tests_replay`.
use std::{
    collections::{BTreeMap, btree_map::Entry},
    path::Path,
    process::ExitCode,
    sync::{Arc, Mutex},
};

use anyhow::Result;
use gateway_common::{layout::Hook, reason::Reason};
use gateway_tests_kit::test_run;
use gateway_tests_replay::{
    case::{self, Case},
    check, drops,
    expect::Verdict,
    machine::Machine,
};
use libtest_mimic::{Arguments, Failed, Trial};

/// Loaded programs and maps by flow limit, or why they cannot be loaded. Shared, since loading takes longer
/// than a case.
type Machines = Arc<Mutex<BTreeMap<Option<u32>, Result<Machine, String>>>>;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // All test runs are on one CPU, and most share their maps.
    arguments.test_threads = Some(1);
    // cargo and xtask run tests in the package's directory.
    let cases = match case::read(Path::new("../cases")) {
        Ok(cases) => cases,
        Err(error) => {
            eprintln!("{error:#}");
            return ExitCode::FAILURE;
        }
    };
    let missing = if arguments.list { None } else { missing() };
    if let Some(reason) = &missing {
        eprintln!("packet replay cannot run here, all cases are ignored: {reason}");
    }
    let mut trials = completeness(&cases);
    let machines = Machines::default();
    trials.extend(runner_tests(&machines, &missing));
    trials.extend(tests_of_drops(&machines, &missing));
    for case in cases {
        let (machines, missing_here) = (machines.clone(), missing.clone());
        let name = case.name.clone();
        let trial = Trial::test(name, move || match missing_here {
            Some(reason) => Err(Failed::from(reason)),
            None => run(&case, &machines),
        });
        trials.push(trial.with_ignored_flag(missing.is_some()));
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn run(case: &Case, machines: &Machines) -> Result<(), Failed> {
    with_machine(case.flow_limit, machines, |machine| {
        check::run(case, machine).map_err(|error| format!("{error:#}"))??;
        Ok(())
    })
}

fn with_machine(
    flow_limit: Option<u32>,
    machines: &Machines,
    test: impl FnOnce(&mut Machine) -> Result<(), Failed>,
) -> Result<(), Failed> {
    let mut machines = machines.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let machine = match machines.entry(flow_limit) {
        Entry::Occupied(machine) => machine.into_mut(),
        Entry::Vacant(place) => place.insert(Machine::load(flow_limit).map_err(|error| format!("{error:#}"))),
    };
    test(machine.as_mut().map_err(|error| error.clone())?)
}

/// Returns the tests of the map DROPS.
fn tests_of_drops(machines: &Machines, missing: &Option<String>) -> Vec<Trial> {
    let trial = |(name, test): &drops::Test| {
        let (machines, missing_here, test) = (machines.clone(), missing.clone(), *test);
        let trial = Trial::test(*name, move || match missing_here {
            Some(reason) => Err(Failed::from(reason)),
            None => with_machine(None, &machines, |machine| {
                Ok(test(machine).map_err(|error| format!("{error:#}"))?)
            }),
        });
        trial.with_ignored_flag(missing.is_some())
    };
    drops::TESTS.iter().map(trial).collect()
}

/// Returns why nothing can be replayed here: not root, or a kernel without the features that the programs
/// need. A kernel with those features that refuses our programs is a failure, not a reason to ignore the
/// cases.
fn missing() -> Option<String> {
    if let Err(error) = test_run::prepare().and_then(|()| test_run::own_network()) {
        return Some(format!("{error:#}"));
    }
    test_run::supported().err().map(|error| format!("{error:#}"))
}

/// A correct case.
const RIGHT: &str = r#"
name = "correct"
steps = [
  { from = "berlin", packet = "192.168.1.2:40000 > 10.200.0.11:80 S mss 1460", verdict = "to server", out = "mss 1356", counts = "acme: to_server, bytes 44, opened", flows = ["acme 192.168.1.2:40000 berlin syn-sent generation 1 ends_ms 120000"] },
  { from = "berlin", packet = "192.168.1.2:40000 > 10.200.0.11:81 S", verdict = "drop PortNotAllowed", counts = "acme via berlin: dropped" },
  { at_ms = 122000, expire = true, flows = [] },
  { hook = "internet_xdp", packet = "198.18.0.1 > 203.0.113.1 ESP spi 0xc0de0009 len 9", verdict = "pass", out = "smac 02:00:c0:de:00:09", counts = "nobody: unknown_spi" },
]"#;

/// Ways to make it wrong: the property, the text to replace, its replacement.
const WRONG: &[(&str, &str, &str)] = &[
    ("verdict", "drop PortNotAllowed", "pass"),
    ("reason", "drop PortNotAllowed", "drop TtlExpired"),
    ("output_bytes", "mss 1356", "mss 1355"),
    ("source_mac", "de:00:09", "de:00:08"),
    ("missing_counter", "44, opened", "44"),
    ("additional_counter", "44, opened", "44, opened, unknown_spi"),
    ("amount_of_a_counter", "unknown_spi\"", "unknown_spi 2\""),
    ("customer", "acme: to_server", "globex: to_server"),
    ("customer_of_a_drop", "acme via", "nobody via"),
    ("tunnel_of_an_event", "via berlin", "via munich"),
    ("lost_event", "dropped\"", "dropped, lost\""),
    ("flow_state", "syn-sent", "established"),
    ("flow_tunnel", "40000 berlin", "40000 munich"),
    ("flow_end", "ends_ms 120000", "ends_ms 120003"),
    ("amount_of_bytes", "bytes 44", "bytes 45"),
    ("flow_generation", "generation 1", "generation 2"),
    ("number_of_flows", "flows = [", "flows = [\"acme 192.168.1.2:40001 berlin syn-sent\", "),
    (
        "removal_of_flows",
        "expire = true, flows = []",
        "expire = true, flows = [\"acme 192.168.1.2:40000 berlin syn-sent\"]",
    ),
    ("time_of_removal", "at_ms = 122000", "at_ms = 119000"),
];

/// Returns the tests of the runner itself: a correct case, and each way to make it wrong.
fn runner_tests(machines: &Machines, missing: &Option<String>) -> Vec<Trial> {
    let trial = |name: String, text: String, passes: bool| {
        let (machines, missing_here) = (machines.clone(), missing.clone());
        let trial = Trial::test(name, move || {
            if let Some(reason) = missing_here {
                return Err(Failed::from(reason));
            }
            let case: Case = toml::from_str(&text)?;
            match (run(&case, &machines), passes) {
                (Ok(()), true) | (Err(_), false) => Ok(()),
                (Ok(()), false) => Err(Failed::from("the wrong case passed")),
                (Err(error), true) => Err(error),
            }
        });
        trial.with_ignored_flag(missing.is_some())
    };
    let right = trial("runner_accepts_a_correct_case".to_owned(), RIGHT.to_owned(), true);
    let wrong = WRONG.iter().map(|(what, from, to)| {
        trial(format!("runner_rejects_a_wrong_{what}"), RIGHT.replacen(from, to, 1), false)
    });
    std::iter::once(right).chain(wrong).collect()
}

/// Returns the tests that the cases cover every reason and every hook.
fn completeness(cases: &[Case]) -> Vec<Trial> {
    let untested: Vec<&str> = Reason::ALL
        .iter()
        .filter(|reason| {
            !cases.iter().flat_map(Case::packets).any(|step| step.verdict == Verdict::Drop(**reason))
        })
        .map(|reason| reason.name())
        .collect();
    let untested_hooks: Vec<&str> = Hook::ALL
        .into_iter()
        .flat_map(|hook| [(hook, true), (hook, false)])
        .filter(|(hook, drops)| {
            !cases.iter().flat_map(Case::packets).any(|step| {
                step.hook().is_ok_and(|other| other == *hook)
                    && matches!(step.verdict, Verdict::Drop(_)) == *drops
            })
        })
        .map(|(hook, _)| hook.name())
        .collect();
    vec![
        empty("every_reason_has_a_case", untested.join(", ")),
        empty("every_hook_has_cases_with_and_without_drops", untested_hooks.join(", ")),
    ]
}

fn empty(name: &str, missing: String) -> Trial {
    Trial::test(name, move || match missing.is_empty() {
        true => Ok(()),
        false => Err(Failed::from(format!("no case for {missing}"))),
    })
}
