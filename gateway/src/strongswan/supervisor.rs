//! Stays with charon over its restarts.

use std::{path::PathBuf, time::Duration};

use tokio::{
    sync::mpsc::{self, error::TrySendError},
    task::JoinHandle,
    time::sleep,
};

use super::{Client, Error, Event, Events};

/// Waiting between attempts to connect: doubles from the first to the second.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// Notices that wait for the caller.
const QUEUED_NOTICES: usize = 1024;

/// Keeps a [`Client`] and [`Events`] connected and tells the caller when to look again.
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

/// What a supervisor tells.
#[derive(Debug)]
pub enum Notice {
    /// charon is there. It may be a new one that knows nothing: load and list everything. Events from
    /// before the connection are lost, none after.
    Connected(Client),
    /// A hint.
    Event(Event),
    /// The caller was too slow and hints were dropped: list all SAs.
    Resync,
    /// charon is gone (or was never there); it is being tried again. Comes once, not for each attempt.
    Disconnected(Error),
}

impl Supervisor {
    /// Starts in the background and tries for ever. Must be called in a tokio runtime.
    #[must_use]
    pub fn start(path: PathBuf) -> Self {
        let (sender, notices) = mpsc::channel(QUEUED_NOTICES);
        Self { notices, task: tokio::spawn(supervise(path, sender)) }
    }

    /// The next notice. Safe to cancel.
    pub async fn next(&mut self) -> Notice {
        match self.notices.recv().await {
            Some(notice) => notice,
            // Does not happen: the task outlives this receiver, whose drop ends it.
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
    let mut backoff = BACKOFF.0;
    let mut told = false;
    loop {
        let error = match connect(&path).await {
            Ok((events, client)) => {
                if notices.send(Notice::Connected(client.clone())).await.is_err() {
                    return;
                }
                (backoff, told) = (BACKOFF.0, false);
                follow(events, client, &notices).await
            }
            Err(error) => error,
        };
        tracing::debug!(%error, "no charon");
        if !told && notices.send(Notice::Disconnected(error)).await.is_err() {
            return;
        }
        told = true;
        sleep(backoff).await;
        backoff = (backoff * 2).min(BACKOFF.1);
    }
}

/// Events first: whatever happens after the client is there is then heard of.
async fn connect(path: &std::path::Path) -> Result<(Events, Client), Error> {
    let events = Events::connect(path).await?;
    let client = Client::connect(path).await?;
    Ok((events, client))
}

/// Passes events on until either connection is gone; returns why.
async fn follow(mut events: Events, client: Client, notices: &mpsc::Sender<Notice>) -> Error {
    let mut lost = false;
    loop {
        let event = tokio::select! {
            event = events.next() => match event {
                Ok(event) => event,
                Err(error) => return error,
            },
            () = client.closed() => return Error::Closed,
            // Owed after hints were dropped, as soon as there is room.
            room = notices.reserve(), if lost => match room {
                Ok(room) => {
                    room.send(Notice::Resync);
                    lost = false;
                    continue;
                }
                Err(_) => return Error::Closed,
            },
        };
        // Never waits: a slow caller must not make charon's queue grow.
        match notices.try_send(Notice::Event(event)) {
            Ok(()) | Err(TrySendError::Closed(_)) => {}
            Err(TrySendError::Full(_)) => lost = true,
        }
    }
}
