//! The cloud gateway under test: charon, which starts without configuration, and gatewayd, which configures
//! it.
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use ::gateway::{
    control::observed::{Observed, observe},
    kernel::{maps::Maps, pins::Pins},
    status::Status,
};
use anyhow::{Context, Result, ensure};
use aya::programs::{ProgramInfo, SchedClassifier, TcAttachType};
use gateway_common::ids::TunnelId;
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

/// gatewayd's pin folder, as the gateway sees it.
pub const PINS: &str = "/run/gateway/bpf";
/// gatewayd's state folder, as the gateway sees it.
pub const STATE: &str = "/run/gateway/state";
/// gatewayd's folder of policies, as the gateway sees it.
pub const POLICIES: &str = "/run/policies";
/// Timeout for gatewayd. It acts at once, but under emulation and traffic that may take minutes on a busy
/// machine, above all the kernel's verification of the programs.
const REACTION: Duration = Duration::from_secs(300);

/// Packets dropped so far, by customer (`-` if unknown) and reason.
pub type Drops = BTreeMap<(String, String), u64>;

/// Paths of gatewayd, gatewayctl and the policies.
#[derive(Debug, Clone)]
pub struct Programs {
    /// Folder of gatewayd and gatewayctl, an absolute path.
    pub bin_dir: PathBuf,
    /// Folder of policies, an absolute path.
    pub policy_dir: PathBuf,
    /// Replaces gatewayd with a gateway that forwards everything, to show what the attacks achieve without
    /// it.
    pub without_gatewayd: bool,
}

/// The gateway's processes.
#[derive(Debug)]
pub struct Gateway {
    programs: Programs,
    daemon: Option<Process>,
    charon: Charon,
    /// `None` without gatewayd.
    policies: Option<Policies>,
    dir: PathBuf,
}

/// One entry of `gatewayctl drops --json`.
#[derive(Debug, Deserialize)]
struct DropLine {
    customer: Option<String>,
    reason: String,
    packets: u64,
}

/// One entry of `gatewayctl counters --json`, without the counters that the lab does not need.
#[derive(Debug, Deserialize)]
struct CounterLine {
    customer: Option<String>,
    to_server: u64,
    to_sites: u64,
    unknown_spi: u64,
}

