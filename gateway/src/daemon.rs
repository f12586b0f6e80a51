//! gatewayd: starts the data plane, then keeps maps and charon as the policy says, for ever.
use std::{
    collections::{BTreeMap, HashMap},
    fs, mem,
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result};
use gateway_common::{ids::TunnelId, layout::{Tunnel, map_list}};
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
    policy::{self, Gateway, Policy},
    registry::{Assignment, Registry},
    strongswan::{Client, IkeSa, Notice, SaList, Supervisor},
};

/// How often maps, interfaces and charon are compared with the policy when nothing happens.
const RECONCILE_INTERVAL: Duration = Duration::from_secs(10);
/// How long to wait for more events before reconciling once for all of them.
const DEBOUNCE: Duration = Duration::from_millis(10);
/// How often to retry what failed.
const RETRY: Duration = Duration::from_secs(1);
/// How many actions of one plan are logged, one by one: enough to follow changes, and no more than a start
/// with many customers can wait for.
const LOGGED_ACTIONS: usize = 1000;

/// What is said after somebody has taken the pins away: trying again would undo what they wanted.
const DETACHED: &str = "detached: nothing is forwarded until gatewayd is started again";

/// Where things are.
#[derive(Clone, Debug)]
pub struct Options {
    /// The folder of policies.
    pub policy: PathBuf,
    /// What must outlive a restart: ids, and the status.
    pub state: PathBuf,
    /// charon's VICI socket.
    pub vici: PathBuf,
    /// Pinned links and maps.
    pub pins: Pins,
}

/// A policy with what it names outside itself.
pub struct Inputs {
    policy: Policy,
    credentials: Credentials,
}

impl Inputs {
    /// Reads policies and secrets. All faults at once.
    pub fn load(options: &Options) -> Result<Self, policy::Faults> {
        let policy = policy::load(&options.policy)?;
        let credentials = credentials(&policy.gateway)?;
        Ok(Self { policy, credentials })
    }

    /// How many sites and customers there are.
    pub fn describe(&self) -> String {
        let (customers, sites) = (self.policy.customers.len(), self.policy.site_count());
        format!("{customers} customers with {sites} sites")
    }
}

/// The files that `gateway.toml` names.
fn credentials(gateway: &Gateway) -> Result<Credentials, policy::Faults> {
    let faults = policy::check_secrets(gateway);
    if !faults.is_empty() {
        return Err(faults);
    }
    let read = |path: &PathBuf| fs::read(path).map_err(|error| policy::unreadable(path, &error));
    Ok(Credentials {
        certificate: read(&gateway.ipsec.certificate)?.into(),
        private_key: read(&gateway.ipsec.private_key)?,
        authority: read(&gateway.ipsec.authority)?.into(),
    })
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
    /// Of the tables, as they were made.
    sizes: Sizes,
    network: Network,
    paths: Paths,
    charon: Option<Connected>,
    status: Status,
    written: Option<Status>,
    signals: Signals,
}

/// The signals we understand; taken early, since an untaken SIGHUP ends a process.
struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn take() -> Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }
}

/// charon, while we are connected.
struct Connected {
    client: Client,
    /// Known once it has our authority and key.
    version: Option<String>,
    /// Connections we loaded into it.
    loaded: BTreeMap<String, crate::strongswan::Connection>,
}

impl Connected {
    /// What it knows after an action.
    fn remember(&mut self, action: &Action) {
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
    /// Attaches the programs, or takes over those that are attached, with all that is in the maps.
    /// Nothing is forwarded before all of them are.
    pub async fn start(options: Options, inputs: Inputs) -> Result<Self> {
        let gateway = &inputs.policy.gateway;
        let (internet, lan) = (gateway.internet.to_string(), gateway.lan.to_string());
        let signals = Signals::take()?;
        // Before the first look: what changes after it is told.
        let network = Network::open()?;
        let now = (Interface::look(&internet)?, Interface::look(&lan)?);
        fs::create_dir_all(&options.state).with_context(|| format!("create {}", options.state.display()))?;
        let mut registry = Registry::open(options.state.join("ids.toml"))?;
        let ids = registry.assign(&inputs.policy)?;

        let limits = gateway.limits;
        let sizes = Sizes {
            tunnels: limits.tunnels,
            customers: limits.customers,
            flows: limits.flows,
            flows6: flows6(&inputs.policy, &options.pins),
        };
        let mut plane = DataPlane::start(&options.pins, sizes, &now.0, &now.1)?;
        let maps = Maps::open(&options.pins)?;
        let events = Events::open(&options.pins, plane.ebpf())?;
        let status = Status { pid: std::process::id(), ..Status::default() };
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
            written: None,
            signals,
        };
        daemon.reconcile().await?;
        Ok(daemon)
    }

