//! The daemon's log of what others can cause: neither a repeated failure nor a stranger can fill the disk with it.
use std::{collections::VecDeque, fmt::Display, time::Duration};

use anyhow::Result;
use tokio::time::Instant;
use tracing::{error, info, warn};

use crate::{control::bindings::Order, log_budget::LogBudget};

/// Lines of one kind that strangers, or one failure after another, may cause at once, and one more after each interval:
/// at most 6 MB a day.
const RARE: (u32, Duration) = (20, Duration::from_secs(5));
/// The same for changes of tunnels: at most 150 MB a day, however often sites connect.
const USUAL: (u32, Duration) = (1000, Duration::from_millis(100));
/// Orders to charon that are logged once. charon takes minutes to end an SA whose peer does not answer, and each list of
/// all SAs leads to the order again.
const REMEMBERED_ORDERS: usize = 256;

/// The log.
pub(super) struct Logs {
    refusals: LogBudget,
    changes: LogBudget,
    failures: LogBudget,
    charon: LogBudget,
    /// SAs whose end was ordered, the latest last: true for an IKE_SA, and charon's number.
    ended: VecDeque<(bool, u32)>,
}

impl Default for Logs {
    fn default() -> Self {
        let budget = |(burst, interval)| LogBudget::new(burst, interval);
        Self {
            refusals: budget(RARE),
            changes: budget(USUAL),
            failures: budget(RARE),
            charon: budget(RARE),
            ended: VecDeque::new(),
        }
    }
}

impl Logs {
    /// Logs what was refused.
    pub(super) fn refusal(&mut self, line: &str) {
        if let Some(more) = self.refusals.take(Instant::now()) {
            warn!("{line}{}", suppressed(more));
        }
    }

    /// Logs an order to charon that ends an SA, unless it repeats one.
    pub(super) fn order(&mut self, order: &Order) {
        let (ended, line) = match order {
            Order::TerminateIke { unique_id, reason } => {
                ((true, *unique_id), format!("ending IKE_SA {unique_id}: {reason}"))
            }
            Order::TerminateChild { unique_id, reason } => {
                ((false, *unique_id), format!("ending CHILD_SA {unique_id}: {reason}"))
            }
            Order::Look(_) => return,
        };
        if self.ended.contains(&ended) {
            return;
        }
        if self.ended.len() >= REMEMBERED_ORDERS {
            self.ended.pop_front();
        }
        self.ended.push_back(ended);
        self.refusal(&line);
    }

    /// Forgets orders to a charon that is gone: the next one numbers SAs anew.
    pub(super) fn forget_orders(&mut self) {
        self.ended.clear();
    }

    /// Logs a change of the maps that an event has led to.
    pub(super) fn change(&mut self, action: &impl Display) {
        if let Some(more) = self.changes.take(Instant::now()) {
            info!("{action}{}", suppressed(more));
        }
    }

    /// Logs lines about failures.
    pub(super) fn failures(&mut self, lines: &[String]) {
        for line in lines {
            if let Some(more) = self.failures.take(Instant::now()) {
                error!("{line}{}", suppressed(more));
            }
        }
    }

    /// Logs a change of the connection to charon.
    pub(super) fn charon(&mut self, line: &str) {
        if let Some(more) = self.charon.take(Instant::now()) {
            warn!("{line}{}", suppressed(more));
        }
    }

    /// Tells of lines that were suppressed before the log became quiet.
    pub(super) fn tell_suppressed(&mut self) {
        let now = Instant::now();
        for (what, budget) in [
            ("refusals", &mut self.refusals),
            ("changes of tunnels", &mut self.changes),
            ("failures", &mut self.failures),
            ("changes of charon", &mut self.charon),
        ] {
            if let Some(more) = budget.take_suppressed(now) {
                warn!("{more} more {what} were not logged");
            }
        }
    }

    /// Logs an error.
    pub(super) fn result(&mut self, result: Result<()>) {
        if let Err(error) = result {
            self.failures(&[format!("{error:#}")]);
        }
    }
}

/// Returns the end of a line that is the first one after others were suppressed.
fn suppressed(lines: u64) -> String {
    match lines {
        0 => String::new(),
        lines => format!(" ({lines} lines of this kind before this one were not logged)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_that_repeats_is_logged_once() {
        let mut logs = Logs::default();
        let child = Order::TerminateChild { unique_id: 1, reason: "x".into() };
        let ike = Order::TerminateIke { unique_id: 1, reason: "x".into() };
        for _ in 0..1000 {
            logs.order(&child);
            logs.order(&ike);
        }
        assert_eq!(logs.ended, [(false, 1), (true, 1)]);
        // Two of 20 lines are taken.
        for _ in 0..18 {
            assert_eq!(logs.refusals.take(Instant::now()), Some(0));
        }
        assert_eq!(logs.refusals.take(Instant::now()), None);
    }

    #[test]
    fn flood_of_strangers_is_remembered_and_logged_within_bounds() {
        let mut logs = Logs::default();
        for unique_id in 0..100_000 {
            logs.order(&Order::TerminateIke { unique_id, reason: "a stranger".into() });
        }
        assert_eq!(logs.ended.len(), REMEMBERED_ORDERS);
        assert_eq!(logs.refusals.take(Instant::now()), None);
    }
}
