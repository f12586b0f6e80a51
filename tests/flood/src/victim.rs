//! A victim's device: real TCP clients with long and short connections, and an occasional denied packet,
//! which must be dropped and reported.
use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::{self, Scope},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use gateway_tests_kit::namespace::Namespace;

use super::{
    party::{PORT, Party},
    server,
};

/// Number of long connections of each family.
const ESTABLISHED: u64 = 2;
/// Pause between two requests on a long connection.
const REQUEST_PAUSE: Duration = Duration::from_millis(20);
/// Pause between two new connections of one family. A closed connection counts against the quota for 120 s
/// (TIME_WAIT), so 40 a second always stay below the default quota.
const CONNECT_PAUSE: Duration = Duration::from_millis(50);
/// Time limit of a new connection with its first answer.
const IN_TIME: Duration = Duration::from_secs(1);
/// Time limit of an answer on an established connection, on a machine under full load.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pause between two denied packets: below the event budget of 20 a second.
const DENIED_PAUSE: Duration = Duration::from_millis(250);

/// Counts of one victim's connections.
#[derive(Default)]
pub struct Tally {
    /// Requests answered on established connections.
    pub answered: AtomicU64,
    /// Established connections lost: reset, silent, or a wrong answer.
    pub lost: AtomicU64,
    /// New connections tried.
    pub tried: AtomicU64,
    /// New connections made and answered in time.
    pub in_time: AtomicU64,
    /// The slowest of the connections answered in time, in microseconds.
    pub slowest_us: AtomicU64,
    /// Denied packets sent, which must be dropped and reported.
    pub denied: AtomicU64,
    /// The first error.
    pub first_error: Mutex<Option<String>>,
}

impl Tally {
    fn note(&self, what: &str, error: &anyhow::Error) {
        let mut first = self.first_error.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert_with(|| format!("{what}: {error:#}"));
    }
}

/// Starts the device's threads, which end when `stop` is set.
pub fn start<'s>(
    scope: &'s Scope<'s, '_>,
    namespace: &'s Namespace,
    party: Party,
    tally: &'s Tally,
    stop: &'s AtomicBool,
) {
    for server in [IpAddr::V4(party.server4()), IpAddr::V6(party.server6())] {
        for _ in 0..ESTABLISHED {
            inside(scope, namespace, move || {
                if let Err(error) = keep_one_connection(server, tally, stop) {
                    tally.lost.fetch_add(1, Relaxed);
                    tally.note("established", &error);
                }
                Ok(())
            });
        }
        inside(scope, namespace, move || {
            open_new_connections(server, tally, stop);
            Ok(())
        });
    }
    inside(scope, namespace, move || send_denied(party, tally, stop));
}

/// Runs `work` on a thread in the namespace.
fn inside<'s>(
    scope: &'s Scope<'s, '_>,
    namespace: &'s Namespace,
    work: impl FnOnce() -> Result<()> + Send + 's,
) {
    scope.spawn(move || {
        if let Err(error) = namespace.enter(work) {
            eprintln!("{error:#}");
        }
    });
}

fn keep_one_connection(server: IpAddr, tally: &Tally, stop: &AtomicBool) -> Result<()> {
    let stream = connect(server, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(&stream);
    for number in 0.. {
        if stop.load(Relaxed) {
            break;
        }
        request(&stream, &mut reader, server, number)?;
        tally.answered.fetch_add(1, Relaxed);
        thread::sleep(REQUEST_PAUSE);
    }
    Ok(())
}

fn open_new_connections(server: IpAddr, tally: &Tally, stop: &AtomicBool) {
    for number in 0.. {
        if stop.load(Relaxed) {
            break;
        }
        let start = Instant::now();
        let result = connect(server, IN_TIME).and_then(|stream| {
            stream.set_read_timeout(Some(IN_TIME))?;
            request(&stream, &mut BufReader::new(&stream), server, number)
        });
        let took = start.elapsed();
        tally.tried.fetch_add(1, Relaxed);
        match result {
            Ok(()) if took <= IN_TIME => {
                tally.in_time.fetch_add(1, Relaxed);
                tally.slowest_us.fetch_max(took.as_micros() as u64, Relaxed);
            }
            Ok(()) => {}
            Err(error) => tally.note("new", &error),
        }
        thread::sleep(CONNECT_PAUSE);
    }
}

/// Sends UDP packets, which no policy allows, until stopped.
fn send_denied(party: Party, tally: &Tally, stop: &AtomicBool) -> Result<()> {
    const DISCARD_PORT: u16 = 9;
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    while !stop.load(Relaxed) {
        socket.send_to(b"dropped", (party.server4(), DISCARD_PORT)).context("send a UDP packet")?;
        tally.denied.fetch_add(1, Relaxed);
        thread::sleep(DENIED_PAUSE);
    }
    Ok(())
}

fn connect(server: IpAddr, timeout: Duration) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&SocketAddr::new(server, PORT), timeout).context("connect")?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn request(
    mut stream: &TcpStream,
    reader: &mut BufReader<&TcpStream>,
    server: IpAddr,
    number: u64,
) -> Result<()> {
    stream
        .write_all(format!("GET /{number} HTTP/1.1\r\nHost: {server}\r\n\r\n").as_bytes())
        .context("request")?;
    let (mut line, mut length) = (String::new(), None);
    loop {
        line.clear();
        ensure!(reader.read_line(&mut line).context("answer")? != 0, "the server closed the connection");
        match line.trim_end().split_once(": ") {
            Some(("Content-Length", value)) => length = Some(value.parse()?),
            Some(_) => {}
            None if line.trim_end().is_empty() => break,
            None => ensure!(line.starts_with("HTTP/1.1 200 "), "answer {line:?}"),
        }
    }
    let mut body = vec![0; length.context("the answer has no Content-Length")?];
    reader.read_exact(&mut body).context("answer")?;
    ensure!(body == server::body(server, number).as_bytes(), "the answer has a wrong body");
    Ok(())
}
