//! The cloud gateway under test: charon without a configuration, and gatewayd that gives it one.
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use ::gateway::{
    control::{
        observed::{Observed, observe},
        status::Status,
    },
    kernel::{maps::Maps, pins::Pins},
};
use anyhow::{Context, Result};
use aya::programs::{ProgramInfo, SchedClassifier, TcAttachType};
use gateway_tests_kit::{
    namespace::Namespace,
    process::{self, Process, wait_for},
};
use nix::sys::signal::Signal;
use serde::Deserialize;

use crate::{
    charon::{self, Charon, VICI},
    open_gateway,
    pki::{Authority, Issued},
    policies::Policies,
};

/// Where gatewayd pins, as the gateway sees it.
pub const PINS: &str = "/run/gateway/bpf";
const STATE: &str = "/run/gateway/state";
/// gatewayd's policies, as the gateway sees them.
pub const POLICIES: &str = "/run/policies";
/// gatewayd acts at once. But under emulation that takes its time, above all the kernel's verification of
/// the programs, and all the more while traffic goes on: it may take minutes on a busy machine.
const REACTION: Duration = Duration::from_secs(300);

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
    /// None without gatewayd.
    policies: Option<Policies>,
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

/// Of `bpftool --json net show`; there is more.
#[derive(Debug, Deserialize)]
struct BpftoolNet {
    xdp: Vec<BpftoolXdp>,
}

#[derive(Debug, Deserialize)]
struct BpftoolXdp {
    devname: String,
    id: u32,
}

impl Gateway {
    /// Starts charon and waits for nothing.
    pub fn start(programs: Programs, namespace: &Namespace, dir: &Path) -> Result<Self> {
        let charon = Charon::start(namespace, dir)?;
        let policies = match programs.without_gatewayd {
            true => None,
            false => Some(Policies::copy(&programs.policy_dir, &dir.join("run/policies"))?),
        };
        Ok(Self { programs, daemon: None, charon, policies, dir: dir.to_path_buf() })
    }

    /// Starts gatewayd and waits until it says that it enforces.
    pub fn start_daemon(&mut self, namespace: &Namespace, authority: &Authority, own: &Issued) -> Result<()> {
        self.charon.wait_until_ready()?;
        if self.programs.without_gatewayd {
            return open_gateway::start(namespace, &self.charon, authority, own);
        }
        self.spawn_daemon(namespace)?;
        self.wait_until_ready(namespace)
    }

    /// Starts gatewayd and waits for nothing.
    pub fn spawn_daemon(&mut self, namespace: &Namespace) -> Result<()> {
        let command = self.daemon_command(namespace, POLICIES);
        self.daemon = Some(Process::start(command, &self.dir.join("run/gatewayd.log"))?);
        Ok(())
    }

    /// Runs another gatewayd, with other policies, beside the one that runs, to its end.
    pub fn run_second_daemon(&self, namespace: &Namespace, policies: &str) -> Result<Output> {
        self.daemon_command(namespace, policies).output().context("cannot run a second gatewayd")
    }

    fn daemon_command(&self, namespace: &Namespace, policies: &str) -> Command {
        let mut command = namespace.command(self.programs.bin_dir.join("gatewayd"));
        command.args(["--policy", policies, "--state", STATE, "--vici", VICI, "--pin", PINS]);
        command
    }

    /// The example policies, outside the gateway.
    pub fn example_dir(&self) -> &Path {
        &self.programs.policy_dir
    }

    /// Its folder of policies.
    pub fn policies(&self) -> Result<&Policies> {
        self.policies.as_ref().context("without gatewayd there are no policies")
    }

    /// Makes the policies those of the example again; true if they were not. gatewayd does not know yet.
    pub fn restore_policies(&self) -> Result<bool> {
        self.policies.as_ref().map_or(Ok(false), Policies::restore)
    }

