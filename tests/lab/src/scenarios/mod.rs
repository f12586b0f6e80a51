//! The scenarios. To add one, add an entry to one of the lists.
mod charon;
mod facts;
mod flood;
mod policy;
mod restart;
mod size;
mod tunnels;

use crate::scenario::Scenario;

/// All scenarios, in the order in which they run.
pub fn all() -> impl Iterator<Item = &'static Scenario> {
    [
        tunnels::SCENARIOS,
        size::SCENARIOS,
        policy::SCENARIOS,
        flood::SCENARIOS,
        restart::SCENARIOS,
        charon::SCENARIOS,
        facts::SCENARIOS,
    ]
    .into_iter()
    .flatten()
}