    /// Until a signal says otherwise. The programs stay attached.
    pub async fn run(mut self) -> Result<()> {
        let mut supervisor = Supervisor::start(self.options.vici.clone());
        let mut due = Instant::now() + RECONCILE_INTERVAL;
        let mut rest_until = Instant::now();
        loop {
            tokio::select! {
                notice = supervisor.next() => {
                    self.notice(notice).await;
                    due = due.min((Instant::now() + DEBOUNCE).max(rest_until));
                }
                () = self.network.changed() => {
                    due = due.min((Instant::now() + DEBOUNCE).max(rest_until));
                }
                () = sleep_until(due) => {
                    let begun = Instant::now();
                    let done = self.reconcile().await;
                    // However often tunnels come and go, at least half of the time is for the rest.
                    rest_until = Instant::now() + begun.elapsed();
                    due = Instant::now() + match done {
                        Ok(true) => RECONCILE_INTERVAL,
                        Ok(false) => RETRY,
                        Err(error) => {
                            error!("reconcile: {error:#}");
                            self.status.failed = vec![format!("{error:#}")];
                            let _ = self.status.write(&self.options.state);
                            RETRY
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
        info!("ending; the programs stay attached (`gatewayctl detach` removes them)");
        Ok(())
    }

    /// What charon, or the way to it, tells.
    async fn notice(&mut self, notice: Notice) {
        match notice {
            Notice::Connected(client) => {
                self.charon = Some(Connected { client, version: None, loaded: BTreeMap::new() });
            }
            Notice::Disconnected(error) => {
                warn!("charon is not connected, tunnels stay as they are: {error:#}");
                self.charon = None;
            }
            Notice::Event(_) | Notice::Resync => {}
        }
    }

    /// Loads what does not depend on sites into a charon that may know nothing.
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

    /// Compares, plans, applies. Ok(false) if something failed and is to be tried again.
    async fn reconcile(&mut self) -> Result<bool> {
        let inputs = Arc::clone(&self.inputs);
        let gateway = &inputs.policy.gateway;
        let internet = Interface::look(gateway.internet.as_str())?;
        let lan = Interface::look(gateway.lan.as_str())?;
        let links = Links { internet: &internet, lan: &lan, xdp: self.plane.xdp() == XdpState::Native };
        let desired = desired(&inputs.policy, &self.ids, links, &inputs.credentials)?;
        let mut failed = Vec::new();
        let seen = match self.load_credentials().await {
            Ok(()) => self.look_at_charon(&desired).await,
            Err(error) => Err(error),
        };
        let (charon, sas) = seen.unwrap_or_else(|error| {
            warn!("charon: {error:#}");
            failed.push(format!("charon: {error:#}"));
            (None, Vec::new())
        });
        let observed = observe(&self.maps)?;
        let actions = plan(&desired, &observed, charon.as_ref());
        let client = self.charon.as_ref().map(|connected| connected.client.clone());
        let mut applied = 0usize;
        let charon_now = &mut self.charon;
        apply_all(&actions, &mut self.maps, client.as_ref(), |action, result| match result {
            Ok(()) => {
                applied += 1;
                if applied <= LOGGED_ACTIONS {
                    info!("{action}");
                }
                if let Some(connected) = charon_now {
                    connected.remember(action);
                }
            }
            Err(error) => {
                error!("{error:#}");
                failed.push(format!("{error:#}"));
            }
        })
        .await;
        if let Some(more) = applied.checked_sub(LOGGED_ACTIONS).filter(|more| *more > 0) {
            info!("and {more} actions more");
        }
        // After the maps: forwarding comes on only when they are filled in. Never without pins: they
        // are gone because somebody wants nothing to be forwarded.
        if self.options.pins.exist()
            && let Err(error) = self.plane.ensure(&internet, &lan, self.inputs.policy.has_v6_server())
        {
            error!("{error:#}");
            failed.push(format!("{error:#}"));
        }
        let done = failed.is_empty();
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
        if let Err(error) = self.report(&desired, charon.as_ref(), &sas) {
            warn!("{error:#}");
        }
        Ok(done)
    }

    async fn look_at_charon(&mut self, desired: &Desired<'_>) -> Result<(Option<Charon>, Vec<IkeSa>)> {
        let Some(connected) = &self.charon else { return Ok((None, Vec::new())) };
        let (list, live) = self.list_sas(&connected.client, desired).await.context("list SAs")?;
        for fault in &list.faults {
            warn!("charon's SA {} is left out: {}", fault.name, fault.reason);
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
            error!(tunnel = %stranger.tunnel, "a stranger's SA has this tunnel's reqid: {}", stranger.what);
        }
        Ok((Some(charon), list.sas))
    }

    /// charon's SAs, and what they say of the tunnels. A list waits for an IKE_SA that is being rekeyed, whose
    /// CHILD_SAs then belong to a new one, and that one stands where the list has passed already
    /// (strongSwan, ike_rekey.c, `establish_new`). So what was up and is missing is asked for once more: now the
    /// new one is there.
    async fn list_sas(&self, client: &Client, desired: &Desired<'_>) -> Result<(SaList, Live)> {
        let list = client.list_sas().await?;
        let live = follow(&desired.tunnels, &list.sas);
        let tunnels = self.maps.tunnels()?;
        let up = tunnels.iter().filter(|(_, tunnel)| tunnel.up == 1).map(|(id, _)| *id);
        if !live.lacks(up.filter(|id| desired.tunnels.contains_key(id))) {
            return Ok((list, live));
        }
        let list = client.list_sas().await?;
        let live = follow(&desired.tunnels, &list.sas);
        Ok((list, live))
    }

    fn report(&mut self, desired: &Desired, charon: Option<&Charon>, sas: &[IkeSa]) -> Result<()> {
        let status = &mut self.status;
        status.charon = self.charon.as_ref().and_then(|connected| connected.version.clone());
        status.strangers = charon.map_or_else(Vec::new, |charon| {
            let lines = charon.live.strangers.iter();
            lines.map(|stranger| format!("tunnel {}: {}", stranger.tunnel, stranger.what)).collect()
        });
        status.tunnels = tunnels(&self.ids, desired, sas, &self.maps.tunnels()?);
        if self.written.as_ref() != Some(status) {
            status.write(&self.options.state)?;
            self.written = Some(status.clone());
        }
        Ok(())
    }

    /// Reads the policies again; whatever is wrong in them, what worked goes on.
    async fn reload(&mut self) {
        let reload = policy::reload(&self.options.policy, Some(&self.inputs.policy));
        self.status.faults = reload.faults.iter().map(ToString::to_string).collect();
        if !reload.faults.is_empty() {
            error!("policies have faults:\n{}", reload.faults);
        }
        let Some(mut policy) = reload.policy else { return };
        let running = self.inputs.policy.gateway.limits;
        if policy.gateway.limits != running {
            let told = "[limits] changed: it takes effect after `gatewayctl detach` and a restart";
            warn!("{told}");
            self.status.faults.push(told.to_owned());
            policy.gateway.limits = running;
        }
        if let Err(error) = self.take(policy).await {
            error!("the policies stay as they were: {error:#}");
            self.status.faults.push(format!("{error:#}"));
        }
    }

    async fn take(&mut self, policy: Policy) -> Result<()> {
        let gateway = &self.inputs.policy.gateway;
        anyhow::ensure!(
            (&policy.gateway.internet, &policy.gateway.lan) == (&gateway.internet, &gateway.lan),
            "[interfaces] changed, which needs a restart of gatewayd"
        );
        let (v4, v6) = policy.quotas();
        let room = (u64::from(self.sizes.flows), u64::from(self.sizes.flows6));
        anyhow::ensure!(
            v4 <= room.0 && v6 <= room.1,
            "the customers' quotas are {v4} IPv4 and {v6} IPv6 flows, and the tables have room for {} and {}: \
             larger ones are made after `gatewayctl detach` and a restart",
            room.0,
            room.1
        );
        let credentials = credentials(&policy.gateway)?;
        self.ids = self.registry.assign(&policy)?;
        if credentials != self.inputs.credentials
            && let Some(connected) = &mut self.charon
        {
            // Authority and key go into charon before the connections that need them.
            connected.version = None;
        }
        info!("policies reloaded: {} customers with {} sites", policy.customers.len(), policy.site_count());
        let older = mem::replace(&mut self.inputs, Arc::new(Inputs { policy, credentials }));
        if let Err(error) = self.apply_additions(&older.policy).await {
            warn!("what changed comes into force with all the rest: {error:#}");
        }
        Ok(())
    }

    /// Brings what is new in the policy into the maps, in a time that does not depend on how many customers
    /// there are. The reconciliation that follows does the rest. Where something is gone, what is gone has
    /// to go first, and all is left to that.
    async fn apply_additions(&mut self, older: &Policy) -> Result<()> {
        let Inputs { policy, credentials } = &*self.inputs;
        let Some(changed) = policy.changes(older).filter(|changed| !changed.is_empty()) else {
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

/// IPv6 flows that there is to be room for. If nobody wrote it down, a table that is there already stays
/// as long as it holds the quotas: a restart must not fail because IPv6 servers came or went before.
fn flows6(policy: &Policy, pins: &Pins) -> u32 {
    let (_, quotas) = policy.quotas();
    let there = maps::pinned_size(pins, &map_list::FLOWS6).filter(|there| u64::from(*there) >= quotas);
    match (policy.gateway.limits.flows6, there) {
        (None, Some(there)) => there,
        _ => policy.flows6(),
    }
}

fn tunnels(
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
