//! gatewayd: starts the data plane, then keeps the maps and charon in line with the policy until a signal.
use std::{
    collections::{BTreeMap, HashMap},
    fs, mem,
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result};
use gateway_common::{
    ids::TunnelId,
    layout::{Tunnel, map_list},
};
use time::OffsetDateTime;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{Instant, sleep_until},
};
use tracing::{error, info, warn};

use crate::{
    control::{
        apply::apply_all,
        desired::{Credentials, Desired, Links, desired, desired_of},
        follow::{Live, follow, mss_of_sas},
        observed::{observe, observe_of},
        plan::{Action, Charon, plan, plan_some},
        status::{Status, TunnelStatus},
    },
    dataplane::DataPlane,
    events::Events,
    kernel::{
        interface::Interface,
        maps::{self, Maps},
        network::{Network, Paths},
        pins::Pins,
        programs::{Sizes, XdpState},
    },
    policy::{self, CredentialCheck, Faults, Policy},
    registry::{Assignment, Registry},
    strongswan::{Client, IkeSa, Notice, SaList, Supervisor},
};

/// Interval of reconciliations when no event occurs.
const RECONCILE_INTERVAL: Duration = Duration::from_secs(10);
/// Delay after an event, so that one reconciliation serves a burst of events.
const DEBOUNCE: Duration = Duration::from_millis(10);
/// Interval of reconciliations after a failure.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// Largest number of actions of one plan that are logged one by one: enough to follow changes, and few enough
/// not to delay a start with many customers.
const LOGGED_ACTIONS: usize = 1000;

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

/// A policy and the credentials it names.
pub struct Inputs {
    policy: Policy,
    credentials: Credentials,
    /// Faults with which gatewayd starts all the same: a certificate outside its period of validity.
    faults: Faults,
}

impl Inputs {
    /// Reads policies and secrets. Reports all faults at once.
    pub fn load(options: &Options) -> Result<Self, Faults> {
        let policy = policy::load(&options.policy)?;
        let CredentialCheck { credentials, faults } =
            policy::read_credentials(&policy.gateway, OffsetDateTime::now_utc());
        match credentials {
            Some(read) => Ok(Self { policy, credentials: loadable(read), faults }),
            None => Err(faults),
        }
    }

    /// Returns the numbers of customers and sites as text.
    pub fn describe(&self) -> String {
        self.policy.describe()
    }
}

/// Returns the credentials in the form in which connections share them.
fn loadable(read: policy::Credentials) -> Credentials {
    let policy::Credentials { certificate, private_key, authority } = read;
    Credentials { certificate: certificate.into(), private_key, authority: authority.into() }
}

/// A running gateway.
pub struct Daemon {
    options: Options,
    inputs: Arc<Inputs>,
    registry: Registry,
    ids: Assignment,
    plane: DataPlane,
    maps: Maps,
    events: Events,
    /// Sizes of the tables as created.
    sizes: Sizes,
    network: Network,
    paths: Paths,
    charon: Option<Connected>,
    status: Status,
    last_written: Option<Status>,
    signals: Signals,
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

/// A connection to charon.
struct Connected {
    client: Client,
    /// charon's version, set once the authority and the private key are loaded.
    version: Option<String>,
    /// Connections that the daemon loaded over this connection to charon.
    loaded: BTreeMap<String, crate::strongswan::Connection>,
}

impl Connected {
    /// Updates `loaded` after an applied action.
    fn record(&mut self, action: &Action) {
        match action {
            Action::Load(connection) => {
                self.loaded.insert(connection.name.clone(), (**connection).clone());
            }
            Action::Unload(name) => {
                self.loaded.remove(name);
            }
            _ => {}
        }
    }
}

impl Daemon {
    /// Attaches the programs, or adopts programs that are attached already along with the contents of their
    /// maps. Nothing is forwarded before all of them are attached.
    pub async fn start(options: Options, inputs: Inputs) -> Result<Self> {
        let gateway = &inputs.policy.gateway;
        let (internet, lan) = (gateway.internet.to_string(), gateway.lan.to_string());
        let signals = Signals::register()?;
        // Subscribe before reading the interfaces, so that no later change is missed.
        let network = Network::open()?;
        let interfaces = (Interface::look(&internet)?, Interface::look(&lan)?);
        fs::create_dir_all(&options.state).with_context(|| format!("create {}", options.state.display()))?;
        let mut registry = Registry::open(options.state.join("ids.toml"))?;
        let ids = registry.assign(&inputs.policy)?;

        let limits = gateway.limits;
        let sizes = Sizes {
            tunnels: limits.tunnels,
            customers: limits.customers,
            flows: limits.flows,
            flows6: flows6_size(&inputs.policy, &options.pins),
        };
        let mut plane = DataPlane::start(&options.pins, sizes, &interfaces.0, &interfaces.1)?;
        let maps = Maps::open(&options.pins)?;
        let events = Events::open(&options.pins, plane.ebpf())?;
        if !inputs.faults.is_empty() {
            error!("{}", inputs.faults);
        }
        let faults = inputs.faults.lines();
        let status = Status { pid: std::process::id(), faults, ..Status::default() };
        let mut daemon = Self {
            options,
            inputs: Arc::new(inputs),
            registry,
            ids,
            plane,
            maps,
            events,
            sizes,
            network,
            paths: Paths::default(),
            charon: None,
            status,
            last_written: None,
            signals,
        };
        daemon.reconcile().await?;
        Ok(daemon)
    }

