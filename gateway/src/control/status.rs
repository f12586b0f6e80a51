//! What the daemon knows and the maps do not, for `gatewayctl`: a file, replaced as a whole.
use std::{fs, path::Path};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// The file's name in the state directory.
pub const FILE: &str = "status.json";

/// What the daemon knows.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Its process id.
    pub pid: u32,
    /// charon's version, if it is connected.
    pub charon: Option<String>,
    /// How XDP runs on the internet interface: `native` or `missing`.
    pub xdp: String,
    /// All tunnels of the policy.
    pub tunnels: Vec<TunnelStatus>,
    /// SAs that were on a tunnel's reqid and not the tunnel's.
    pub strangers: Vec<String>,
    /// What is wrong with the policy files now; what worked before goes on.
    pub faults: Vec<String>,
    /// Changes that failed and are tried again.
    pub failed: Vec<String>,
}

/// One tunnel.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct TunnelStatus {
    /// Whose.
    pub customer: String,
    /// Which of its sites.
    pub site: String,
    /// reqid, mark, map key.
    pub id: u32,
    /// Up with the site's authenticated identity.
    pub up: bool,
    /// The peer's outer address and port.
    pub peer: Option<String>,
    /// What encrypts the traffic.
    pub cipher: Option<String>,
    /// ESP in UDP.
    pub encapsulated: bool,
    /// The largest TCP segments it carries in IPv4 and IPv6, in bytes.
    #[serde(default)]
    pub mss: (u16, u16),
}

impl Status {
    /// Writes it so that a reader sees the old or the new one.
    pub fn write(&self, state: &Path) -> Result<()> {
        let path = state.join(FILE);
        let new = state.join(format!("{FILE}.new"));
        let text = serde_json::to_vec_pretty(self).context("write the status as JSON")?;
        fs::write(&new, text).with_context(|| format!("write {}", new.display()))?;
        fs::rename(&new, &path).with_context(|| format!("write {}", path.display()))
    }

    /// Reads the last one written; the daemon may be dead by now.
    pub fn read(state: &Path) -> Result<Self> {
        let path = state.join(FILE);
        let text = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("{} is no status file", path.display()))
    }
}
