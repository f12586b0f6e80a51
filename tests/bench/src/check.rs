//! Compares new instruction counts with the committed ones, as a guard in CI.
use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Args;

use super::{
    figure::{Figure, Unit},
    figures::{Figures, Query},
    grid::Grid,
    number::number,
    store::{self, Store},
};

/// Largest allowed ratio of new cost to committed cost.
const MOST: f64 = 1.03;
/// Relative difference between repeated whole runs. For a denied packet that is more than 3 % of the
/// gateway's cost.
const NOISE: f64 = 0.005;

/// The files to compare.
#[derive(Args, Clone, Debug)]
pub struct Choices {
    /// The directory of the committed figures
    #[arg(long, value_name = "DIRECTORY")]
    directory: PathBuf,
    /// The new figures, one line of JSON each
    #[arg(long, value_name = "FILE")]
    figures: PathBuf,
}

/// Reads both sets of figures and compares them.
pub fn run(choices: &Choices) -> Result<bool> {
    check(&Store::read(&choices.directory)?.figures(), &Figures::new(store::read_figures(&choices.figures)?))
}

/// Prints this project's new costs beside the committed ones, and returns true if all are within bounds.
/// Compares costs instead of whole runs, so that the gateway's surroundings do not hide a difference.
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
            figure.contender.label().to_owned(),
            figure.workload.label().to_owned(),
            number(f64::from(figure.customers)),
            number(old),
            number(new),
            format!("{:+.1} %", 100.0 * (new - old) / old),
            if worse { "WORSE" } else { "" }.to_owned(),
        ]);
    }
    print!("{table}");
    ensure!(compared > 0, "no committed figures to compare with; run `cargo xtask bench instructions`");
    if !passed {
        println!(
            "A packet's cost rose by more than 3 %, and by more than runs differ. If the rise is intended, explain it \
             and commit the output of `cargo xtask bench instructions`."
        );
    }
    Ok(passed)
}

fn is_ours(figure: &Figure) -> bool {
    figure.unit == Unit::Instructions && figure.contender.is_ours()
}

#[cfg(test)]
mod tests {
    use super::{
        super::{contender::Contender, figures::tests::figure, workload::Workload},
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
        // The generator's own cost does not count.
        assert!(check(&committed, &figures(7000.0, 8000.0)).unwrap());
        assert!(!check(&committed, &figures(4000.0, 6000.0)).unwrap());
    }

    #[test]
    fn difference_within_the_noise_of_whole_runs_passes() {
        assert!(check(&figures(5000.0, 5100.0), &figures(5000.0, 5125.0)).unwrap());
        assert!(!check(&figures(5000.0, 5100.0), &figures(5000.0, 5127.0)).unwrap());
    }

    #[test]
    fn nothing_to_compare_is_an_error() {
        assert!(check(&Figures::default(), &figures(1.0, 2.0)).is_err());
        assert!(check(&figures(1.0, 2.0), &Figures::default()).is_err());
    }
}
