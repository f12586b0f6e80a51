//! Judges from outside whether the gateway is healthy: by the status that gatewayd wrote last, and by what the kernel says of
//! the processes. Neither gatewayd nor charon has to run.
use std::{fs, path::Path};

use anyhow::Result;

use crate::{
    kernel::{clock::monotonic_ns, pins::Pins},
    lock::holder,
    process::{Process, RunState},
    session::AUDIT_SHARE,
    status::{CHARON_PROCESS, Status},
};

/// Intervals of reconciliations without one after which gatewayd hangs.
const LATE_INTERVALS: u64 = 3;
/// Age of the last list of all SAs, beyond twice the interval of lists, from which they are overdue. The interval is
/// [`AUDIT_SHARE`] times what a list took, and 10 s at least.
const LATE_AUDIT_SECONDS: u64 = 60;
/// Longest reason that is a quotation, in characters. The lists below the reasons have the whole of it.
const MAX_QUOTE: usize = 160;
const SECOND_NS: u64 = 1_000_000_000;

/// The processes as the kernel shows them.
#[derive(Clone, Copy, Debug)]
pub struct Processes {
    /// The process that holds the lock of the pins: a gatewayd that is alive.
    pub holder: Option<Process>,
    /// The state of the holder.
    pub holder_state: RunState,
    /// The charon that gatewayd was connected to last, and its state.
    pub charon: Option<(Process, RunState)>,
    /// CLOCK_MONOTONIC, in nanoseconds.
    pub now_ns: u64,
}

/// gatewayd, seen from outside.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Daemon {
    /// It reconciles.
    Running,
    /// It is alive, but has not reconciled for a time or is stopped by a signal.
    Hung,
    /// It is alive, and the status is that of an earlier one.
    Starting,
    /// There is none.
    Stopped,
}

impl Processes {
    /// Looks at the processes of the gateway with these pins and this state directory.
    pub fn look(state: &Path, pins: &Pins) -> Result<Self> {
        let holder = holder(pins.directory())?;
        let record = fs::read_to_string(state.join(CHARON_PROCESS)).ok();
        let charon = record.and_then(|text| text.parse::<Process>().ok());
        Ok(Self {
            holder,
            holder_state: holder.map_or(RunState::Ended, Process::state),
            charon: charon.map(|charon| (charon, charon.state())),
            now_ns: monotonic_ns(),
        })
    }

    /// Returns the seconds since a time of a status.
    pub fn seconds_since(&self, then_ns: u64) -> u64 {
        self.now_ns.saturating_sub(then_ns) / SECOND_NS
    }

    /// Judges gatewayd. An id alone says nothing: another process may have it by now.
    pub fn daemon(&self, status: &Status) -> Daemon {
        let Some(holder) = self.holder else { return Daemon::Stopped };
        if holder.started_ticks != status.started_ticks {
            return Daemon::Starting;
        }
        let silent_ms = self.now_ns.saturating_sub(status.attempted_ns) / 1_000_000;
        if self.holder_state == RunState::Stopped || silent_ms > LATE_INTERVALS * status.interval_ms {
            return Daemon::Hung;
        }
        Daemon::Running
    }

    /// Returns why the gateway is degraded, the worst first; nothing if it is healthy. A site that is down, or whose SAs are
    /// refused, does not degrade it: a tenant could have it look ill. `xdp_optional` is for a card without native XDP.
    pub fn reasons(&self, status: &Status, xdp_optional: bool) -> Vec<String> {
        let daemon = self.daemon(status);
        let mut reasons: Vec<String> = self.daemon_fault(status, daemon).into_iter().collect();
        // The rest of the status is of the past.
        if matches!(daemon, Daemon::Stopped | Daemon::Starting) {
            return reasons;
        }
        reasons.extend(self.charon_fault(status));
        reasons.extend(self.charon_stopped().map(|pid| format!("charon, pid {pid}, is stopped by a signal")));
        reasons.extend(listed("policy fault", &status.faults));
        reasons.extend(listed("failed change", &status.failed));
        if status.xdp != "native" && !xdp_optional {
            reasons.push(
                "XDP is missing on the internet interface: IKE cookies cannot be asked for in a flood"
                    .to_owned(),
            );
        }
        reasons
    }

