//! The session with charon: a task of its own that gives charon its one connection, follows its SAs and carries out
//! orders. Nobody waits for it: it speaks through a queue of reports, and charon may hang.
use std::{fs, path::PathBuf, pin::pin, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use tokio::{
    sync::{Notify, mpsc, oneshot, watch},
    task::{JoinHandle, spawn_blocking},
    time::{Instant, sleep, sleep_until, timeout},
};
use tracing::{debug, info, warn};

use crate::{
    atomic,
    control::{
        bindings::{CONNECTION, Order},
        desired::Credentials,
    },
    kernel::xfrm::{Known, remove_unknown},
    strongswan::{Client, Connection, Error, Event, IkeSa, Loaded, Notice, Process, SaList, Supervisor},
};

/// Name of the authority in charon.
const AUTHORITY: &str = "gateway";
/// Interval of looks at what charon has loaded: another client may unload everything.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// Silence of charon that is reported.
const SILENCE: Duration = Duration::from_secs(2);
/// Shortest interval of lists of all SAs.
const AUDIT_INTERVAL: Duration = Duration::from_secs(10);
/// Factor by which the interval of lists exceeds the time that a list takes: charon spends at most 0.5 % of its time on
/// them, and gatewayd less, however many SAs there are. Events tell what happens in between.
pub const AUDIT_SHARE: u32 = 200;
/// Interval of attempts after a failure.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// Reports and orders that may wait.
const QUEUED: usize = 1024;

/// All that charon gets.
#[derive(Clone, PartialEq, Eq)]
pub struct Setup {
    /// Authority and private key.
    pub credentials: Credentials,
    /// The one connection.
    pub connection: Connection,
}

/// A report of the session. All reports come in one queue, in order.
#[derive(Debug)]
pub enum Report {
    /// charon is connected, with this version. It takes orders from the sender, as long as the connection lasts.
    Connected(String, mpsc::Sender<Order>),
    /// charon is a new process: every binding has to go, and then the sender to be used, before charon gets its connection.
    Anew(oneshot::Sender<()>),
    /// charon begins to list all SAs. Events after this may be newer than the list.
    Listing,
    /// All SAs.
    Listed(SaList),
    /// One IKE_SA, or none of this number.
    Looked(u32, SaList),
    /// SAs have changed.
    Event(Event),
    /// charon does not answer, or answers again.
    Answering(bool),
    /// Something of ours was not in charon any more and has been loaded again.
    Restored(String),
    /// The setup could not be loaded; or now it could.
    Failed(Option<String>),
    /// charon is not connected.
    Lost(String),
}

/// The session's other end.
pub struct Session {
    reports: mpsc::Receiver<Report>,
    setup: watch::Sender<Option<Arc<Setup>>>,
    resync: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Session {
    /// Starts the session. `record` is the file that tells which process charon was. Without a setup charon keeps what it
    /// has. Needs a tokio runtime.
    pub fn start(vici: PathBuf, record: PathBuf, setup: Option<Setup>) -> Self {
        let (sender, reports) = mpsc::channel(QUEUED);
        let (setup, watched) = watch::channel(setup.map(Arc::new));
        let resync = Arc::new(Notify::new());
        let parts = Parts { reports: sender, setup: watched, resync: resync.clone(), record };
        Self { reports, setup, resync, task: tokio::spawn(supervise(vici, parts)) }
    }

    /// Waits for the next report. Cancel safe.
    pub async fn next(&mut self) -> Report {
        match self.reports.recv().await {
            Some(report) => report,
            // Unreachable: the task runs until this receiver is dropped.
            None => std::future::pending().await,
        }
    }

    /// Has charon get this setup if it is another one.
    pub fn set_up(&self, setup: Setup) {
        self.setup.send_if_modified(|current| {
            let differs = current.as_deref() != Some(&setup);
            if differs {
                *current = Some(Arc::new(setup));
            }
            differs
        });
    }

    /// Asks for a list of all SAs.
    pub fn resync(&self) {
        self.resync.notify_one();
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The parts of the session that each connection to charon needs.
#[derive(Clone)]
struct Parts {
    reports: mpsc::Sender<Report>,
    setup: watch::Receiver<Option<Arc<Setup>>>,
    resync: Arc<Notify>,
    record: PathBuf,
}

/// Forwards events at once, whatever the commands of the connection wait for.
async fn supervise(vici: PathBuf, parts: Parts) {
    let mut supervisor = Supervisor::start(vici);
    let mut attending: Option<JoinHandle<()>> = None;
    loop {
        let report = match supervisor.next().await {
            Notice::Connected(client) => {
                attending.take().iter().for_each(JoinHandle::abort);
                attending = Some(tokio::spawn(attend(client, parts.clone())));
                continue;
            }
            Notice::Event(event) => Report::Event(event),
            Notice::Resync => {
                parts.resync.notify_one();
                continue;
            }
            Notice::Disconnected(error) => {
                attending.take().iter().for_each(JoinHandle::abort);
                Report::Lost(format!("{:#}", anyhow::Error::new(error)))
            }
        };
        if parts.reports.send(report).await.is_err() {
            return;
        }
    }
}

/// Attends to one connection until it is gone or the task is aborted.
async fn attend(client: Client, parts: Parts) {
    loop {
        let mut attendant =
            Attendant { client: client.clone(), parts: parts.clone(), key: None, former_key: None };
        let Err(error) = attendant.run().await;
        let failed = Report::Failed(Some(format!("{error:#}")));
        if parts.reports.send(failed).await.is_err() {
            return;
        }
        tokio::select! {
            () = client.closed() => return,
            () = sleep(RETRY_INTERVAL) => {}
        }
    }
}

/// One connection to charon.
struct Attendant {
    client: Client,
    parts: Parts,
    /// The id of the private key in charon, once the whole setup is loaded.
    key: Option<String>,
    /// The id of the key before it, if a later setup was refused: to be unloaded once one is loaded.
    former_key: Option<String>,
}

/// Never: an attendant runs until an error.
enum Never {}

impl Attendant {
    async fn run(&mut self) -> Result<Never> {
        let version = self.client.version().await?.version;
        let (sender, mut orders) = mpsc::channel(QUEUED);
        self.report(Report::Connected(version, sender)).await?;
        self.clear_away().await.context("remove what an earlier charon has left")?;
        self.load().await?;
        let mut audit_due = self.audit().await?;
        let mut look_due = Instant::now() + LOOK_INTERVAL;
        loop {
            tokio::select! {
                order = orders.recv() => match order {
                    Some(order) => self.execute(order).await?,
                    None => std::future::pending().await,
                },
                changed = self.parts.setup.changed() => {
                    changed?;
                    self.load().await?;
                }
                () = sleep_until(look_due) => {
                    self.look().await?;
                    look_due = Instant::now() + LOOK_INTERVAL;
                }
                () = self.parts.resync.notified() => audit_due = self.audit().await?,
                () = sleep_until(audit_due) => audit_due = self.audit().await?,
            }
        }
    }

    async fn report(&self, report: Report) -> Result<()> {
        self.parts.reports.send(report).await.context("gatewayd ends")
    }

    /// If charon is another process than the last one: has every binding removed, then removes from the kernel what this
    /// charon does not know. A new charon counts reqids and marks from 1 again, and has no SA of ours before it gets our
    /// connection, so nothing of its own is touched.
    async fn clear_away(&mut self) -> Result<()> {
        let process = self.client.process();
        let last = fs::read_to_string(&self.parts.record).ok().and_then(|text| text.parse::<Process>().ok());
        if last.is_some() && process == last {
            return Ok(());
        }
        if self.client.loaded().await?.connections.iter().any(|name| name == CONNECTION) {
            // The record is lost or older, but charon has the connection, which it gets only after this: it is the last
            // one, and its SAs are in use.
            self.record(process);
            return Ok(());
        }
        let (cleared, wait) = oneshot::channel();
        self.report(Report::Anew(cleared)).await?;
        wait.await.context("gatewayd ends")?;
        // SAs of other connections have reqids and marks that the connection's SAs will get, too.
        let (own, foreign): (Vec<_>, Vec<_>) =
            self.client.list_sas().await?.sas.into_iter().partition(|ike| ike.name == CONNECTION);
        for ike in foreign {
            warn!(
                "ending IKE_SA {} of the connection {:?}, which is not gatewayd's",
                ike.unique_id, ike.name
            );
            self.terminate_ike(ike.unique_id).await?;
        }
        let known = known(&own);
        let (removed_sas, removed_policies) = spawn_blocking(move || remove_unknown(&known)).await??;
        info!(
            removed_sas,
            removed_policies, "charon is a new process: what an earlier one has left is removed"
        );
        self.record(process);
        Ok(())
    }

    /// Remembers which process charon is. If that is not known, `clear_away` recognises a charon by its connection.
    fn record(&self, process: Option<Process>) {
        let written = process
            .map_or(Ok(()), |process| atomic::write(&self.parts.record, process.to_string().as_bytes()));
        if let Err(error) = written {
            warn!("cannot write {}: {error}", self.parts.record.display());
        }
    }

    /// Loads the whole setup. If charon refuses a part of it, or there is none, what it has had before stays, and the next
    /// look tries again.
    async fn load(&mut self) -> Result<()> {
        let Some(setup) = self.parts.setup.borrow_and_update().clone() else { return Ok(()) };
        let before = self.key.take().or_else(|| self.former_key.take());
        let failed = match load(&self.client, &setup).await {
            Ok(key) => {
                if let Some(before) = before.filter(|before| *before != key) {
                    unless_refused(self.client.unload_key(&before).await)?;
                }
                self.key = Some(key);
                None
            }
            Err(error @ (Error::Refused { .. } | Error::Invalid { .. })) => {
                self.former_key = before;
                Some(format!("{:#}", anyhow::Error::new(error)))
            }
            Err(error) => return Err(error.into()),
        };
        self.report(Report::Failed(failed)).await
    }

    /// Compares what charon has loaded with the setup: loads again what is missing, and unloads connections and private
    /// keys that are not ours, as a key that was renewed while gatewayd was not running.
    async fn look(&mut self) -> Result<()> {
        let loaded = self.loaded().await?;
        for name in loaded.connections.iter().filter(|name| *name != CONNECTION) {
            warn!(connection = name.as_str(), "unloading a connection that is not gatewayd's");
            unless_refused(self.client.unload_conn(name).await)?;
        }
        // Unless a setup was refused: its key may be the one that charon still needs.
        let own = self.key.as_ref().filter(|_| self.former_key.is_none());
        for key in loaded.keys.iter().filter(|key| own.is_some_and(|own| own != *key)) {
            warn!("unloading a private key that is not gatewayd's");
            unless_refused(self.client.unload_key(key).await)?;
        }
        let has = |names: &[String], wanted: &str| names.iter().any(|name| name == wanted);
        let missing: Vec<&str> = [
            ("connection", has(&loaded.connections, CONNECTION)),
            ("authority", has(&loaded.authorities, AUTHORITY)),
            ("private key", self.key.as_ref().is_some_and(|key| has(&loaded.keys, key))),
        ]
        .into_iter()
        .filter_map(|(what, found)| (!found).then_some(what))
        .collect();
        if missing.is_empty() {
            return Ok(());
        }
        if self.key.is_some() {
            let what = missing.join(", ");
            warn!("another client has unloaded the {what}: loading again");
            self.report(Report::Restored(what)).await?;
        }
        self.load().await
    }

    /// Asks what charon has loaded, and reports when it does not answer.
    async fn loaded(&self) -> Result<Loaded> {
        let mut answer = pin!(self.client.loaded());
        if let Ok(answer) = timeout(SILENCE, &mut answer).await {
            return Ok(answer?);
        }
        self.report(Report::Answering(false)).await?;
        let answer = answer.await?;
        self.report(Report::Answering(true)).await?;
        Ok(answer)
    }

    /// Lists all SAs and returns the time of the next list.
    async fn audit(&self) -> Result<Instant> {
        let started = Instant::now();
        self.report(Report::Listing).await?;
        let list = self.client.list_sas().await?;
        self.report(Report::Listed(list)).await?;
        Ok(Instant::now() + (started.elapsed() * AUDIT_SHARE).max(AUDIT_INTERVAL))
    }

    /// Carries out an order. If charon refuses it, as for an SA that is gone already, the next list shows the SA again if
    /// it is still there.
    async fn execute(&self, order: Order) -> Result<()> {
        match order {
            Order::TerminateIke { unique_id, reason } => {
                debug!("ending IKE_SA {unique_id}: {reason}");
                self.terminate_ike(unique_id).await
            }
            Order::TerminateChild { unique_id, reason } => {
                debug!("ending CHILD_SA {unique_id}: {reason}");
                unless_refused(self.client.terminate_child(unique_id).await)
            }
            Order::Look(unique_id) => {
                let list = self.client.list_sa(unique_id).await?;
                self.report(Report::Looked(unique_id, list)).await
            }
        }
    }

    async fn terminate_ike(&self, unique_id: u32) -> Result<()> {
        unless_refused(self.client.terminate_ike(unique_id).await)
    }
}

/// Takes a refusal as done.
fn unless_refused(result: Result<(), Error>) -> Result<()> {
    match result {
        Err(Error::Refused { reason, .. }) => {
            debug!("charon: {reason}");
            Ok(())
        }
        result => Ok(result?),
    }
}

/// Loads everything and returns the id of the private key.
async fn load(client: &Client, setup: &Setup) -> Result<String, Error> {
    client.load_authority(AUTHORITY, &setup.credentials.authority).await?;
    let key = client.load_key(&setup.credentials.private_key).await?;
    client.load_conn(&setup.connection).await?;
    Ok(key)
}

/// Returns what identifies charon's SAs in the kernel.
fn known(sas: &[IkeSa]) -> Known {
    let mut known = Known::default();
    for child in sas.iter().flat_map(|ike| &ike.children) {
        known.spis.extend(child.spi_in.into_iter().chain(child.spi_out));
        known.marks.extend([child.mark_in, child.mark_out].into_iter().filter(|mark| *mark != 0));
    }
    known
}
