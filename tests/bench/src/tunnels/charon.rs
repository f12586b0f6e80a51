//! A charon with ESP in user space, in a namespace with a private `/run`.
use std::{
    fs,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Result;
use gateway_tests_kit::{
    namespace::Namespace,
    process::{Process, wait_for},
};

const CHARON: &str = "/usr/lib/ipsec/charon";
/// The settings that gatewayd needs, as shipped.
pub const SHIPPED: &str = include_str!("../../../../packaging/strongswan/gatewayd.conf");
/// Settings of the sites' charon: one process plays all sites, so it never looks for an IKE_SA to share, and waits for many
/// answers at a time.
pub const OF_SITES: &str = "charon {
  install_routes = no
  reuse_ikesa = no
  threads = 48
  # One socket receives for all sites, and loses packets.
  retransmit_timeout = 2
  retransmit_base = 1.3
  retransmit_tries = 12
  ikesa_table_size = 16384
  ikesa_table_segments = 64
}
";

/// A running charon. Dropping it kills it.
pub struct Charon {
    process: Process,
    vici: PathBuf,
}

impl Charon {
    /// Starts charon, without connections. `run` is its `/run`, as seen from outside.
    pub fn start(namespace: &Namespace, run: &Path, settings: &str) -> Result<Self> {
        let conf = format!(
            "charon {{
  load = random nonce openssl pem pkcs1 pkcs8 x509 revocation constraints pubkey kdf hmac sha2 aes gcm \
                    kernel-libipsec kernel-netlink socket-default vici
  filelog {{ stderr {{ default = 0 }} }}
  plugins {{
    vici {{ socket = unix:///run/charon.vici }}
    # ESP in user space adds a route for each tunnel. For each route charon would look at the path of each IKE_SA.
    kernel-netlink {{ roam_events = no }}
  }}
}}
{settings}"
        );
        fs::write(run.join("strongswan.conf"), conf)?;
        let mut command = namespace.command(CHARON);
        command.env("STRONGSWAN_CONF", "/run/strongswan.conf");
        let mut process = Process::start(command, &run.join("charon.log"))?;
        let vici = run.join("charon.vici");
        wait_for("charon's VICI socket", Duration::from_secs(60), || {
            process.ensure_running()?;
            Ok(UnixStream::connect(&vici).ok().map(drop))
        })?;
        Ok(Self { process, vici })
    }

    /// Returns the path of its VICI socket, as seen from outside.
    pub fn vici(&self) -> &Path {
        &self.vici
    }

    /// Returns its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Returns the last lines of its log that have one of these words, and what the same threads log next.
    pub fn log_of(&self, words: &[String]) -> String {
        let text = fs::read_to_string(self.process.log()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let has = |line: &&&str| words.iter().any(|word| line.contains(word.as_str()));
        let found: Vec<&str> = lines.iter().filter(has).copied().collect();
        let errors = lines
            .iter()
            .filter(|line| line.contains("error") || line.contains("fail") || line.contains("giving up"));
        let errors: Vec<&str> = errors.copied().collect();
        let last = |lines: &[&str]| lines[lines.len().saturating_sub(12)..].join("\n");
        format!("the sites' charon logs:\n{}\n…\n{}", last(&found), last(&errors))
    }

    /// Kills it.
    pub fn end(mut self) -> Result<()> {
        let _ = fs::remove_file(self.vici.with_file_name("charon.pid"));
        self.process.kill()
    }
}