/// The part of `bpftool --json net show` that the lab needs.
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
    /// Starts charon without waiting for it.
    pub fn start(programs: Programs, namespace: &Namespace, dir: &Path) -> Result<Self> {
        let charon = Charon::start(namespace, dir)?;
        let policies = match programs.without_gatewayd {
            true => None,
            false => Some(Policies::copy(&programs.policy_dir, &dir.join("run/policies"))?),
        };
        Ok(Self { programs, daemon: None, charon, policies, dir: dir.to_path_buf() })
    }

    /// Starts gatewayd and waits until it is ready.
    pub fn start_daemon(&mut self, namespace: &Namespace, authority: &Authority, own: &Issued) -> Result<()> {
        self.charon.wait_until_ready()?;
        if self.programs.without_gatewayd {
            return open_gateway::start(namespace, &self.charon, authority, own);
        }
        self.spawn_daemon(namespace)?;
        self.wait_until_ready(namespace)
    }

    /// Starts gatewayd without waiting for it.
    pub fn spawn_daemon(&mut self, namespace: &Namespace) -> Result<()> {
        // gatewayd mounts no bpffs outside of the mount namespace of process 1, and the lab is outside of it.
        namespace.enter(|| Pins::new(PINS).prepare())?;
        let command = self.daemon_command(namespace, POLICIES, STATE);
        self.daemon = Some(Process::start(command, &self.dir.join("run/gatewayd.log"))?);
        Ok(())
    }

    /// Runs a second gatewayd, with these policies and this state folder, beside the running one and waits for its end.
    pub fn run_second_daemon(&self, namespace: &Namespace, policies: &str, state: &str) -> Result<Output> {
        self.daemon_command(namespace, policies, state).output().context("cannot run a second gatewayd")
    }

    fn daemon_command(&self, namespace: &Namespace, policies: &str, state: &str) -> Command {
        let mut command = namespace.command(self.programs.bin_dir.join("gatewayd"));
        command.args(["--policy", policies, "--state", state, "--vici", VICI, "--pin", PINS]);
        command
    }

    /// Folder of the example policies, outside the gateway.
    pub fn example_dir(&self) -> &Path {
        &self.programs.policy_dir
    }

    /// The gateway's folder of policies.
    pub fn policies(&self) -> Result<&Policies> {
        self.policies.as_ref().context("without gatewayd there are no policies")
    }

    /// Restores the example policies without telling gatewayd. Returns true if they had changed.
    pub fn restore_policies(&self) -> Result<bool> {
        self.policies.as_ref().map_or(Ok(false), Policies::restore)
    }

    /// Returns true if gatewayd reports a failure (as after `detach`) or nothing at all.
    pub fn has_failed(&self, namespace: &Namespace) -> bool {
        let failed = || self.status(namespace).map_or(true, |status| !status.failed.is_empty());
        !self.programs.without_gatewayd && failed()
    }

    /// Has gatewayd reload its policies.
    pub fn reload(&self) -> Result<()> {
        self.daemon.as_ref().context("gatewayd is not running")?.signal(Signal::SIGHUP)
    }

    /// Waits until gatewayd's status satisfies `holds`, and returns it. `what` names the condition in errors.
    pub fn wait_for_status(
        &self,
        namespace: &Namespace,
        what: &str,
        holds: impl Fn(&Status) -> bool,
    ) -> Result<Status> {
        wait_for(what, REACTION, || Ok(Some(self.status(namespace)?).filter(&holds)))
    }

    /// Waits until the maps satisfy `holds`, and returns them. `what` names the condition in errors.
    pub fn wait_for_maps(
        &self,
        namespace: &Namespace,
        what: &str,
        holds: impl Fn(&Observed) -> bool,
    ) -> Result<Observed> {
        wait_for(what, REACTION, || Ok(Some(self.observed(namespace)?).filter(&holds)))
    }

    /// Runs `gatewayctl detach`.
    pub fn detach(&self, namespace: &Namespace) -> Result<()> {
        process::output(&mut self.control(namespace, "detach")).map(drop)
    }

    /// Kills charon; its SAs stay in the kernel.
    pub fn kill_charon(&mut self) -> Result<()> {
        self.charon.kill()
    }

    /// Starts charon without configuration and waits until it answers.
    pub fn start_charon(&mut self, namespace: &Namespace) -> Result<()> {
        self.charon = Charon::start(namespace, &self.dir)?;
        self.charon.wait_until_ready()
    }

    /// Returns true while charon is running.
    pub fn charon_is_running(&mut self) -> bool {
        self.charon.is_running()
    }

    /// Kills gatewayd with SIGKILL, as the kernel's OOM killer would.
    pub fn kill_daemon(&mut self) -> Result<()> {
        self.end_daemon(Signal::SIGKILL)
    }

    /// Sends gatewayd a signal and waits for its end.
    pub fn end_daemon(&mut self, signal: Signal) -> Result<()> {
        self.daemon.take().context("gatewayd is not running")?.end(signal).map(drop)
    }

    /// Returns true while gatewayd is running, and always without gatewayd.
    pub fn is_running(&mut self) -> bool {
        let running = |daemon: &mut Process| daemon.ensure_running().is_ok();
        self.programs.without_gatewayd || self.daemon.as_mut().is_some_and(running)
    }

    /// Returns the ends of the logs of gatewayd and charon.
    pub fn logs(&self) -> String {
        let [daemon, charon] =
            ["run/gatewayd.log", "run/charon.log"].map(|log| process::tail(&self.dir.join(log)));
        format!("gatewayd's log ends:\n{daemon}charon's log ends:\n{charon}")
    }

    /// The gateway's charon.
    pub fn charon(&self) -> &Charon {
        &self.charon
    }

    /// Returns the reqids that the programs' maps bind to a site that is up; `None` without gatewayd.
    pub fn tunnels_up(&self, namespace: &Namespace) -> Result<Option<BTreeSet<u32>>> {
        if self.programs.without_gatewayd {
            return Ok(None);
        }
        let Observed { bindings, tunnels, .. } = self.observed(namespace)?;
        let is_up =
            |site: u32| TunnelId::new(site).and_then(|id| tunnels.get(&id)).is_some_and(|site| site.up == 1);
        let up = bindings.into_iter().filter(|(_, binding)| is_up(binding.site));
        Ok(Some(up.map(|(reqid, _)| reqid.get()).collect()))
    }

    /// Reads the contents of the maps.
    pub fn observed(&self, namespace: &Namespace) -> Result<Observed> {
        namespace.enter(|| observe(&Maps::open(&Pins::new(PINS))?))
    }

    /// Returns the kernel's ids of the programs attached to the gateway's interfaces, by interface and hook.
    pub fn attached(&self, namespace: &Namespace) -> Result<BTreeMap<String, u32>> {
        let text = process::output(namespace.command("bpftool").args(["--json", "net", "show"]))?;
        let [net]: [BpftoolNet; 1] = serde_json::from_str(&text).context("cannot read `bpftool net show`")?;
        let mut attached: BTreeMap<_, _> =
            net.xdp.into_iter().map(|xdp| (format!("{} XDP", xdp.devname), xdp.id)).collect();
        // Debian 12's bpftool does not know TCX.
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

    /// Reads all drop counters; empty without gatewayd.
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

    /// Returns the command for a shell in the gateway's namespace, with gatewayctl on its path.
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

    /// Reads gatewayd's status.
    pub fn status(&self, namespace: &Namespace) -> Result<Status> {
        let output = self.control(namespace, "status").arg("--json").output()?;
        // 3: the gateway is degraded.
        ensure!(
            matches!(output.status.code(), Some(0 | 3)),
            "`gatewayctl status` ended with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        serde_json::from_slice(&output.stdout).context("cannot read `gatewayctl status --json`")
    }

    /// Returns the packets that the gateway passed for a customer: to its server, and to its sites.
    pub fn passed(&self, namespace: &Namespace, customer: &str) -> Result<(u64, u64)> {
        let line = self.counters(namespace, Some(customer))?;
        Ok(line.map_or((0, 0), |line| (line.to_server, line.to_sites)))
    }

    /// Returns the number of ESP packets with an unknown SPI; `None` without gatewayd.
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

    /// Waits until the gatewayd that we started is connected to charon and has nothing left to do.
    pub fn wait_until_ready(&mut self, namespace: &Namespace) -> Result<()> {
        wait_for("gatewayd to be ready", REACTION, || {
            let daemon = self.daemon.as_mut().context("gatewayd is not running")?;
            daemon.ensure_running().context("gatewayd ended before it was ready")?;
            let pid = daemon.pid();
            // There may be no status yet, or only that of the previous gatewayd.
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

/// Reads a namespace's counters in `/proc/net/xfrm_stat`, by name.
pub fn xfrm_stat(namespace: &Namespace) -> Result<BTreeMap<String, u64>> {
    let text = namespace.enter(|| Ok(fs::read_to_string("/proc/thread-self/net/xfrm_stat")?))?;
    let count = |line: &str| -> Result<_> {
        let (name, count) = line.split_once(char::is_whitespace).context("no count")?;
        Ok((name.to_owned(), count.trim().parse()?))
    };
    text.lines().map(count).collect()
}

/// Returns the counters that have grown, each with its increase.
pub fn increase<K: Ord + Clone>(before: &BTreeMap<K, u64>, after: &BTreeMap<K, u64>) -> BTreeMap<K, u64> {
    let grown = |(key, count): (&K, &u64)| {
        let more = count.saturating_sub(before.get(key).copied().unwrap_or_default());
        (more > 0).then(|| (key.clone(), more))
    };
    after.iter().filter_map(grown).collect()
}
