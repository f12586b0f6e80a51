//! Messages to the service manager (sd_notify(3)): readiness, reloads, and signs of life. Without a service manager
//! nothing is sent.
use std::time::Duration;

use sd_notify::{NotifyState, notify, watchdog_enabled};
use tracing::warn;

/// Longest status, in bytes: a line for `systemctl status`. `gatewayctl status` tells everything.
const LONGEST_STATUS: usize = 400;

/// The service manager, if there is one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Manager {
    watchdog: Option<Duration>,
}

impl Manager {
    /// Finds the service manager in the environment: NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID.
    pub fn from_environment() -> Self {
        Self { watchdog: watchdog_enabled().filter(|time| !time.is_zero()) }
    }

    /// Returns the longest time that may pass between two signs of life: half the watchdog's, as sd_watchdog_enabled(3)
    /// recommends.
    pub fn alive_within(self) -> Option<Duration> {
        self.watchdog.map(|time| time / 2)
    }

    /// Tells that gatewayd is ready, or that a reload is in force.
    pub fn ready(self, status: &str) {
        send(&[NotifyState::Ready, NotifyState::Status(&line(status))]);
    }

    /// Tells that a reload begins. systemd takes it only with the time, on CLOCK_MONOTONIC.
    pub fn reloading(self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => send(&[NotifyState::Reloading, now]),
            Err(error) => warn!("cannot tell the service manager of the reload: {error}"),
        }
    }

    /// Gives a sign of life.
    pub fn alive(self, status: &str) {
        send(&[NotifyState::Watchdog, NotifyState::Status(&line(status))]);
    }

    /// Tells that gatewayd ends because it was asked to.
    pub fn stopping(self) {
        send(&[NotifyState::Stopping]);
    }
}

/// Sends a message. Another attempt would not do better: the service manager acts on what it has not got.
fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = notify(states) {
        warn!("cannot reach the service manager: {error}");
    }
}

/// Returns a status that is one line and not too long. A line break would begin another assignment, in words that a
/// policy file chose.
fn line(status: &str) -> String {
    let end = status.floor_char_boundary(LONGEST_STATUS);
    let more = if end < status.len() { "…" } else { "" };
    let one_line = status[..end].replace(char::is_control, " ");
    one_line + more
}

/// Returns the status line of a daemon that has this policy, and these lines of what is not in force.
pub fn describe(policy: &str, refused: &[String], failed: &[String]) -> String {
    let part = |what: &str, lines: &[String]| {
        let first = lines.first()?;
        let more = if lines.len() > 1 { format!(" (and {} more)", lines.len() - 1) } else { String::new() };
        Some(format!("; {what}{more}: {first}"))
    };
    let parts = [part("refused", refused), part("failed", failed)];
    parts.into_iter().flatten().fold(policy.to_owned(), |text, part| text + &part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_is_one_line_whatever_a_policy_says() {
        assert_eq!(line("bad\nMAINPID=1\u{0}\r\u{85}x"), "bad MAINPID=1   x");
        let long = line(&"é".repeat(LONGEST_STATUS));
        assert!(long.len() <= LONGEST_STATUS + "…".len() && long.ends_with("é…"), "{long}");
    }

    #[test]
    fn status_names_what_was_refused_and_what_failed() {
        let lines = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
        assert_eq!(describe("2 customers", &[], &[]), "2 customers");
        let text = describe("2 customers", &lines(&["a.toml", "b.toml"]), &lines(&["no eth0"]));
        assert_eq!(text, "2 customers; refused (and 1 more): a.toml; failed: no eth0");
    }

    #[test]
    fn signs_of_life_come_twice_as_often_as_the_watchdog_demands() {
        let manager = Manager { watchdog: Some(Duration::from_secs(60)) };
        assert_eq!(manager.alive_within(), Some(Duration::from_secs(30)));
        assert_eq!(Manager::default().alive_within(), None);
    }
}
