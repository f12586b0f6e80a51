//! The status files for `gatewayctl`: state that only the daemon knows. [`Status`] is about the gateway and does
//! not grow with the number of sites; [`tunnels`] has a record for each site, of which only those that change are written.
pub mod tunnels;

use std::{fs, path::Path};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::{fingerprint::fingerprint, kernel::clock::monotonic_ns, policy::Policy, process::Process};
pub use tunnels::{TunnelStatus, TunnelsFile};

/// Name of the status file in the state directory.
pub const FILE: &str = "status.json";
/// Name of the file in the state directory that tells which process charon was.
pub const CHARON_PROCESS: &str = "charon";

/// The state of the daemon. Times in nanoseconds are of CLOCK_MONOTONIC.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// The daemon's process id.
    pub pid: u32,
    /// The daemon's start, in clock ticks since the machine's: tells it from a later process with its id.
    pub started_ticks: u64,
    /// The time of this status, in seconds since 1970, for one that is read after the daemon has ended.
    pub written_unix_seconds: u64,
    /// End of the last reconciliation, whatever has failed in it.
    pub attempted_ns: u64,
    /// Interval of reconciliations, in milliseconds, when no event occurs.
    pub interval_ms: u64,
    /// End of the last reconciliation in which nothing failed.
    pub reconciled_ns: Option<u64>,
    /// Arrival of the last list of all SAs of charon.
    pub audited_ns: Option<u64>,
    /// The time that charon took for that list, in milliseconds. The next one comes after
    /// [`AUDIT_SHARE`](crate::session::AUDIT_SHARE) times that.
    pub audit_took_ms: u64,
    /// The policy in force.
    pub policy: PolicyStatus,
    /// charon's version, if it is connected, has its connection and is followed.
    pub charon: Option<String>,
    /// The reason why charon is not connected, or that it does not answer.
    pub charon_fault: Option<String>,
    /// Begin of this state of charon.
    pub charon_since_ns: u64,
    /// How often something of the gateway's was missing in charon and was loaded again.
    pub restored: u64,
    /// SAs refused so far because they are no site's.
    pub refused: u64,
    /// How XDP runs on the internet interface: `native` or `missing`.
    pub xdp: String,
    /// Descriptions of SAs that are no site's, or more than a site may have, while charon still has them.
    pub strangers: Vec<String>,
    /// Names of sites that have negotiated more prefixes than their map entry holds: the first ones.
    pub crowded: Vec<String>,
    /// Begin of the last reload that ended; `None` before the first.
    pub reload_began_ns: Option<u64>,
    /// When removals were held back that still are, nanoseconds of CLOCK_MONOTONIC. `gatewayctl reload --force` names them
    /// by this number.
    #[serde(default)]
    pub held_back_ns: Option<u64>,
    /// Faults in the current policy files; the last valid policy stays in force.
    pub faults: Vec<String>,
    /// Changes that failed and will be retried, each with the number of times in a row.
    pub failed: Vec<String>,
    /// One entry for each site of the policy: only in the output of gatewayctl, not in this file.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tunnels: Vec<TunnelStatus>,
}

/// The policy in force.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct PolicyStatus {
    /// Number of the policy, from 1: each one that differs from the one before has the next, also across restarts.
    pub generation: u64,
    /// The policy's [`fingerprint`].
    pub sha256: String,
    /// The time at which it came into force.
    pub since_ns: u64,
    /// Number of customers.
    pub customers: usize,
    /// Number of sites.
    pub sites: usize,
}

impl PolicyStatus {
    /// Returns that of a policy that comes into force now, after this one.
    pub fn next(&self, policy: &Policy) -> Self {
        let sha256 = fingerprint(policy);
        Self {
            generation: self.generation + u64::from(self.sha256 != sha256),
            sha256,
            since_ns: monotonic_ns(),
            customers: policy.customers.len(),
            sites: policy.site_count(),
        }
    }
}

impl Status {
    /// Returns the status of a daemon that starts, after the one that wrote the status in this directory.
    pub fn starting(state: &Path, policy: &Policy) -> Self {
        let earlier = Self::read(state).map(|status| status.policy).unwrap_or_default();
        Self {
            pid: std::process::id(),
            started_ticks: Process::own().map_or(0, |process| process.started_ticks),
            charon_since_ns: monotonic_ns(),
            policy: earlier.next(policy),
            ..Self::default()
        }
    }

    /// Replaces the status file atomically, so that a reader sees either the old or the new one.
    pub fn write(&self, state: &Path) -> Result<()> {
        let (path, new) = (state.join(FILE), state.join(format!("{FILE}.new")));
        let text = serde_json::to_vec_pretty(self).context("write the status as JSON")?;
        fs::write(&new, text).with_context(|| format!("write {}", new.display()))?;
        fs::rename(&new, &path).with_context(|| format!("write {}", path.display()))
    }

    /// Reads the last status written. The daemon may have ended since.
    pub fn read(state: &Path) -> Result<Self> {
        let path = state.join(FILE);
        let text = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("{} is not a status file", path.display()))
    }

    /// Records that charon is followed, or why not. The time of a state is that of its begin.
    pub fn set_charon(&mut self, version: Option<String>, fault: Option<String>) {
        if (&self.charon, &self.charon_fault) != (&version, &fault) {
            (self.charon, self.charon_fault) = (version, fault);
            self.charon_since_ns = monotonic_ns();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_is_read_as_written_and_without_the_sites() {
        let state = tempfile::tempdir().unwrap();
        let status = Status { pid: 7, failed: vec!["x".into()], xdp: "native".into(), ..Status::default() };
        status.write(state.path()).unwrap();
        assert_eq!(Status::read(state.path()).unwrap(), status);
        assert!(!fs::read_to_string(state.path().join(FILE)).unwrap().contains("tunnels"));
        assert_eq!(fs::read_dir(state.path()).unwrap().count(), 1);
    }

    #[test]
    fn state_of_charon_has_the_time_of_its_begin() {
        let mut status = Status::default();
        status.set_charon(Some("5.9.8".into()), None);
        let since = status.charon_since_ns;
        assert!(since > 0);
        status.set_charon(Some("5.9.8".into()), None);
        assert_eq!(status.charon_since_ns, since);
        status.set_charon(Some("5.9.8".into()), Some("it does not answer".into()));
        assert!(status.charon_since_ns > since);
    }
}