    /// Whether gatewayd says that something it had to do did not work, as after it was detached.
    pub fn has_failed(&self, namespace: &Namespace) -> bool {
        let failed = || self.status(namespace).map_or(true, |status| !status.failed.is_empty());
        !self.programs.without_gatewayd && failed()
    }

    /// Has gatewayd read its policies again.
    pub fn reload(&self) -> Result<()> {
        self.daemon.as_ref().context("gatewayd is not running")?.signal(Signal::SIGHUP)
    }

    /// Waits until gatewayd says that it is so, and returns what it says.
    pub fn wait_for_status(
        &self,
        namespace: &Namespace,
        what: &str,
        holds: impl Fn(&Status) -> bool,
    ) -> Result<Status> {
        wait_for(what, REACTION, || Ok(Some(self.status(namespace)?).filter(&holds)))
    }

    /// Waits until the maps say that it is so, and returns them.
    pub fn wait_for_maps(
        &self,
        namespace: &Namespace,
        what: &str,
        holds: impl Fn(&Observed) -> bool,
    ) -> Result<Observed> {
        wait_for(what, REACTION, || Ok(Some(self.observed(namespace)?).filter(&holds)))
    }

    /// Detaches with gatewayctl.
    pub fn detach(&self, namespace: &Namespace) -> Result<()> {
        process::output(&mut self.control(namespace, "detach")).map(drop)
    }

    /// Kills charon. Its SAs stay in the kernel.
    pub fn kill_charon(&mut self) -> Result<()> {
        self.charon.kill()
    }

    /// Starts charon, which knows nothing, and waits until it answers.
    pub fn start_charon(&mut self, namespace: &Namespace) -> Result<()> {
        self.charon = Charon::start(namespace, &self.dir)?;
        self.charon.wait_until_ready()
    }

    /// Whether charon is there.
    pub fn charon_is_running(&mut self) -> bool {
        self.charon.is_running()
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
    pub fn tunnels_up(&self, namespace: &Namespace) -> Result<Option<BTreeSet<u32>>> {
        if self.programs.without_gatewayd {
            return Ok(None);
        }
        let tunnels = self.observed(namespace)?.tunnels;
        let up = tunnels.into_iter().filter(|(_, tunnel)| tunnel.up == 1);
        Ok(Some(up.map(|(id, _)| id.get()).collect()))
    }

    /// What the maps hold.
    pub fn observed(&self, namespace: &Namespace) -> Result<Observed> {
        namespace.enter(|| observe(&Maps::open(&Pins::new(PINS))?))
    }

    /// The kernel's numbers of the programs that are attached to the gateway's interfaces, by interface
    /// and hook.
    pub fn attached(&self, namespace: &Namespace) -> Result<BTreeMap<String, u32>> {
        let text = process::output(namespace.command("bpftool").args(["--json", "net", "show"]))?;
        let [net]: [BpftoolNet; 1] = serde_json::from_str(&text).context("cannot read `bpftool net show`")?;
        let mut attached: BTreeMap<_, _> =
            net.xdp.into_iter().map(|xdp| (format!("{} XDP", xdp.devname), xdp.id)).collect();
        // Debian 12's bpftool knows no TCX.
        for interface in [c"eth_internet", c"eth_lan"] {
            for way in [TcAttachType::Ingress, TcAttachType::Egress] {
                let (_, programs) = namespace.enter(|| Ok(SchedClassifier::query_tcx(interface, way)?))?;
                let name = |program: &ProgramInfo| {
                    format!(
                        "{} {way:?} {}",
                        interface.to_string_lossy(),
                        program.name_as_str().unwrap_or_default()
                    )
                };
                attached.extend(programs.iter().map(|program| (name(program), program.id())));
            }
        }
        Ok(attached)
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
    pub fn wait_until_ready(&mut self, namespace: &Namespace) -> Result<()> {
        wait_for("gatewayd to be ready", REACTION, || {
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
