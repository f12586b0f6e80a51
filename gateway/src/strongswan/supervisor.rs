//! Keeps charon connected across its restarts.

use std::{path::PathBuf, time::Duration};

use tokio::{
    sync::mpsc::{self, error::TrySendError},
    task::JoinHandle,
    time::sleep,
};

use super::{
    error::Error,
    events::{Event, Events},
    operations::Client,
};

/// First delay between attempts to connect. It doubles with every attempt.
const MIN_BACKOFF: Duration = Duration::from_millis(100);
/// Longest delay between attempts to connect.
const MAX_BACKOFF: Duration = Duration::from_secs(5);
/// Notices queued for the caller.
const QUEUED_NOTICES: usize = 1024;

/// Keeps a [`Client`] and [`Events`] connected and notifies the caller of changes.
///
/// ```no_run
/// # async fn follow() {
/// use gateway::strongswan::{DEFAULT_SOCKET, Notice, Supervisor};
/// let mut charon = Supervisor::start(DEFAULT_SOCKET.into());
/// loop {
///     match charon.next().await {
///         Notice::Connected(client) => { /* load everything, list_sas, keep the client */ }
///         Notice::Event(event) => { /* list_sas soon */ }
///         Notice::Resync => { /* list_sas: hints were lost */ }
///         Notice::Disconnected(error) => { /* forget the client; SAs of the old charon may live on */ }
///     }
/// }
/// # }
/// ```
#[derive(Debug)]
pub struct Supervisor {
    notices: mpsc::Receiver<Notice>,
    task: JoinHandle<()>,
}

/// A notice from the supervisor.
#[derive(Debug)]
pub enum Notice {
    /// charon is connected. It may be a new process without any configuration: load and list everything.
    /// Events from before the connection are lost, later ones are not.
    Connected(Client),
    /// A hint that SAs have changed.
    Event(Event),
    /// The caller was too slow and the supervisor dropped hints: list all SAs.
    Resync,
    /// charon is not connected, and the supervisor keeps trying. Sent once, not for every attempt.
    Disconnected(Error),
}

impl Supervisor {
    /// Starts a background task that tries to connect forever. Needs a tokio runtime.
    #[must_use]
    pub fn start(path: PathBuf) -> Self {
        let (sender, notices) = mpsc::channel(QUEUED_NOTICES);
        Self { notices, task: tokio::spawn(supervise(path, sender)) }
    }

    /// Waits for the next notice. Cancel safe.
    pub async fn next(&mut self) -> Notice {
        match self.notices.recv().await {
            Some(notice) => notice,
            // Unreachable: the task runs until this receiver is dropped.
            None => std::future::pending().await,
        }
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn supervise(path: PathBuf, notices: mpsc::Sender<Notice>) {
    let mut backoff = MIN_BACKOFF;
    let mut disconnect_reported = false;
    loop {
        let error = match connect(&path).await {
            Ok((events, client)) => {
                if notices.send(Notice::Connected(client.clone())).await.is_err() {
                    return;
                }
                (backoff, disconnect_reported) = (MIN_BACKOFF, false);
                follow(events, client, &notices).await
            }
            Err(error) => error,
        };
        tracing::debug!(%error, "charon is not connected");
        if !disconnect_reported && notices.send(Notice::Disconnected(error)).await.is_err() {
            return;
        }
        disconnect_reported = true;
        sleep(backoff).await;
        backoff = (backoff * 2).min(MAX_BACKOFF);
    }
}

/// Connects the events first, so that no change after the client's connection is missed.
async fn connect(path: &std::path::Path) -> Result<(Events, Client), Error> {
    let events = Events::connect(path).await?;
    let client = Client::connect(path).await?;
    Ok((events, client))
}

/// Forwards events until either connection is gone, and returns the reason.
async fn follow(mut events: Events, client: Client, notices: &mpsc::Sender<Notice>) -> Error {
    let mut lost = false;
    loop {
        let event = tokio::select! {
            event = events.next() => match event {
                Ok(event) => event,
                Err(error) => return error,
            },
            () = client.closed() => return Error::Closed,
            // After dropped hints, send a resync as soon as the queue has room.
            room = notices.reserve(), if lost => match room {
                Ok(room) => {
                    room.send(Notice::Resync);
                    lost = false;
                    continue;
                }
                Err(_) => return Error::Closed,
            },
        };
        // Never wait here: a slow caller must not make charon's queue grow.
        match notices.try_send(Notice::Event(event)) {
            Ok(()) | Err(TrySendError::Closed(_)) => {}
            Err(TrySendError::Full(_)) => lost = true,
        }
    }
}
