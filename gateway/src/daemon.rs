//! gatewayd: starts the data plane, then keeps the maps in line with the policy and charon's SAs until a signal. Never
//! waits for charon: the session does.
mod logs;
mod publish;
mod reload;
mod reports;
mod sites_file;

use std::{collections::BTreeMap, mem, net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    time::{Instant, sleep_until},
};
use tracing::{info, warn};

use self::{logs::Logs, sites_file::SitesFile};
use crate::{
    adoption::adopt_ids,
    approval,
    control::{
        apply::apply_all,
        bindings::{Bindings, Order},
        desired::{Links, desired},
        follow::Follower,
        observed::observe,
        plan::{Action, Followed, plan},
        sites::Sites,
    },
    dataplane::DataPlane,
    events::{Events, Names},
    failures::{Attempt, Failures},
    held_back::HeldBack,
    inputs::{Inputs, Reading},
    kernel::{
        clock::monotonic_ns,
        interface::{self, Interface},
        maps::Maps,
        network::Network,
        paths::Paths,
        pins::Pins,
        programs::{Sizes, XdpState},
    },
    lock::{START_LIMIT, hold_forwarding},
    registry::{Assignment, Registry},
    session::Session,
    status::{CHARON_PROCESS, Status},
    systemd::{self, Manager},
};

/// Interval of reconciliations when no event occurs.
const RECONCILE_INTERVAL: Duration = Duration::from_secs(10);
/// Delay after a change of path MTUs: a site may cause as many as it likes, and each concerns all sites.
const PATHS_DEBOUNCE: Duration = Duration::from_secs(1);
/// Delay after a change of an interface, so that one reconciliation serves a burst of changes.
const DEBOUNCE: Duration = Duration::from_millis(10);
/// Interval of reconciliations after a failure.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// Delay between an event and the status that tells of it.
const STATUS_DELAY: Duration = Duration::from_millis(20);
/// Shortest interval of statuses.
const STATUS_INTERVAL: Duration = Duration::from_millis(100);
/// Largest number of actions of one plan that are logged one by one: enough to follow changes, and few enough
/// not to delay a start with many customers.
const LOGGED_ACTIONS: usize = 1000;

/// Longest wait for a `gatewayctl detach` that is at work.
const ENSURE_LIMIT: Duration = Duration::from_secs(5);

/// Message after the pins were removed. The daemon does not attach again: that would undo a deliberate detach.
const DETACHED: &str = "detached: nothing is forwarded; restart gatewayd to attach again";

/// Paths that the daemon works with.
#[derive(Clone, Debug)]
pub struct Options {
    /// The policy folder.
    pub policy: PathBuf,
    /// The state directory: ids and status outlive a restart.
    pub state: PathBuf,
    /// charon's VICI socket.
    pub vici: PathBuf,
    /// The pinned links and maps.
    pub pins: Pins,
}

/// A running gateway.
pub struct Daemon {
    options: Options,
    inputs: Arc<Inputs>,
    registry: Registry,
    ids: Assignment,
    names: Names,
    plane: DataPlane,
    maps: Maps,
    events: Events,
    /// Sizes of the tables as created.
    sizes: Sizes,
    network: Network,
    interfaces: (Interface, Interface),
    paths: Paths,
    /// The path MTUs that the kernel has learnt, by peer.
    learnt: BTreeMap<IpAddr, u32>,
    follower: Follower,
    session: Session,
    orders: Option<mpsc::Sender<Order>>,
    /// charon's version, while it is connected.
    version: Option<String>,
    /// The setup's failure in charon.
    setup_failures: Failures,
    /// Changes of the last reconciliation that failed.
    failures: Failures,
    /// The removals because of which the last policies were held back.
    held_back: Option<HeldBack>,
    /// The reason why the policy in force is not kept on disk.
    unsaved: Option<String>,
    /// Inputs whose new customers and sites have no numbers yet, because these cannot be written.
    unnumbered: Option<Inputs>,
    /// True if a change of the maps failed that an event led to.
    unapplied: bool,
    status: Status,
    sites_file: SitesFile,
    /// When charon began the list of all SAs, on CLOCK_MONOTONIC.
    listing_since_ns: u64,
    logs: Logs,
    manager: Manager,
    signals: Signals,
}

/// The times of the next steps.
struct Due {
    reconcile: Instant,
    /// `None`: nothing has changed since the last status.
    status: Option<Instant>,
    status_not_before: Instant,
}

/// The handled signals. Registered early, because an unhandled SIGHUP ends the process.
struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn register() -> Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }
}

