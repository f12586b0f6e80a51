//! The status file for `gatewayctl`: state that only the daemon knows. Each write replaces the whole file.
use std::{fs, path::Path};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// Name of the status file in the state directory.
pub const FILE: &str = "status.json";

/// The state of the daemon.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Status {
    /// The daemon's process id.
    pub pid: u32,
    /// charon's version, if it is connected, has its connection and is followed.
    pub charon: Option<String>,
    /// The reason why charon is not connected, or that it does not answer.
    #[serde(default)]
    pub charon_fault: Option<String>,
    /// How often something of the gateway's was missing in charon and was loaded again.
    #[serde(default)]
    pub restored: u64,
    /// SAs refused so far because they are no site's.
    #[serde(default)]
    pub refused: u64,
    /// How XDP runs on the internet interface: `native` or `missing`.
    pub xdp: String,
    /// One entry for each site of the policy.
    pub tunnels: Vec<TunnelStatus>,
    /// Descriptions of SAs that are no site's, or more than a site may have, while charon still has them.
    pub strangers: Vec<String>,
    /// Begin of the last reload that ended, nanoseconds of CLOCK_MONOTONIC; `None` before the first.
    #[serde(default)]
    pub reload_began_ns: Option<u64>,
    /// When removals were held back that still are, nanoseconds of CLOCK_MONOTONIC. `gatewayctl reload --force` names them
    /// by this number.
    #[serde(default)]
    pub held_back_ns: Option<u64>,
    /// Faults in the current policy files; the last valid policy stays in force.
    pub faults: Vec<String>,
    /// Changes that failed and will be retried.
    pub failed: Vec<String>,
}

/// The state of one site's tunnel.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct TunnelStatus {
    /// The customer's name.
    pub customer: String,
    /// The site's name.
    pub site: String,
    /// The site's number: its map key.
    pub id: u32,
    /// True if an SA with the site's authenticated identity is up.
    pub up: bool,
    /// The peer's outer address and port.
    pub peer: Option<String>,
    /// Names of the negotiated algorithms.
    pub cipher: Option<String>,
    /// True if ESP is encapsulated in UDP.
    pub encapsulated: bool,
    /// The MSS in IPv4 and IPv6, in bytes.
    #[serde(default)]
    pub mss: (u16, u16),
    /// The smallest path MTU in bytes that the kernel has learnt to a peer of the site; `None` if a router on the way has
    /// announced none.
    #[serde(default)]
    pub path_mtu_bytes: Option<u32>,
}

impl Status {
    /// Replaces the status file atomically, so that a reader sees either the old or the new one.
    pub fn write(&self, state: &Path) -> Result<()> {
        let path = state.join(FILE);
        let new = state.join(format!("{FILE}.new"));
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
}
