//! Writes the status.
use time::OffsetDateTime;

use super::{Daemon, sites_file::View};
use crate::{
    failures::Attempt,
    kernel::{clock::monotonic_ns, programs::XdpState},
};

impl Daemon {
    /// Records that other inputs are in force.
    pub(super) fn publish_policy(&mut self) {
        self.status.policy = self.status.policy.next(&self.inputs.policy);
        self.sites_file.all();
    }

    /// Records the outcome of a reconciliation that has just ended.
    pub(super) fn record(&mut self, attempt: Attempt) {
        let lines = self.failures.take(attempt);
        self.logs.failures(&lines);
        self.logs.tell_suppressed();
        self.status.attempted_ns = monotonic_ns();
        if self.failures.is_empty() {
            self.status.reconciled_ns = Some(self.status.attempted_ns);
        }
    }

    /// Writes the status, and the records of sites that have changed. Takes no time that grows with the number of sites,
    /// unless all were looked at or the policy is another one.
    pub(super) fn write_status(&mut self) {
        let view = View {
            policy: &self.inputs.policy,
            bindings: self.follower.bindings(),
            learnt: &self.learnt,
            maps: &self.maps,
        };
        let result = self.sites_file.write(&self.options.state, view);
        self.logs.result(result);
        let interval = self.interval();
        let bindings = self.follower.bindings();
        let status = &mut self.status;
        status.xdp = match self.plane.xdp() {
            XdpState::Native => "native".into(),
            XdpState::Missing => "missing".into(),
        };
        status.refused = bindings.refused();
        status.strangers = bindings.strangers().map(str::to_owned).collect();
        status.crowded = self.sites_file.crowded(bindings.sites());
        status.failed = self.failures.lines();
        status.failed.extend(self.unsaved.clone());
        status.failed.extend(self.setup_failures.lines());
        status.written_unix_seconds = OffsetDateTime::now_utc().unix_timestamp().unsigned_abs();
        status.interval_ms = interval.as_millis() as u64;
        let result = self.status.write(&self.options.state);
        self.logs.result(result);
    }
}
