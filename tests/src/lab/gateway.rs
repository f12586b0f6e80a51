//! The cloud gateway under test: charon without a configuration, and gatewayd that gives it one.
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use ::gateway::{
    control::status::Status,
    kernel::{maps::Maps, pins::Pins},
};
use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use serde::Deserialize;

use super::{
    charon::{self, Charon, VICI},
    namespace::Namespace,
    open_gateway,
    pki::{Authority, Issued},
    process::{self, Process, wait_for},
};

/// Where gatewayd pins, as the gateway sees it.
pub const PINS: &str = "/run/gateway/bpf";
const STATE: &str = "/run/gateway/state";

/// Packets dropped so far, by customer (`-` where none is known) and reason.
pub type Drops = BTreeMap<(String, String), u64>;

/// Where gatewayd, gatewayctl and the policies are.
#[derive(Debug, Clone)]
pub struct Programs {
    /// The folder of gatewayd and gatewayctl, absolute.
    pub bin_dir: PathBuf,
    /// The folder of policies, absolute.
    pub policy_dir: PathBuf,
    /// Instead of gatewayd, a gateway that forwards everything: shows what the attacks do unhindered.
    pub without_gatewayd: bool,
}

/// The gateway's processes.
#[derive(Debug)]
pub struct Gateway {
    programs: Programs,
    daemon: Option<Process>,
    charon: Charon,
    dir: PathBuf,
}

/// One line of `gatewayctl drops --json`.
#[derive(Debug, Deserialize)]
struct DropLine {
    customer: Option<String>,
    reason: String,
    packets: u64,
}

/// One line of `gatewayctl counters --json`; there are more counters.
#[derive(Debug, Deserialize)]
struct CounterLine {
    customer: Option<String>,
    to_server: u64,
    to_sites: u64,
    unknown_spi: u64,
}

impl Gateway {
    /// Starts charon and waits for nothing.
    pub fn start(programs: Programs, namespace: &Namespace, dir: &Path) -> Result<Self> {
        let charon = Charon::start(namespace, dir)?;
        Ok(Self { programs, daemon: None, charon, dir: dir.to_path_buf() })
    }

    /// Starts gatewayd and waits until it says that it enforces.
    pub fn start_daemon(&mut self, namespace: &Namespace, authority: &Authority, own: &Issued) -> Result<()> {
        self.charon.wait_until_ready()?;
        if self.programs.without_gatewayd {
            return open_gateway::start(namespace, &self.charon, authority, own);
        }
        let mut command = namespace.command(self.programs.bin_dir.join("gatewayd"));
        command.arg("--policy").arg(&self.programs.policy_dir);
        command.args(["--state", STATE, "--vici", VICI, "--pin", PINS]);
        self.daemon = Some(Process::start(command, &self.dir.join("run/gatewayd.log"))?);
        self.wait_until_ready(namespace)
    }

    /// Kills gatewayd as the kernel's OOM killer would.
    pub fn kill_daemon(&mut self) -> Result<()> {
        self.daemon.take().context("gatewayd is not running")?.end(Signal::SIGKILL).map(drop)
    }

    /// Whether gatewayd is there, or was never meant to be.
    pub fn is_running(&mut self) -> bool {
        let running = |daemon: &mut Process| daemon.ensure_running().is_ok();
        self.programs.without_gatewayd || self.daemon.as_mut().is_some_and(running)
    }

    /// The gateway's charon.
    pub fn charon(&self) -> &Charon {
        &self.charon
    }

    /// The tunnel ids that packets may use at this moment, as the programs see them. None without
    /// gatewayd.
    pub fn tunnels_up(&self) -> Result<Option<BTreeSet<u32>>> {
        if self.programs.without_gatewayd {
            return Ok(None);
        }
        let tunnels = Maps::open(&Pins::new(self.dir.join("run/gateway/bpf")))?.tunnels()?;
        let up = tunnels.into_iter().filter(|(_, tunnel)| tunnel.up == 1);
        Ok(Some(up.map(|(id, _)| id.get()).collect()))
    }