    /// Runs until SIGTERM or SIGINT. The programs stay attached.
    pub async fn run(mut self) -> Result<()> {
        let mut supervisor = Supervisor::start(self.options.vici.clone());
        let mut due = Instant::now() + RECONCILE_INTERVAL;
        let mut not_before = Instant::now();
        loop {
            tokio::select! {
                notice = supervisor.next() => {
                    self.handle_notice(notice);
                    due = due.min((Instant::now() + DEBOUNCE).max(not_before));
                }
                () = self.network.changed() => {
                    due = due.min((Instant::now() + DEBOUNCE).max(not_before));
                }
                () = sleep_until(due) => {
                    let started = Instant::now();
                    let result = self.reconcile().await;
                    // Leave at least half of the time to other tasks, however often tunnels change.
                    not_before = Instant::now() + started.elapsed();
                    due = Instant::now() + match result {
                        Ok(true) => RECONCILE_INTERVAL,
                        Ok(false) => RETRY_INTERVAL,
                        Err(error) => {
                            error!("reconcile: {error:#}");
                            self.status.failed = vec![format!("{error:#}")];
                            let _ = self.status.write(&self.options.state);
                            RETRY_INTERVAL
                        }
                    };
                }
                _ = self.signals.hangup.recv() => {
                    self.reload().await;
                    due = Instant::now();
                }
                result = self.events.log(&self.ids) => if let Err(error) = result {
                    warn!("drop events: {error:#}");
                },
                _ = self.signals.terminate.recv() => break,
                _ = self.signals.interrupt.recv() => break,
            }
        }
        info!("stopping; the programs stay attached (`gatewayctl detach` removes them)");
        Ok(())
    }

    /// Handles a notice of the supervisor.
    fn handle_notice(&mut self, notice: Notice) {
        match notice {
            Notice::Connected(client) => {
                self.charon = Some(Connected { client, version: None, loaded: BTreeMap::new() });
            }
            Notice::Disconnected(error) => {
                warn!("charon is not connected, tunnels keep their state: {error:#}");
                self.charon = None;
            }
            Notice::Event(_) | Notice::Resync => {}
        }
    }

    /// Loads the authority and the private key into charon, once for each connection to it.
    async fn load_credentials(&mut self) -> Result<()> {
        let credentials = &self.inputs.credentials;
        let Some(connected) = &mut self.charon else { return Ok(()) };
        if connected.version.is_some() {
            return Ok(());
        }
        let client = &connected.client;
        let version = client.version().await?.version;
        client.load_authority("gateway", &credentials.authority).await.context("load the authority")?;
        client.load_key(&credentials.private_key).await.context("load the private key")?;
        info!(version, "charon is connected");
        connected.version = Some(version);
        Ok(())
    }