    fn daemon_fault(&self, status: &Status, daemon: Daemon) -> Option<String> {
        let pid = self.holder.map_or(0, |holder| holder.pid);
        match daemon {
            Daemon::Running => None,
            Daemon::Stopped => Some("gatewayd is not running".to_owned()),
            Daemon::Starting => Some(format!("gatewayd, pid {pid}, is starting")),
            Daemon::Hung => {
                let stopped = match self.holder_state {
                    RunState::Stopped => " is stopped by a signal and",
                    _ => "",
                };
                let seconds = self.seconds_since(status.attempted_ns);
                Some(format!("gatewayd, pid {pid},{stopped} has not reconciled for {seconds} s"))
            }
        }
    }

    fn charon_fault(&self, status: &Status) -> Option<String> {
        let seconds = self.seconds_since(status.charon_since_ns);
        match (&status.charon, &status.charon_fault) {
            (Some(_), Some(fault)) => Some(format!("{} (for {seconds} s)", shortened(fault))),
            (None, Some(fault)) => {
                Some(format!("charon is not connected for {seconds} s: {}", shortened(fault)))
            }
            (None, None) => Some(format!("charon is not followed yet, for {seconds} s")),
            (Some(_), None) => {
                let age = status.audited_ns.map(|audited| self.seconds_since(audited))?;
                (age > LATE_AUDIT_SECONDS + 2 * u64::from(AUDIT_SHARE) * status.audit_took_ms / 1000)
                    .then(|| format!("charon has not listed its SAs for {age} s"))
            }
        }
    }

    /// Returns charon's process id if a signal has stopped it.
    pub fn charon_stopped(&self) -> Option<i32> {
        self.charon.filter(|(_, state)| *state == RunState::Stopped).map(|(charon, _)| charon.pid)
    }
}

/// Returns a reason that counts lines and quotes the first one.
fn listed(what: &str, lines: &[String]) -> Option<String> {
    let first = shortened(lines.first()?.lines().next().unwrap_or_default());
    Some(match lines.len() {
        1 => format!("1 {what}: {first}"),
        count => format!("{count} {what}s, the first: {first}"),
    })
}

