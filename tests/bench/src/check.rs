//! Compares instructions with the committed ones: CI's guard.
use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Args;

use super::{
    figure::{Contender, Figure, Unit},
    figures::{Figures, Query},
    grid::Grid,
    report::{self, number},
    store::Store,
};

/// How much more a packet may cost, of what it costs.
const MOST: f64 = 1.03;
/// How well whole runs repeat: of a denied packet that is more than 3 % of what the gateway does for it.
const NOISE: f64 = 0.005;

/// What to compare.
#[derive(Args, Clone, Debug)]
pub struct Choices {
    /// Where the committed figures are
    #[arg(long, value_name = "DIRECTORY")]
    directory: PathBuf,
    /// Figures of now, a line of JSON each
    #[arg(long, value_name = "FILE")]
    figures: PathBuf,
}

/// Reads both and compares them.
pub fn run(choices: &Choices) -> Result<bool> {
    check(&Store::read(&choices.directory)?.figures(), &Figures::new(report::read(&choices.figures)?))
}

/// Prints what ours costs now beside what it cost when figures were committed; whether nothing costs more
/// than it may. Costs are compared, and not whole runs, so that what stands around the gateway does not
/// hide a difference.
pub fn check(committed: &Figures, now: &Figures) -> Result<bool> {
    let mut table = Grid::new(["contender", "workload", "customers", "committed", "now", "change", ""], 2..6);
    let (mut compared, mut passed) = (0, true);
    for figure in now.iter().filter(|figure| is_ours(figure)) {
        let query = Query::from(figure);
        let (Some(old), Some(new)) = (committed.cost(query), now.cost(query)) else { continue };
        compared += 1;
        let worse = new > old * MOST && new - old > NOISE * figure.value;
        passed &= !worse;
        table.add([
            report::contender(figure.contender).to_owned(),
            report::workload(figure.workload).to_owned(),
            number(f64::from(figure.customers)),
            number(old),
            number(new),
            format!("{:+.1} %", 100.0 * (new - old) / old),
            if worse { "WORSE" } else { "" }.to_owned(),
        ]);
    }
    print!("{table}");
    ensure!(
        compared > 0,
        "there are no committed figures to compare with: run `cargo xtask bench instructions`"
    );
    if !passed {
        println!(
            "A packet costs more than 3 % more than it did, and more than runs differ by. If that is what you want, say why, and commit what \
             `cargo xtask bench instructions` writes."
        );
    }
    Ok(passed)
}

fn is_ours(figure: &Figure) -> bool {
    figure.unit == Unit::Instructions && matches!(figure.contender, Contender::Stack | Contender::Redirect)
}

#[cfg(test)]
mod tests {
    use super::{
        super::{figure::Workload, figures::tests::figure},
        *,
    };

    fn figures(drop: f64, ours: f64) -> Figures {
        let of = |contender, value| figure(contender, Workload::Established, 1, Unit::Instructions, value);
        Figures::new([of(Contender::IngressDrop, drop), of(Contender::Redirect, ours)])
    }

    #[test]
    fn three_percent_of_the_cost_pass_and_more_does_not() {
        let committed = figures(5000.0, 6000.0);
        assert!(check(&committed, &figures(5000.0, 6030.0)).unwrap());
        assert!(!check(&committed, &figures(5000.0, 6031.0)).unwrap());
        assert!(check(&committed, &figures(5000.0, 5000.0)).unwrap());
        // The generator's own cost says nothing.
        assert!(check(&committed, &figures(7000.0, 8000.0)).unwrap());
        assert!(!check(&committed, &figures(4000.0, 6000.0)).unwrap());
    }

    #[test]
    fn whole_run_may_be_off_by_as_much_as_runs_differ() {
        assert!(check(&figures(5000.0, 5100.0), &figures(5000.0, 5125.0)).unwrap());
        assert!(!check(&figures(5000.0, 5100.0), &figures(5000.0, 5127.0)).unwrap());
    }

    #[test]
    fn nothing_to_compare_is_no_success() {
        assert!(check(&Figures::default(), &figures(1.0, 2.0)).is_err());
        assert!(check(&figures(1.0, 2.0), &Figures::default()).is_err());
    }
}