    /// Observes, plans and applies. Returns false if an action failed and needs a retry.
    async fn reconcile(&mut self) -> Result<bool> {
        let inputs = Arc::clone(&self.inputs);
        let gateway = &inputs.policy.gateway;
        let internet = Interface::look(gateway.internet.as_str())?;
        let lan = Interface::look(gateway.lan.as_str())?;
        let links = Links { internet: &internet, lan: &lan, xdp: self.plane.xdp() == XdpState::Native };
        let desired = desired(&inputs.policy, &self.ids, links, &inputs.credentials)?;
        let mut failed = Vec::new();
        let queried = match self.load_credentials().await {
            Ok(()) => self.query_charon(&desired).await,
            Err(error) => Err(error),
        };
        let (charon, sas) = queried.unwrap_or_else(|error| {
            warn!("charon: {error:#}");
            failed.push(format!("charon: {error:#}"));
            (None, Vec::new())
        });
        let observed = observe(&self.maps)?;
        let actions = plan(&desired, &observed, charon.as_ref());
        let client = self.charon.as_ref().map(|connected| connected.client.clone());
        let mut applied = 0usize;
        let connected = &mut self.charon;
        apply_all(&actions, &mut self.maps, client.as_ref(), |action, result| match result {
            Ok(()) => {
                applied += 1;
                if applied <= LOGGED_ACTIONS {
                    info!("{action}");
                }
                if let Some(connected) = connected {
                    connected.record(action);
                }
            }
            Err(error) => {
                error!("{error:#}");
                failed.push(format!("{error:#}"));
            }
        })
        .await;
        if let Some(more) = applied.checked_sub(LOGGED_ACTIONS).filter(|more| *more > 0) {
            info!("{more} more actions not logged");
        }
        // Attach after filling the maps, so that forwarding starts with complete maps. Never attach without
        // pins: `gatewayctl detach` removed them to stop forwarding.
        if self.options.pins.exist()
            && let Err(error) = self.plane.ensure(&internet, &lan, self.inputs.policy.has_v6_server())
        {
            error!("{error:#}");
            failed.push(format!("{error:#}"));
        }
        let succeeded = failed.is_empty();
        if !self.options.pins.exist() {
            failed.push(DETACHED.to_owned());
            if !self.status.failed.iter().any(|line| line == DETACHED) {
                warn!("{DETACHED}");
            }
        }
        self.status.failed = failed;
        self.status.xdp = match self.plane.xdp() {
            XdpState::Native => "native".into(),
            XdpState::Missing => "missing".into(),
        };
        if let Err(error) = self.write_status(&desired, charon.as_ref(), &sas) {
            warn!("{error:#}");
        }
        Ok(succeeded)
    }

    async fn query_charon(&mut self, desired: &Desired<'_>) -> Result<(Option<Charon>, Vec<IkeSa>)> {
        let Some(connected) = &self.charon else { return Ok((None, Vec::new())) };
        let (list, live) = self.list_sas(&connected.client, desired).await.context("list SAs")?;
        for fault in &list.faults {
            warn!("ignoring charon's SA {}: {}", fault.name, fault.reason);
        }
        let learnt = self.paths.learn(&self.network, live.peers.iter().map(|peer| (*peer).into())).await;
        let charon = Charon {
            loaded: connected.loaded.clone(),
            listed: connected.client.list_conns().await.context("list connections")?,
            ike_sas: list.sas.iter().map(|ike| (ike.unique_id, ike.name.clone())).collect(),
            live,
            mss: mss_of_sas(&desired.tunnels, &list.sas, &learnt),
        };
        for stranger in &charon.live.strangers {
            error!(tunnel = %stranger.tunnel, "SA of a stranger uses this tunnel's reqid: {}", stranger.reason);
        }
        Ok((Some(charon), list.sas))
    }