impl Daemon {
    /// Attaches the programs, or adopts programs that are attached already along with the contents of their
    /// maps. Nothing is forwarded before all of them are attached. The directories of the pins and of the state exist.
    /// `is_saved` tells whether the inputs are the last good policy on disk.
    pub async fn start(options: Options, reading: Reading, is_saved: bool) -> Result<Self> {
        let (faults, held_back) = (reading.lines(), HeldBack::of(&reading));
        let inputs = reading.inputs.context("there is no policy")?;
        let gateway = &inputs.policy.gateway;
        let (internet, lan) = (gateway.internet.to_string(), gateway.lan.to_string());
        let signals = Signals::register()?;
        // Subscribe before reading the interfaces, so that no later change is missed.
        let network = Network::open()?;
        let interfaces = (Interface::look(&internet)?, Interface::look(&lan)?);
        let mut registry = Registry::open(options.state.join("ids.toml"))?;
        let ids = adopt_ids(&options.pins, &options.state, &mut registry, &inputs.policy)?;

        let limits = gateway.limits;
        let sizes = Sizes {
            tunnels: limits.tunnels,
            customers: limits.customers,
            flows: limits.flows,
            flows6: inputs.policy.flows6(),
        };
        let held = hold_forwarding(&options.state, START_LIMIT)?;
        let mut plane = DataPlane::start(&options.pins, sizes, &interfaces.0, &interfaces.1)?;
        let maps = Maps::open(&options.pins)?;
        let events = Events::open(&options.pins, plane.ebpf())?;
        drop(held);
        // An approval is for a reload of another process.
        approval::take(&options.state);
        let session =
            Session::start(options.vici.clone(), options.state.join(CHARON_PROCESS), inputs.setup());
        let status = Status {
            held_back_ns: held_back.as_ref().map(|held| held.since_ns),
            faults,
            ..Status::starting(&options.state, &inputs.policy)
        };
        let mut daemon = Self {
            follower: Follower::new(Bindings::new(Sites::new(&inputs.policy, &ids))),
            options,
            inputs: Arc::new(inputs),
            registry,
            names: Names::new(&ids),
            ids,
            plane,
            maps,
            events,
            sizes,
            network,
            interfaces,
            paths: Paths::follow()?,
            learnt: BTreeMap::new(),
            session,
            orders: None,
            version: None,
            setup_failures: Failures::default(),
            failures: Failures::default(),
            held_back,
            unsaved: None,
            unnumbered: None,
            unapplied: false,
            status,
            sites_file: SitesFile::default(),
            listing_since_ns: 0,
            logs: Logs::default(),
            manager: Manager::from_environment(),
            signals,
        };
        if !is_saved {
            daemon.save(&daemon.inputs.clone());
        }
        let attempt = daemon.reconcile()?;
        daemon.record(attempt);
        daemon.write_status();
        Ok(daemon)
    }

    /// Runs until SIGTERM or SIGINT. The programs stay attached.
    pub async fn run(mut self) -> Result<()> {
        self.manager.ready(&self.describe());
        let now = Instant::now();
        let mut due = Due { reconcile: now + self.interval(), status: None, status_not_before: now };
        loop {
            tokio::select! {
                report = self.session.next() => {
                    self.handle_report(report);
                    if mem::take(&mut self.unapplied) {
                        due.reconcile = due.reconcile.min(Instant::now() + DEBOUNCE);
                    }
                    due.changed();
                }
                () = self.network.changed() => {
                    due.reconcile = due.reconcile.min(Instant::now() + DEBOUNCE);
                }
                learnt = self.paths.changed() => {
                    self.learnt = learnt;
                    self.sites_file.all();
                    due.reconcile = due.reconcile.min(Instant::now() + PATHS_DEBOUNCE);
                }
                () = sleep_until(due.reconcile) => {
                    due.reconcile = Instant::now() + self.reconcile_maps();
                    due.changed();
                }
                () = sleep_until(due.status.unwrap_or(now)), if due.status.is_some() => {
                    self.write_status();
                    due.status = None;
                    due.status_not_before = Instant::now() + STATUS_INTERVAL;
                }
                _ = self.signals.hangup.recv() => {
                    self.manager.reloading();
                    let began = monotonic_ns();
                    let before = Arc::clone(&self.inputs);
                    self.reload();
                    if !Arc::ptr_eq(&before, &self.inputs) {
                        self.publish_policy();
                    }
                    // At once: what the policy no longer has must pass nothing more.
                    due.reconcile = Instant::now() + self.reconcile_maps();
                    self.status.reload_began_ns = Some(began);
                    self.manager.ready(&self.describe());
                    due.changed();
                }
                result = self.events.log(&self.names) => if let Err(error) = result {
                    warn!("drop events: {error:#}");
                },
                _ = self.signals.terminate.recv() => break,
                _ = self.signals.interrupt.recv() => break,
            }
        }
        self.manager.stopping();
        info!("stopping; the programs stay attached (`gatewayctl detach` removes them)");
        Ok(())
    }

