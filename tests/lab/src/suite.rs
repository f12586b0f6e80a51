//! `lab test`: runs every attack and every scenario as a named test, one after the other in one lab.
use std::{
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, Result, bail};
use libtest_mimic::{Arguments, Trial};

use crate::{attack::judge, attacks, gateway::Programs, lab::Lab, report::Report, scenarios};

/// The lab, once it is up.
type Shared = Arc<Mutex<Option<Lab>>>;

/// Runs the tests that `args` select.
pub fn test(programs: Programs, args: Vec<String>) -> Result<ExitCode> {
    let mut arguments = Arguments::from_iter(std::iter::once("lab".to_owned()).chain(args));
    // All tests share one lab, and a restarted daemon dies with the thread that started it: this one.
    arguments.test_threads = Some(1);
    let shared = Shared::default();
    let trials = trials(&shared);
    if !arguments.list {
        let report = Report::new();
        report.section("Bringing the lab up");
        let lab = Lab::up(programs)?;
        lab.initiate_all().with_context(|| lab.gateway().logs())?;
        *shared.lock().unwrap_or_else(PoisonError::into_inner) = Some(lab);
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    drop(shared.lock().unwrap_or_else(PoisonError::into_inner).take());
    Ok(conclusion.exit_code())
}

fn trials(shared: &Shared) -> Vec<Trial> {
    let scenarios = scenarios::all().map(|scenario| trial(scenario.name, "scenario", shared, scenario.run));
    let attacks = attacks::all().map(|attack| {
        trial(attack.name, "attack", shared, |lab| {
            let outcome = judge(attack, lab, &mut lab.drops()?)?;
            anyhow::ensure!(
                outcome.held,
                "expected {}; {}\n{}",
                attack.expected,
                outcome.seen,
                outcome.details.join("\n")
            );
            Ok(())
        })
    });
    scenarios.chain(attacks).collect()
}

fn trial(
    name: &str,
    kind: &str,
    shared: &Shared,
    run: impl FnOnce(&mut Lab) -> Result<()> + Send + 'static,
) -> Trial {
    let shared = shared.clone();
    let test = move || {
        // After a panic, the lab is restored as after any other failure.
        let mut lab = shared.lock().unwrap_or_else(PoisonError::into_inner);
        let lab = lab.as_mut().ok_or("the lab is not up")?;
        let result = lab
            .restore()
            .context("cannot restore the lab after the tests before this one")
            .and_then(|()| run_one(lab, run));
        result.map_err(|error| format!("{error:#}").into())
    };
    Trial::test(name, test).with_kind(kind)
}

/// Runs a test. Restores the lab after a failure and reports if that fails, too.
fn run_one(lab: &mut Lab, run: impl FnOnce(&mut Lab) -> Result<()>) -> Result<()> {
    let Err(error) = run(lab) else { return Ok(()) };
    match lab.restore() {
        Ok(()) => Err(error),
        Err(why) => bail!("{error:#}\nThen the lab could not be restored: {why:#}"),
    }
}
