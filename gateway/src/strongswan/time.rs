//! Durations in swanctl.conf(5) notation.

use std::time::Duration;

/// Returns whole seconds, such as `3600s`.
pub(super) fn seconds(time: Duration) -> String {
    format!("{}s", time.as_secs())
}
