//! Drops in runs: none is lost or counted twice, whatever the reasons' order.
use std::collections::BTreeMap;

use gateway_common::{
    layout::{Counters, Run},
    reason::Reason,
};
use proptest::{collection::vec, prelude::*, sample::select};

/// Returns counters of which nothing has been counted.
fn counters() -> Counters {
    // SAFETY: integers only.
    unsafe { std::mem::zeroed() }
}

/// A customer's counters on one CPU, with its drops of the runs that have ended.
struct Counted {
    counters: Counters,
    ended: BTreeMap<u8, u64>,
    /// Runs kept or not, in order.
    room: Vec<bool>,
    nobody: BTreeMap<u8, u64>,
}

impl Counted {
    fn drop(&mut self, reason: Reason) {
        let Self { counters, ended, room, nobody } = self;
        let run = counters.count_drop(reason);
        if run.packets == 0 {
            return;
        }
        let kept = room.pop().unwrap_or(true);
        *if kept { ended } else { nobody }.entry(run.reason).or_default() += run.packets;
        counters.run_moved();
    }

    /// Returns all drops of a reason, whoever they count for.
    fn of(&self, reason: Reason) -> u64 {
        let run = if self.counters.run_reason() == Some(reason) { self.counters.run_packets } else { 0 };
        let number = reason as u8;
        run + self.ended.get(&number).unwrap_or(&0) + self.nobody.get(&number).unwrap_or(&0)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2_000) })]

    #[test]
    fn every_drop_is_counted_once(
        reasons in vec(select(&Reason::ALL[..5]), 0..60),
        room in vec(any::<bool>(), 0..60),
    ) {
        let mut counted =
            Counted { counters: counters(), ended: BTreeMap::new(), room, nobody: BTreeMap::new() };
        for reason in &reasons {
            counted.drop(*reason);
            prop_assert!(!counted.counters.is_moving());
            prop_assert_eq!(counted.counters.run_reason(), Some(*reason));
        }
        for reason in Reason::ALL {
            let dropped = reasons.iter().filter(|other| *other == reason).count();
            prop_assert_eq!(counted.of(*reason), dropped as u64);
        }
    }
}

#[test]
fn drops_for_one_reason_stay_in_the_run() {
    let mut counters = counters();
    assert_eq!((counters.run_reason(), counters.is_moving()), (None, false));
    for packets in 1..=1_000 {
        assert_eq!(counters.count_drop(Reason::TunnelDown).packets, 0, "no run ends");
        assert_eq!((counters.run_reason(), counters.run_packets), (Some(Reason::TunnelDown), packets));
        assert!(!counters.is_moving());
    }
}

/// A reader takes the counters before and after the drops that it adds to them. When the first reason comes back,
/// the run must be another all the same.
#[test]
fn reader_notices_a_run_that_ends() {
    let mut counters = counters();
    let _ = counters.count_drop(Reason::TunnelDown);
    let mut seen = vec![counters.run];
    for (reason, former) in [
        (Reason::PortNotAllowed, Reason::TunnelDown),
        (Reason::TunnelDown, Reason::PortNotAllowed),
        (Reason::PortNotAllowed, Reason::TunnelDown),
    ] {
        assert_eq!(counters.count_drop(reason), Run { reason: former as u8, packets: 1 });
        assert!(counters.is_moving() && !seen.contains(&counters.run));
        counters.run_moved();
        assert!(!counters.is_moving() && !seen.contains(&counters.run));
        seen.push(counters.run);
    }
}

/// The number above the reason has 24 bits.
#[test]
fn numbers_of_runs_wrap() {
    let mut counters =
        Counters { run: 0xffff_fe00 | Reason::TunnelDown as u32, run_packets: 1, ..counters() };
    let _ = counters.count_drop(Reason::PortNotAllowed);
    assert!(counters.is_moving());
    counters.run_moved();
    assert!(!counters.is_moving());
    assert_eq!(counters.run, Reason::PortNotAllowed as u32);
}
