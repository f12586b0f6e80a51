//! One VICI connection for commands, owned by a task.
//!
//! VICI has no request numbers: an answer belongs to the last request. The task therefore reads the answer to
//! every request it has written, even if the caller is gone (a dropped future, a lost `select!`). Any event
//! that leaves the state of the connection unknown (timeout, malformed frame, EOF) closes it, which at once
//! fails the running command and all queued ones.

use std::{path::Path, time::Duration};

use futures::{SinkExt, StreamExt};
use tokio::{
    net::UnixStream,
    sync::{mpsc, oneshot},
    time::timeout,
};
use tokio_util::codec::{Framed, LengthDelimitedCodec};

use super::{
    error::Error,
    frame,
    message::Message,
    packet::{self, Packet},
};
use crate::process::Process;

pub(super) type Frames = Framed<UnixStream, LengthDelimitedCodec>;

/// Timeout of connecting and registering, which charon answers at once.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Commands queued behind the running one.
const QUEUED_REQUESTS: usize = 64;
/// Bound on the output of one streamed command. An IKE_SA with one CHILD_SA takes about 1.5 KiB.
const MAX_STREAM_BYTES: usize = 512 * 1024 * 1024;

/// A handle to a connection. Clones share the connection, which closes with the last clone.
#[derive(Debug, Clone)]
pub(super) struct Transport {
    requests: mpsc::Sender<Request>,
    process: Option<Process>,
}

/// One command.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) command: &'static str,
    /// Encoded arguments.
    pub(super) message: Vec<u8>,
    /// The event that streams the command's results, and the receiver of the results.
    pub(super) stream: Option<(&'static str, mpsc::Sender<Message>)>,
    /// Timeout of the whole command, including its stream.
    pub(super) timeout: Duration,
    pub(super) reply: oneshot::Sender<Result<Message, Error>>,
}

impl Transport {
    /// Connects, registers for the events `streams` and starts the task. Needs a tokio runtime.
    pub(super) async fn connect(path: &Path, streams: &[&'static str]) -> Result<Self, Error> {
        let mut frames = open(path).await?;
        for event in streams {
            // Streamed events come only during their command.
            register(&mut frames, event, |_, _| Err(Error::malformed("event before any command"))).await?;
        }
        let process = frames.get_ref().peer_cred().ok().and_then(|peer| Process::of(peer.pid()?));
        let (requests, queue) = mpsc::channel(QUEUED_REQUESTS);
        tokio::spawn(run(frames, queue));
        Ok(Self { requests, process })
    }

    /// Returns the process at the other end, if it can be told.
    pub(super) fn process(&self) -> Option<Process> {
        self.process
    }

    /// Hands a request to the task. If the connection closes later, the task drops the request's reply sender.
    pub(super) async fn send(&self, request: Request) -> Result<(), Error> {
        self.requests.send(request).await.map_err(|_| Error::Closed)
    }

    /// Waits until the connection is closed, idle or not.
    pub(super) async fn closed(&self) {
        self.requests.closed().await;
    }
}

/// Connects to the socket and checks the user that listens on it.
pub(super) async fn open(path: &Path) -> Result<Frames, Error> {
    let connect = |source| Error::Connect { path: path.to_owned(), source };
    let stream = timeout(HANDSHAKE_TIMEOUT, UnixStream::connect(path))
        .await
        .map_err(|_| Error::Timeout { command: "connect", after: HANDSHAKE_TIMEOUT })?
        .map_err(connect)?;
    let uid = stream.peer_cred().map_err(connect)?.uid();
    if uid != 0 && uid != nix::unistd::geteuid().as_raw() {
        return Err(Error::ForeignPeer { path: path.to_owned(), uid });
    }
    Ok(Framed::new(stream, frame::codec()))
}

/// Registers for one event. Events that arrive before the confirmation go to `early`.
pub(super) async fn register(
    frames: &mut Frames,
    event: &'static str,
    mut early: impl FnMut(String, Message) -> Result<(), Error>,
) -> Result<(), Error> {
    let exchange = async {
        frames.send(packet::register(event)?).await?;
        loop {
            match next(frames).await? {
                Packet::EventConfirm => return Ok(()),
                Packet::UnknownEvent => return Err(Error::Unknown(event)),
                Packet::Event { name, message } => early(name, message)?,
                _ => return Err(Error::malformed("response without a request")),
            }
        }
    };
    timeout(HANDSHAKE_TIMEOUT, exchange)
        .await
        .map_err(|_| Error::Timeout { command: "register", after: HANDSHAKE_TIMEOUT })?
}

/// Reads the next packet. Cancel safe: a partial frame stays in the buffer.
pub(super) async fn next(frames: &mut Frames) -> Result<Packet, Error> {
    let frame = frames.next().await.ok_or(Error::Closed)??;
    Packet::parse(frame.freeze())
}

async fn run(mut frames: Frames, mut queue: mpsc::Receiver<Request>) {
    loop {
        let request = tokio::select! {
            request = queue.recv() => request,
            // charon sends nothing on an idle connection, so this is EOF or a violation.
            unsolicited = next(&mut frames) => {
                match unsolicited {
                    Err(Error::Closed) => {}
                    other => tracing::warn!(?other, "unexpected VICI packet, closing the connection"),
                }
                return;
            }
        };
        let Some(request) = request else { return };
        let (outcome, usable) = match serve(&mut frames, &request).await {
            Ok(outcome) => (outcome, true),
            Err(error) => (Err(error), false),
        };
        // The caller may be gone; the answer was read all the same.
        let _ = request.reply.send(outcome);
        if !usable {
            return;
        }
    }
}

/// Runs one command. The outer error closes the connection, the inner one concerns this command only.
async fn serve(frames: &mut Frames, request: &Request) -> Result<Result<Message, Error>, Error> {
    let packet = match packet::request(request.command, &request.message) {
        Ok(packet) => packet,
        Err(error) => return Ok(Err(error)),
    };
    let exchange = async {
        frames.send(packet).await?;
        let mut streamed_bytes = 0_usize;
        loop {
            match (next(frames).await?, &request.stream) {
                (Packet::Response(message), _) => return Ok(Ok(message)),
                (Packet::UnknownCommand, _) => return Ok(Err(Error::Unknown(request.command))),
                (Packet::Event { name, message }, Some((event, sink))) if name == *event => {
                    streamed_bytes += message.bytes();
                    if streamed_bytes > MAX_STREAM_BYTES {
                        return Err(Error::malformed(format!("stream beyond {MAX_STREAM_BYTES} bytes")));
                    }
                    // Read the stream to its end even if the caller is gone.
                    let _ = sink.send(message).await;
                }
                (other, _) => return Err(Error::malformed(format!("{other:?} during a command"))),
            }
        }
    };
    let timed_out = Error::Timeout { command: request.command, after: request.timeout };
    timeout(request.timeout, exchange).await.unwrap_or(Err(timed_out))
}
