//! The gateway: charon, and gatewayd with its programs.
use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use gateway::{
    control::bindings::CONNECTION,
    kernel::{maps::Maps, pins::Pins},
    strongswan::Client,
};
use gateway_common::layout::{Hook, map_list};
use gateway_tests_kit::{
    namespace::Namespace,
    process::{self, Process},
};
use nix::sys::signal::Signal;

use super::{
    super::rules::server,
    charon::{Charon, SHIPPED},
    ground::{Ground, PINS},
    policies,
    sites::Sites,
};

/// Longest time that anything here may take.
const LIMIT: Duration = Duration::from_secs(600);
/// Pause between two looks. Results are no more exact than this.
const LOOK: Duration = Duration::from_micros(500);

/// A running gateway.
pub struct Gateway {
    charon: Charon,
    daemon: Process,
    pins: Pins,
    maps: Maps,
    run: PathBuf,
}

/// Has gatewayd check the policies, and returns the time that it took.
pub fn check(ground: &Ground) -> Result<Duration> {
    let mut command = command(&ground.gateway)?;
    let begun = Instant::now();
    process::output(command.args(["--check", "--no-secrets"]))?;
    Ok(begun.elapsed())
}

impl Gateway {
    /// Starts charon, then gatewayd. Returns the time from the start of gatewayd until a site can connect.
    pub fn start(ground: &Ground, sites: &Sites) -> Result<(Self, Duration)> {
        let run = ground.run();
        sites.write_credentials(run)?;
        // A gatewayd with other policies has left its last good one, which would hold back the removal of its customers.
        let state = run.join("state");
        if state.exists() {
            fs::remove_dir_all(&state)?;
        }
        let charon = Charon::start(&ground.gateway, run, SHIPPED)?;
        let begun = Instant::now();
        let mut daemon = Process::start(command(&ground.gateway)?, &run.join("gatewayd.log"))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let lasted = runtime.block_on(async {
            let client = Client::connect(charon.vici()).await?;
            while !client.loaded().await?.connections.iter().any(|name| name == CONNECTION) {
                daemon.ensure_running()?;
                ensure!(begun.elapsed() < LIMIT, "gatewayd does not load its connection");
                tokio::time::sleep(LOOK).await;
            }
            anyhow::Ok(begun.elapsed())
        })?;
        let pins = Pins::new(run.join(PINS));
        Ok((Self { charon, daemon, maps: Maps::open(&pins)?, pins, run: run.to_owned() }, lasted))
    }

    /// Returns gatewayd's process id.
    pub fn daemon_pid(&self) -> u32 {
        self.daemon.pid()
    }

    /// Returns charon's process id.
    pub fn charon_pid(&self) -> u32 {
        self.charon.pid()
    }

    /// Returns the path of charon's VICI socket, as seen from outside.
    pub fn vici(&self) -> &Path {
        self.charon.vici()
    }

    /// Opens the maps once more.
    pub fn maps(&self) -> Result<Maps> {
        Maps::open(&self.pins)
    }

    /// Waits until this many CHILD_SAs are bound.
    pub fn wait_for_bindings(&mut self, count: u32) -> Result<()> {
        let begun = Instant::now();
        loop {
            self.daemon.ensure_running()?;
            let bound = self.maps.bindings()?.len();
            if bound == count as usize {
                return Ok(());
            }
            ensure!(begun.elapsed() < LIMIT, "{bound} of {count} CHILD_SAs are bound");
            thread::sleep(20 * LOOK);
        }
    }

    /// Adds a customer, and returns the time from the file and SIGHUP until the programs let its packets pass.
    pub fn add_customer(&mut self, customer: u32) -> Result<Duration> {
        let begun = Instant::now();
        policies::add(&self.run, customer)?;
        self.daemon.signal(Signal::SIGHUP)?;
        self.wait_for_customer(customer, true)?;
        Ok(begun.elapsed())
    }

    /// Removes a customer, and waits until it is gone.
    pub fn remove_customer(&mut self, customer: u32) -> Result<()> {
        policies::remove(&self.run, customer)?;
        self.daemon.signal(Signal::SIGHUP)?;
        self.wait_for_customer(customer, false)?;
        thread::sleep(Duration::from_secs(1));
        Ok(())
    }

    fn wait_for_customer(&mut self, customer: u32, present: bool) -> Result<()> {
        let begun = Instant::now();
        while self.maps.customer(server(customer).into())?.is_some() != present {
            self.daemon.ensure_running()?;
            ensure!(begun.elapsed() < LIMIT, "gatewayd does not take customer {customer}");
            thread::sleep(LOOK);
        }
        Ok(())
    }

    /// Ends gatewayd and charon, and detaches the programs.
    pub fn end(self) -> Result<()> {
        let status = self.daemon.end(Signal::SIGTERM)?;
        ensure!(status.success(), "gatewayd ended with {status}");
        self.charon.end()?;
        // Not `Pins::remove`: it would unmount the bpffs, which the gateway's view of mounts has from the start.
        let links = Hook::ALL.iter().map(|hook| self.pins.link(*hook));
        for pin in links.chain(map_list::pinned().map(|map| self.pins.map(map.name))) {
            // Some exist only with IPv6.
            let _ = fs::remove_file(pin);
        }
        Ok(())
    }
}

/// Returns the command of gatewayd, which is beside this program.
fn command(namespace: &Namespace) -> Result<Command> {
    let program = env::current_exe()?.parent().context("no folder")?.join("gatewayd");
    ensure!(program.exists(), "{} is missing: `cargo xtask bench` builds it", program.display());
    let mut command = namespace.command(program);
    command.args(["--policy", "/run/policies", "--state", "/run/state", "--vici", "/run/charon.vici"]);
    command.args(["--pin", &format!("/run/{PINS}")]).env("RUST_LOG", "warn");
    Ok(command)
}