fn shortened(text: &str) -> String {
    let shown: String = text.chars().take(MAX_QUOTE).collect();
    if shown.len() < text.len() { shown + "…" } else { shown }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GATEWAYD: Process = Process { pid: 7, started_ticks: 70 };
    const NOW_NS: u64 = 1000 * SECOND_NS;

    fn processes() -> Processes {
        Processes { holder: Some(GATEWAYD), holder_state: RunState::Alive, charon: None, now_ns: NOW_NS }
    }

    fn healthy() -> Status {
        Status {
            pid: 7,
            started_ticks: GATEWAYD.started_ticks,
            attempted_ns: NOW_NS - 9 * SECOND_NS,
            interval_ms: 10_000,
            charon: Some("5.9.8".into()),
            charon_since_ns: NOW_NS - 100 * SECOND_NS,
            audited_ns: Some(NOW_NS - 20 * SECOND_NS),
            xdp: "native".into(),
            ..Status::default()
        }
    }

    fn reasons(processes: Processes, status: &Status) -> Vec<String> {
        processes.reasons(status, false)
    }

    #[test]
    fn healthy_gateway_has_no_reasons_whatever_its_sites_do() {
        let status = Status {
            refused: 7,
            strangers: vec!["stranger".into()],
            crowded: vec!["acme.berlin".into()],
            restored: 1,
            ..healthy()
        };
        assert_eq!(reasons(processes(), &status), [""; 0]);
    }

    #[test]
    fn gatewayd_runs_only_while_the_process_that_wrote_the_status_holds_the_lock() {
        let daemon = |processes: Processes| processes.daemon(&healthy());
        assert_eq!(daemon(processes()), Daemon::Running);
        assert_eq!(daemon(Processes { holder: None, ..processes() }), Daemon::Stopped);
        // The same id, another run: the id was given to it again.
        let later = Process { started_ticks: 71, ..GATEWAYD };
        assert_eq!(daemon(Processes { holder: Some(later), ..processes() }), Daemon::Starting);
        // Another id, the same run: gatewayd is in a PID namespace.
        let renumbered = Process { pid: 4711, ..GATEWAYD };
        assert_eq!(daemon(Processes { holder: Some(renumbered), ..processes() }), Daemon::Running);
    }

    #[test]
    fn stopped_gatewayd_says_nothing_of_the_rest() {
        let status = Status { charon: None, faults: vec!["a".into()], ..healthy() };
        let stopped = Processes { holder: None, ..processes() };
        assert_eq!(reasons(stopped, &status), ["gatewayd is not running"]);
    }

    #[test]
    fn gatewayd_that_does_not_reconcile_hangs() {
        let late = Processes { now_ns: NOW_NS + 22 * SECOND_NS, ..processes() };
        assert_eq!(late.daemon(&healthy()), Daemon::Hung);
        assert_eq!(reasons(late, &healthy()), ["gatewayd, pid 7, has not reconciled for 31 s"]);
        let stopped = Processes { holder_state: RunState::Stopped, ..processes() };
        assert_eq!(
            reasons(stopped, &healthy()),
            ["gatewayd, pid 7, is stopped by a signal and has not reconciled for 9 s"]
        );
    }

    #[test]
    fn each_state_of_charon_is_named_with_its_duration() {
        let reason = |charon: Option<&str>, fault: Option<&str>| {
            let (charon, charon_fault) = (charon.map(str::to_owned), fault.map(str::to_owned));
            reasons(processes(), &Status { charon, charon_fault, ..healthy() }).join("; ")
        };
        assert_eq!(reason(None, None), "charon is not followed yet, for 100 s");
        assert_eq!(reason(None, Some("no socket")), "charon is not connected for 100 s: no socket");
        assert_eq!(
            reason(Some("5.9.8"), Some("charon does not answer")),
            "charon does not answer (for 100 s)"
        );
        let silent = Status { audited_ns: Some(NOW_NS - 90 * SECOND_NS), ..healthy() };
        assert_eq!(reasons(processes(), &silent), ["charon has not listed its SAs for 90 s"]);
        assert_eq!(reasons(processes(), &Status { audit_took_ms: 1000, ..silent }), [""; 0]);
    }

    #[test]
    fn charon_that_a_signal_has_stopped_is_named() {
        let charon = Process { pid: 8, started_ticks: 80 };
        for (state, named) in [(RunState::Alive, false), (RunState::Ended, false), (RunState::Stopped, true)]
        {
            let processes = Processes { charon: Some((charon, state)), ..processes() };
            let expected = if named { &["charon, pid 8, is stopped by a signal"][..] } else { &[] };
            assert_eq!(reasons(processes, &healthy()), expected);
        }
    }

    #[test]
    fn faults_failures_and_missing_xdp_are_reasons_in_this_order() {
        let status = Status {
            faults: vec![format!("{}\nexpected: y", "x".repeat(1000)), "z".into()],
            failed: vec!["no eth0 (3 times)".into()],
            xdp: "missing".into(),
            ..healthy()
        };
        let found = reasons(processes(), &status);
        assert_eq!(found[0], format!("2 policy faults, the first: {}…", "x".repeat(MAX_QUOTE)));
        assert_eq!(found[1], "1 failed change: no eth0 (3 times)");
        assert!(found[2].starts_with("XDP is missing"), "{found:?}");
        assert_eq!(processes().reasons(&status, true), found[..2]);
    }

    #[test]
    fn charons_process_is_looked_at_by_its_record() {
        let state = tempfile::tempdir().unwrap();
        let pins = Pins::new(state.path().join("bpf"));
        let own = Process::own().unwrap();
        fs::write(state.path().join(CHARON_PROCESS), own.to_string()).unwrap();
        let processes = Processes::look(state.path(), &pins).unwrap();
        assert_eq!((processes.holder, processes.charon), (None, Some((own, RunState::Alive))));
    }
}