    /// Returns charon's SAs and the tunnel state derived from them. Lists a second time if a tunnel that was
    /// up is missing: while charon builds the list, it waits for an IKE_SA that is being rekeyed. The
    /// CHILD_SAs then move to a new IKE_SA at a position that the list has already passed (strongSwan,
    /// ike_rekey.c, `establish_new`). The second list contains the new IKE_SA.
    async fn list_sas(&self, client: &Client, desired: &Desired<'_>) -> Result<(SaList, Live)> {
        let list = client.list_sas().await?;
        let live = follow(&desired.tunnels, &list.sas);
        let tunnels = self.maps.tunnels()?;
        let up = tunnels.iter().filter(|(_, tunnel)| tunnel.up == 1).map(|(id, _)| *id);
        if !live.lost_any(up.filter(|id| desired.tunnels.contains_key(id))) {
            return Ok((list, live));
        }
        let list = client.list_sas().await?;
        let live = follow(&desired.tunnels, &list.sas);
        Ok((list, live))
    }

    fn write_status(&mut self, desired: &Desired, charon: Option<&Charon>, sas: &[IkeSa]) -> Result<()> {
        let status = &mut self.status;
        status.charon = self.charon.as_ref().and_then(|connected| connected.version.clone());
        status.strangers = charon.map_or_else(Vec::new, |charon| {
            let lines = charon.live.strangers.iter();
            lines.map(|stranger| format!("tunnel {}: {}", stranger.tunnel, stranger.reason)).collect()
        });
        status.tunnels = tunnel_statuses(&self.ids, desired, sas, &self.maps.tunnels()?);
        if self.last_written.as_ref() != Some(status) {
            status.write(&self.options.state)?;
            self.last_written = Some(status.clone());
        }
        Ok(())
    }

    /// Reads the policies again. Documents with faults keep their last valid state.
    async fn reload(&mut self) {
        let reload = policy::reload(&self.options.policy, Some(&self.inputs.policy));
        self.status.faults = reload.faults.lines();
        if !reload.faults.is_empty() {
            error!("policies have faults:\n{}", reload.faults);
        }
        let Some(mut policy) = reload.policy else { return };
        let max_percent = policy.gateway.max_removed_percent;
        if let Err(removals) = policy::check_removals(&self.inputs.policy, &policy, max_percent) {
            error!("{removals}");
            self.status.faults.push(removals.to_string());
            return;
        }
        let running = self.inputs.policy.gateway.limits;
        if policy.gateway.limits != running {
            let message = "[limits] changed: run `gatewayctl detach` and restart gatewayd to apply them";
            warn!("{message}");
            self.status.faults.push(message.to_owned());
            policy.gateway.limits = running;
        }
        if let Err(error) = self.adopt_policy(policy).await {
            error!("reload failed, the previous policies stay in force: {error:#}");
            self.status.faults.push(format!("{error:#}"));
        }
    }

    /// Puts a policy into force, or fails and keeps the previous one.
    async fn adopt_policy(&mut self, mut policy: Policy) -> Result<()> {
        let gateway = &self.inputs.policy.gateway;
        anyhow::ensure!(
            (&policy.gateway.internet, &policy.gateway.lan) == (&gateway.internet, &gateway.lan),
            "[interfaces] changed: restart gatewayd to apply them"
        );
        let (v4, v6) = policy.quotas();
        let capacity = (u64::from(self.sizes.flows), u64::from(self.sizes.flows6));
        anyhow::ensure!(
            v4 <= capacity.0 && v6 <= capacity.1,
            "the customers' quotas need {v4} IPv4 and {v6} IPv6 flows, but the tables hold {} and {}: \
             run `gatewayctl detach` and restart gatewayd to create larger tables",
            capacity.0,
            capacity.1
        );
        let credentials = self.read_credentials(&mut policy)?;
        self.ids = self.registry.assign(&policy)?;
        if credentials != self.inputs.credentials
            && let Some(connected) = &mut self.charon
        {
            // Forces `load_credentials` to load authority and key before the connections that need them.
            connected.version = None;
        }
        info!("policies reloaded: {} customers with {} sites", policy.customers.len(), policy.site_count());
        let previous = mem::replace(
            &mut self.inputs,
            Arc::new(Inputs { policy, credentials, faults: Faults::default() }),
        );
        if let Err(error) = self.apply_additions(&previous.policy).await {
            warn!("cannot apply the changes at once, reconciling everything instead: {error:#}");
        }
        Ok(())
    }

