//! Failures of something that is tried again and again: each is logged once and then counted.
use std::collections::{BTreeMap, BTreeSet};

/// Failures of one attempt that are kept; the others are counted. They are causes of one another.
const MOST: usize = 32;

/// The failures of one attempt.
#[derive(Clone, Default, Debug)]
pub struct Attempt {
    failed: BTreeSet<String>,
    /// Failures that are not kept.
    more: usize,
}

/// The failures of the last attempt, each with the number of attempts in a row.
#[derive(Clone, Default, Debug)]
pub struct Failures {
    /// Numbers of attempts by failure.
    failed: BTreeMap<String, u64>,
    more: usize,
}

impl Attempt {
    /// Records a failure.
    pub fn fail(&mut self, failure: String) {
        if self.failed.len() < MOST {
            self.failed.insert(failure);
        } else if !self.failed.contains(&failure) {
            self.more += 1;
        }
    }
}

impl From<String> for Attempt {
    fn from(failure: String) -> Self {
        Self { failed: BTreeSet::from([failure]), more: 0 }
    }
}

impl Failures {
    /// Takes the outcome of an attempt in place of that of the one before, and returns lines for the log: each failure the
    /// first time, then after 2, 4, 8… times, and when it is over.
    pub fn take(&mut self, attempt: Attempt) -> Vec<String> {
        let mut lines = Vec::new();
        let mut before = std::mem::take(&mut self.failed);
        for failure in attempt.failed {
            let times = before.remove(&failure).unwrap_or_default() + 1;
            match times {
                1 => lines.push(failure.clone()),
                _ if times.is_power_of_two() => lines.push(counted(&failure, times)),
                _ => {}
            }
            self.failed.insert(failure, times);
        }
        lines.extend(before.iter().map(|(failure, times)| format!("over: {}", counted(failure, *times))));
        self.more = attempt.more;
        lines
    }

    /// Returns true if nothing has failed.
    pub fn is_empty(&self) -> bool {
        self.failed.is_empty()
    }

    /// Iterates over what has failed, without the counts.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.failed.keys().map(String::as_str)
    }

    /// Returns a line for each failure, with the number of times in a row.
    pub fn lines(&self) -> Vec<String> {
        let more = (self.more > 0).then(|| format!("{} more failures", self.more));
        self.failed.iter().map(|(failure, times)| counted(failure, *times)).chain(more).collect()
    }
}

fn counted(failure: &str, times: u64) -> String {
    match times {
        1 => failure.to_owned(),
        times => format!("{failure} ({times} times)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failure_that_repeats_is_logged_ever_more_rarely() {
        let mut failures = Failures::default();
        let logged: Vec<String> =
            (0..1000).flat_map(|_| failures.take("no eth0".to_owned().into())).collect();
        assert_eq!(logged.len(), 10, "{logged:?}");
        assert_eq!((&*logged[0], &*logged[9]), ("no eth0", "no eth0 (512 times)"));
        assert_eq!(failures.lines(), ["no eth0 (1000 times)"]);
        assert_eq!(failures.take(Attempt::default()), ["over: no eth0 (1000 times)"]);
        assert!(failures.is_empty() && failures.lines().is_empty());
        assert_eq!(failures.take("no eth0".to_owned().into()), ["no eth0"]);
    }

    #[test]
    fn attempt_with_many_failures_keeps_some_and_counts_the_others() {
        let mut attempt = Attempt::default();
        (0..100_000).for_each(|number| attempt.fail(format!("{number:06}")));
        attempt.fail("000000".to_owned());
        let mut failures = Failures::default();
        assert_eq!(failures.take(attempt).len(), MOST);
        let lines = failures.lines();
        assert_eq!((lines.len(), lines.last().unwrap().as_str()), (MOST + 1, "99968 more failures"));
    }
}