    /// Reconciles the maps, gives the service manager a sign of life, and returns the time until the next time.
    fn reconcile_maps(&mut self) -> Duration {
        self.try_reconcile();
        let next = match self.failures.iter().all(|line| line == DETACHED) {
            true => self.interval(),
            false => RETRY_INTERVAL,
        };
        if self.unsaved.is_some() {
            self.save(&self.inputs.clone());
        }
        self.number();
        // After a failure, too: another process would fail alike.
        self.manager.alive(&self.describe());
        next.min(self.interval())
    }

    /// Returns the interval of reconciliations when no event occurs.
    fn interval(&self) -> Duration {
        self.manager.alive_within().map_or(RECONCILE_INTERVAL, |time| time.min(RECONCILE_INTERVAL))
    }

    /// Returns the state as a line for the service manager.
    fn describe(&self) -> String {
        let failed: Vec<String> = self.failures.iter().map(str::to_owned).collect();
        systemd::describe(&self.inputs.describe(), &self.status.faults, &failed)
    }

    /// Reconciles the maps and records what has failed.
    fn try_reconcile(&mut self) {
        let attempt = self.reconcile().unwrap_or_else(|error| Attempt::from(format!("reconcile: {error:#}")));
        self.record(attempt);
    }

    /// Observes, plans and applies. Returns the changes that failed.
    fn reconcile(&mut self) -> Result<Attempt> {
        let inputs = Arc::clone(&self.inputs);
        let gateway = &inputs.policy.gateway;
        let internet = Interface::look(gateway.internet.as_str())?;
        let lan = Interface::look(gateway.lan.as_str())?;
        let links = Links { internet: &internet, lan: &lan, xdp: self.plane.xdp() == XdpState::Native };
        let desired = desired(&inputs.policy, &self.ids, links)?;
        self.sites_file.changed(self.follower.bindings_mut().take_touched().sites);
        let peers = &self.follower.bindings().live().peers;
        self.paths.set_peers(peers.iter().map(|peer| (*peer).into()).collect());
        let followed = followed(&self.follower, &self.learnt);
        let actions = plan(&desired, &observe(&self.maps)?, followed);
        let mut attempt = Attempt::default();
        let mut applied = 0usize;
        apply_all(&actions, &mut self.maps, |action, result| match result {
            Ok(()) => {
                applied += 1;
                if let Action::SetTunnel(id, _) = action {
                    self.sites_file.changed([*id]);
                }
                if applied <= LOGGED_ACTIONS {
                    info!("{action}");
                }
            }
            Err(error) => attempt.fail(format!("{error:#}")),
        });
        if let Some(more) = applied.checked_sub(LOGGED_ACTIONS).filter(|more| *more > 0) {
            info!("{more} more actions not logged");
        }
        // Attach after filling the maps, so that forwarding starts with complete maps. Never attach without
        // pins: `gatewayctl detach` removed them to stop forwarding.
        let held = hold_forwarding(&self.options.state, ENSURE_LIMIT);
        let any_v6_server = self.inputs.policy.has_v6_server();
        if self.options.pins.exist()
            && let Err(error) = self.plane.ensure(&internet, &lan, any_v6_server)
        {
            attempt.fail(format!("{error:#}"));
        }
        // Asked once more: without the lock, `gatewayctl detach` may have been at work meanwhile.
        if !self.options.pins.exist() {
            if let Err(error) = interface::stop_forwarding() {
                attempt.fail(format!("{error:#}"));
            }
            attempt.fail(DETACHED.to_owned());
        }
        if let Err(error) = held {
            attempt.fail(format!("{error:#}"));
        }
        self.interfaces = (internet, lan);
        Ok(attempt)
    }
}

impl Due {
    /// Has the status written soon, but not all the time.
    fn changed(&mut self) {
        self.status.get_or_insert((Instant::now() + STATUS_DELAY).max(self.status_not_before));
    }
}

/// Returns what is known of charon's SAs, if anything is.
fn followed<'a>(follower: &'a Follower, learnt: &'a BTreeMap<IpAddr, u32>) -> Option<Followed<'a>> {
    follower.has_begun().then(|| Followed { live: follower.bindings().live(), learnt })
}