    /// Reads the credentials that the policy names. If they have faults, the previous ones stay in force, and
    /// the policy keeps naming them.
    fn read_credentials(&mut self, policy: &mut Policy) -> Result<Credentials> {
        let previous = &self.inputs.policy.gateway.ipsec;
        let check = policy::read_credentials(&policy.gateway, OffsetDateTime::now_utc());
        match check.credentials {
            Some(read) if check.faults.is_empty() => return Ok(loadable(read)),
            _ => error!("the previous credentials stay in force:\n{}", check.faults),
        }
        self.status.faults.extend(check.faults.lines());
        anyhow::ensure!(
            policy.gateway.ipsec.identity == previous.identity,
            "the gateway's identity changed, but there are no credentials for it"
        );
        policy.gateway.ipsec = previous.clone();
        Ok(self.inputs.credentials.clone())
    }

    /// Writes new and changed customers to the maps, in a time independent of the total number of customers.
    /// The next reconciliation does the rest. It also does everything if the policy lost a customer or site,
    /// because removals have to come first.
    async fn apply_additions(&mut self, previous: &Policy) -> Result<()> {
        let Inputs { policy, credentials, faults: _ } = &*self.inputs;
        let Some(changed) = policy.changes(previous).filter(|changed| !changed.is_empty()) else {
            return Ok(());
        };
        let internet = Interface::look(policy.gateway.internet.as_str())?;
        let lan = Interface::look(policy.gateway.lan.as_str())?;
        let links = Links { internet: &internet, lan: &lan, xdp: self.plane.xdp() == XdpState::Native };
        let desired = desired_of(policy, changed.into_iter(), &self.ids, links, credentials)?;
        let Some(actions) = plan_some(&desired, &observe_of(&self.maps, &desired)?) else { return Ok(()) };
        let mut result = Ok(());
        apply_all(&actions, &mut self.maps, None, |action, applied| match applied {
            Ok(()) => info!("{action}"),
            Err(error) => result = Err(error),
        })
        .await;
        result
    }
}

/// Returns the size of the IPv6 flow table. If the policy gives none, an existing table keeps its size as long
/// as it holds the quotas: a restart must not fail because IPv6 servers were added or removed before.
fn flows6_size(policy: &Policy, pins: &Pins) -> u32 {
    let (_, quotas) = policy.quotas();
    let existing = maps::pinned_size(pins, &map_list::FLOWS6).filter(|size| u64::from(*size) >= quotas);
    match (policy.gateway.limits.flows6, existing) {
        (None, Some(size)) => size,
        _ => policy.flows6(),
    }
}

fn tunnel_statuses(
    ids: &Assignment,
    desired: &Desired,
    sas: &[IkeSa],
    entries: &BTreeMap<TunnelId, Tunnel>,
) -> Vec<TunnelStatus> {
    let children: HashMap<u32, _> = sas
        .iter()
        .flat_map(|ike| ike.children.iter().map(move |child| (ike, child)))
        .filter(|(_, child)| child.state.is_up())
        .map(|(ike, child)| (child.reqid, (ike, child)))
        .collect();
    let mut tunnels = Vec::new();
    for (customer, customer_ids) in ids.iter() {
        for (site, id) in customer_ids.tunnels.iter().filter(|(_, id)| desired.tunnels.contains_key(id)) {
            let sa = children.get(&id.get());
            let entry = entries.get(id).copied().unwrap_or_default();
            tunnels.push(TunnelStatus {
                customer: customer.to_string(),
                site: site.to_string(),
                id: id.get(),
                up: entry.up == 1,
                peer: sa.map(|(ike, _)| SocketAddr::new(ike.remote_host, ike.remote_port).to_string()),
                cipher: sa.map(|(_, child)| child.algorithms.to_string()),
                encapsulated: sa.is_some_and(|(_, child)| child.encap),
                mss: (entry.v4.mss, entry.v6.mss),
            });
        }
    }
    tunnels
}
