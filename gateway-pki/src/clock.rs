//! Times in whole seconds of UTC, and the check against a clock that jumped back.
use time::{Duration, OffsetDateTime};

use crate::error::{Error, Result};

/// Certificates begin this long before they are made, for machines whose clocks differ.
const BACKDATED: Duration = Duration::hours(1);
const MAX_DAYS: u32 = 36_500;

/// The present time, and the judgement of a clock that jumped back.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// The present time.
    pub now: OffsetDateTime,
    /// True if the user says that the clock is right, although the last change was later.
    pub trusted: bool,
}

impl Clock {
    /// Fails if the last change, in seconds since 1970, is later than now.
    pub(crate) fn check(&self, last: i64) -> Result<()> {
        if self.trusted || self.now.unix_timestamp() >= last {
            return Ok(());
        }
        Err(Error::Clock { now: utc(self.now), last: utc(at(last)) })
    }
}

/// The period of a certificate or CRL in seconds since 1970, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Period {
    pub from: i64,
    pub until: i64,
}

impl Period {
    /// Returns a period that began shortly before now and has this many days left.
    pub fn certificate(now: OffsetDateTime, days: u32) -> Result<Self> {
        let from = now.unix_timestamp() - BACKDATED.whole_seconds();
        Ok(Self { from, until: Self::crl(now, days)?.until })
    }

    /// Returns a period that begins now.
    pub fn crl(now: OffsetDateTime, days: u32) -> Result<Self> {
        if !(1..=MAX_DAYS).contains(&days) {
            return Err(Error::Days(days));
        }
        let from = now.unix_timestamp();
        Ok(Self { from, until: from + Duration::days(days.into()).whole_seconds() })
    }
}

/// Returns the time of these seconds since 1970; the end of the calendar for what lies beyond.
pub(crate) fn at(seconds: i64) -> OffsetDateTime {
    let end = time::Date::MAX.midnight().assume_utc();
    OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(end)
}

/// Returns text such as `2027-01-31 12:00:00 UTC`.
#[must_use]
pub fn utc(time: OffsetDateTime) -> String {
    let time = time.to_offset(time::UtcOffset::UTC);
    let (hour, minute, second) = time.to_hms();
    format!("{} {hour:02}:{minute:02}:{second:02} UTC", time.date())
}
