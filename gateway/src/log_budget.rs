//! Bounds what others can have gatewayd log, since they must not be able to fill the disk.
use std::time::Duration;

use tokio::time::Instant;

/// A budget of lines, which refills evenly. Lines beyond it are counted.
#[derive(Clone, Debug)]
pub struct LogBudget {
    left: u32,
    burst: u32,
    interval: Duration,
    /// When `left` was last raised.
    refilled: Instant,
    suppressed: u64,
}

impl LogBudget {
    /// Allows `burst` lines at once, and one more after each interval.
    pub fn new(burst: u32, interval: Duration) -> Self {
        Self { left: burst, burst, interval, refilled: Instant::now(), suppressed: 0 }
    }

    /// Takes one line out of the budget. Returns the number of lines suppressed since the last one, or None if this one
    /// has to be suppressed, too.
    pub fn take(&mut self, now: Instant) -> Option<u64> {
        self.refill(now);
        if self.left == 0 {
            self.suppressed += 1;
            return None;
        }
        self.left -= 1;
        Some(std::mem::take(&mut self.suppressed))
    }

    /// Returns the number of lines suppressed since the last one, once the budget has room to tell it.
    pub fn take_suppressed(&mut self, now: Instant) -> Option<u64> {
        self.refill(now);
        if self.suppressed == 0 || self.left == 0 {
            return None;
        }
        self.left -= 1;
        Some(std::mem::take(&mut self.suppressed))
    }

    fn refill(&mut self, now: Instant) {
        let intervals =
            now.saturating_duration_since(self.refilled).as_nanos() / self.interval.as_nanos().max(1);
        let missing = u128::from(self.burst - self.left);
        if intervals >= missing {
            (self.left, self.refilled) = (self.burst, now);
        } else if let Ok(intervals) = u32::try_from(intervals) {
            self.left += intervals;
            self.refilled += self.interval * intervals;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flood_of_lines_is_bounded_and_counted() {
        const MINUTE: u32 = 60;
        let mut budget = LogBudget::new(20, Duration::from_secs(5));
        let start = Instant::now();
        let mut logged = 0;
        let mut told = 0;
        // 1,000 lines a second for a minute.
        for millisecond in 0..MINUTE * 1000 {
            if let Some(suppressed) = budget.take(start + Duration::from_millis(millisecond.into())) {
                logged += 1;
                told += suppressed;
            }
        }
        assert!((20 + 11..=20 + 12).contains(&logged), "{logged}");
        let last = budget.take_suppressed(start + Duration::from_secs(66)).unwrap();
        assert_eq!(u64::from(MINUTE) * 1000, logged + told + last);
        assert_eq!(budget.take_suppressed(start + Duration::from_secs(120)), None);
    }

    #[test]
    fn budget_is_full_again_after_a_pause() {
        let mut budget = LogBudget::new(3, Duration::from_secs(5));
        let start = Instant::now();
        assert_eq!([0; 5].map(|_| budget.take(start).is_some()), [true, true, true, false, false]);
        let later = start + Duration::from_secs(3600);
        assert_eq!([0; 4].map(|_| budget.take(later)), [Some(2), Some(0), Some(0), None]);
    }
}