    /// All drop counters. Empty without gatewayd.
    pub fn drops(&self, namespace: &Namespace) -> Result<Drops> {
        if self.programs.without_gatewayd {
            return Ok(Drops::new());
        }
        let text = process::output(self.control(namespace, "drops").arg("--json"))?;
        let lines: Vec<DropLine> =
            serde_json::from_str(&text).context("cannot read `gatewayctl drops --json`")?;
        Ok(lines
            .into_iter()
            .map(|line| ((line.customer.unwrap_or_else(|| "-".to_owned()), line.reason), line.packets))
            .collect())
    }

    /// A shell whose world is the gateway's, with gatewayctl on its path.
    pub fn shell(&self, namespace: &Namespace) -> Command {
        let mut command = namespace.command("bash");
        let path = std::env::var("PATH").unwrap_or_default();
        command
            .env("PATH", format!("{}:{path}", self.programs.bin_dir.display()))
            .env("STRONGSWAN_CONF", charon::CONF)
            .env("GATEWAY_PIN", PINS)
            .env("GATEWAY_STATE", STATE)
            .env("PS1", "gateway# ")
            .args(["--norc", "--noprofile"]);
        command
    }

    /// What gatewayd says of itself.
    pub fn status(&self, namespace: &Namespace) -> Result<Status> {
        let text = process::output(self.control(namespace, "status").arg("--json"))?;
        serde_json::from_str(&text).context("cannot read `gatewayctl status --json`")
    }

    /// Packets that the gateway passed for a customer, to its server and to its sites.
    pub fn passed(&self, namespace: &Namespace, customer: &str) -> Result<(u64, u64)> {
        let line = self.counters(namespace, Some(customer))?;
        Ok(line.map_or((0, 0), |line| (line.to_server, line.to_sites)))
    }

    /// ESP packets that came with an SPI of no known tunnel. None without gatewayd.
    pub fn unknown_spis(&self, namespace: &Namespace) -> Result<Option<u64>> {
        if self.programs.without_gatewayd {
            return Ok(None);
        }
        Ok(Some(self.counters(namespace, None)?.map_or(0, |line| line.unknown_spi)))
    }

    fn counters(&self, namespace: &Namespace, customer: Option<&str>) -> Result<Option<CounterLine>> {
        let text = process::output(self.control(namespace, "counters").arg("--json"))?;
        let lines: Vec<CounterLine> =
            serde_json::from_str(&text).context("cannot read `gatewayctl counters --json`")?;
        Ok(lines.into_iter().find(|line| line.customer.as_deref() == customer))
    }

    /// Ready is the gatewayd that we started, connected to charon, with all it had to do done.
    fn wait_until_ready(&mut self, namespace: &Namespace) -> Result<()> {
        wait_for("gatewayd to be ready", Duration::from_secs(60), || {
            let daemon = self.daemon.as_mut().context("gatewayd is not running")?;
            daemon.ensure_running().context("gatewayd did not come up")?;
            let pid = daemon.pid();
            // There is no status yet, or the one of its predecessor.
            let Ok(status) = self.status(namespace) else { return Ok(None) };
            let done = status.failed.is_empty() && status.faults.is_empty();
            Ok((status.pid == pid && status.charon.is_some() && done).then_some(()))
        })
    }

    fn control(&self, namespace: &Namespace, subcommand: &str) -> Command {
        let mut command = namespace.command(self.programs.bin_dir.join("gatewayctl"));
        command.args([subcommand, "--pin", PINS, "--state", STATE]);
        command
    }
}

/// The kernel's counts in `/proc/net/xfrm_stat` of a namespace, by their names there.
pub fn xfrm_stat(namespace: &Namespace) -> Result<BTreeMap<String, u64>> {
    let text = namespace.enter(|| Ok(fs::read_to_string("/proc/thread-self/net/xfrm_stat")?))?;
    let count = |line: &str| -> Result<_> {
        let (name, count) = line.split_once(char::is_whitespace).context("no count")?;
        Ok((name.to_owned(), count.trim().parse()?))
    };
    text.lines().map(count).collect()
}

/// What has grown, by how much.
pub fn increase<K: Ord + Clone>(before: &BTreeMap<K, u64>, after: &BTreeMap<K, u64>) -> BTreeMap<K, u64> {
    let grown = |(key, count): (&K, &u64)| {
        let more = count.saturating_sub(before.get(key).copied().unwrap_or_default());
        (more > 0).then(|| (key.clone(), more))
    };
    after.iter().filter_map(grown).collect()
}
