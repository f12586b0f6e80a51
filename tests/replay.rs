//! Packet replay: each case of `tests/cases/*.toml` is a test. See `gateway_tests::replay`.
use std::{
    collections::BTreeMap,
    path::Path,
    process::ExitCode,
    sync::{Arc, Mutex},
};

use anyhow::Result;
use gateway_common::{layout::Hook, reason::Reason};
use gateway_tests::replay::{
    case::{self, Case},
    check,
    expect::Verdict,
    machine::{self, Machine},
};
use libtest_mimic::{Arguments, Failed, Trial};

/// Programs and maps by the limit of flows: loading takes longer than a case.
type Machines = Arc<Mutex<BTreeMap<Option<u32>, Machine>>>;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // All test runs are on one CPU and most share their maps.
    arguments.test_threads = Some(1);
    let cases = match case::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("cases")) {
        Ok(cases) => cases,
        Err(error) => {
            eprintln!("{error:#}");
            return ExitCode::FAILURE;
        }
    };
    let missing = if arguments.list { None } else { missing() };
    if let Some(reason) = &missing {
        eprintln!("packet replay cannot run here and is ignored: {reason}");
    }
    let mut trials = completeness(&cases);
    let machines = Machines::default();
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
    let mut machines = machines.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if !machines.contains_key(&case.flow_limit) {
        let machine = Machine::load(case.flow_limit).map_err(|error| format!("{error:#}"))?;
        machines.insert(case.flow_limit, machine);
    }
    let machine = machines.get_mut(&case.flow_limit).expect("just inserted");
    check::run(case, machine).map_err(|error| format!("{error:#}"))??;
    Ok(())
}

/// Why nothing can be replayed here, if so: not root, or a kernel without what the programs need.
/// A kernel that has it all and refuses our programs is no reason but a failure.
fn missing() -> Option<String> {
    if let Err(error) = machine::prepare() {
        return Some(format!("{error:#}"));
    }
    machine::supported().err().map(|error| format!("{error:#}"))
}

/// Tests of the cases themselves.
fn completeness(cases: &[Case]) -> Vec<Trial> {
    let untested: Vec<&str> = Reason::ALL
        .iter()
        .filter(|reason| {
            !cases.iter().flat_map(|case| &case.steps).any(|step| step.verdict == Verdict::Drop(**reason))
        })
        .map(|reason| reason.name())
        .collect();
    let untested_hooks: Vec<&str> = Hook::ALL
        .into_iter()
        .flat_map(|hook| [(hook, true), (hook, false)])
        .filter(|(hook, drops)| {
            !cases.iter().flat_map(|case| &case.steps).any(|step| {
                step.hook().is_ok_and(|other| other == *hook)
                    && matches!(step.verdict, Verdict::Drop(_)) == *drops
            })
        })
        .map(|(hook, _)| hook.name())
        .collect();
    vec![
        empty("every_reason_has_a_case", untested.join(", ")),
        empty("every_hook_is_tested_with_drops_and_without", untested_hooks.join(", ")),
    ]
}

fn empty(name: &str, missing: String) -> Trial {
    Trial::test(name, move || match missing.is_empty() {
        true => Ok(()),
        false => Err(Failed::from(format!("there is no case for {missing}"))),
    })
}
