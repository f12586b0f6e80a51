//! The VICI client against a compromised charon: the client must refuse promptly and without panic.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::{
    io::{Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};

use gateway::strongswan::{Client, Error, Events, Notice, Supervisor};
use tokio::time::timeout;

const REQUEST: u8 = 0;
const REGISTER: u8 = 3;

/// A fake charon. It confirms registrations and calls `then` with the packet of every command and of the last
/// registration (`ike-update`).
struct Impostor(PathBuf);

impl Impostor {
    fn listen(then: impl Fn(&mut UnixStream, &[u8]) + Send + Sync + Copy + 'static) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("vici-{}-{number}", std::process::id()));
        let listener = UnixListener::bind(&path).unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                thread::spawn(move || {
                    while let Some(packet) = receive(&mut stream) {
                        if packet[0] == REGISTER {
                            send(&mut stream, b"\x05");
                        }
                        if packet[0] == REQUEST || packet.ends_with(b"ike-update") {
                            then(&mut stream, &packet);
                        }
                    }
                });
            }
        });
        Self(path)
    }
}

impl Drop for Impostor {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn receive(stream: &mut UnixStream) -> Option<Vec<u8>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).ok()?;
    let mut packet = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut packet).ok()?;
    Some(packet)
}

fn send(stream: &mut UnixStream, packet: &[u8]) {
    let length = u32::try_from(packet.len()).unwrap().to_be_bytes();
    // The client may have closed the connection.
    let _ = stream.write_all(&[&length[..], packet].concat());
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(5), future).await.expect("within 5 s")
}

/// Checks that `list-sas`, answered by `then`, fails, that the connection closes and that `version` fails.
async fn assert_refused(then: fn(&mut UnixStream, &[u8]), expected: fn(&Error) -> bool) {
    let impostor = Impostor::listen(then);
    let client = soon(Client::connect(&impostor.0)).await.unwrap();
    let error = soon(client.list_sas()).await.unwrap_err();
    assert!(expected(&error), "{error:?}");
    soon(client.closed()).await;
    assert!(matches!(soon(client.version()).await, Err(Error::Closed)));
}

fn malformed(error: &Error) -> bool {
    matches!(error, Error::Malformed(_))
}

#[tokio::test]
async fn frame_beyond_512_kib_closes() {
    let then: fn(&mut UnixStream, &[u8]) = |stream, _| {
        let _ = stream.write_all(&(512 * 1024 + 1_u32).to_be_bytes());
    };
    assert_refused(then, |error| matches!(error, Error::Io(_))).await;
}

#[tokio::test]
async fn frame_cut_short_closes() {
    let then: fn(&mut UnixStream, &[u8]) = |stream, _| {
        let _ = stream.write_all(b"\x00\x00\x00\x09\x01\x03");
        let _ = stream.shutdown(std::net::Shutdown::Both);
    };
    assert_refused(then, |error| matches!(error, Error::Io(_) | Error::Closed)).await;
}

#[tokio::test]
async fn malformed_packets_close() {
    assert_refused(|stream, _| send(stream, b""), malformed).await;
    assert_refused(|stream, _| send(stream, b"\x09"), malformed).await;
    assert_refused(|stream, _| send(stream, b"\x05"), malformed).await;
    assert_refused(|stream, _| send(stream, b"\x01\x03\x01k\xff\xff"), malformed).await;
    assert_refused(|stream, _| send(stream, b"\x07\x09list-conn"), malformed).await;
    assert_refused(|stream, _| send(stream, b"\x07\x07list-sa\x01\x01s"), malformed).await;
}

#[tokio::test]
async fn deep_nesting_closes() {
    let then: fn(&mut UnixStream, &[u8]) =
        |stream, _| send(stream, &[&b"\x01"[..], &b"\x01\x01s".repeat(100_000)].concat());
    assert_refused(then, malformed).await;
}

#[tokio::test]
async fn unsolicited_packet_closes_an_idle_connection() {
    // The second answer has no command.
    let impostor = Impostor::listen(|stream, _| {
        send(stream, b"\x01");
        send(stream, b"\x01");
    });
    let client = soon(Client::connect(&impostor.0)).await.unwrap();
    assert!(soon(client.list_sas()).await.unwrap().sas.is_empty());
    soon(client.closed()).await;
}

#[tokio::test]
async fn unreadable_sas_are_faults() {
    let impostor = Impostor::listen(|stream, _| {
        send(stream, b"\x07\x07list-sa\x01\x04site\x03\x08uniqueid\x00\x02-1\x02");
        send(stream, b"\x07\x07list-sa\x03\x04site\x00\x00");
        send(stream, b"\x07\x07list-sa");
        send(stream, b"\x01");
    });
    let client = soon(Client::connect(&impostor.0)).await.unwrap();
    let list = soon(client.list_sas()).await.unwrap();
    assert!(list.sas.is_empty() && list.faults.len() == 3, "{list:?}");
}

#[tokio::test]
async fn refusal_is_cleaned_of_terminal_escapes() {
    let impostor = Impostor::listen(|stream, _| {
        send(stream, b"\x01\x03\x07success\x00\x02no\x03\x06errmsg\x00\x06\x1b[2Jno");
    });
    let client = soon(Client::connect(&impostor.0)).await.unwrap();
    let error = soon(client.rekey_ike(1)).await.unwrap_err();
    assert!(matches!(&error, Error::Refused { reason, .. } if reason == "[2Jno"), "{error:?}");
}

#[tokio::test]
async fn malformed_event_ends_the_event_connection() {
    let impostor = Impostor::listen(|stream, packet| {
        if packet[0] == REGISTER {
            send(stream, b"\x07\x0aike-updown\x01\x04site\x02");
            send(stream, b"\x07\x03log");
        }
    });
    let mut events = soon(Events::connect(&impostor.0)).await.unwrap();
    assert_eq!(soon(events.next()).await.unwrap().ike, "site");
    assert!(malformed(&soon(events.next()).await.unwrap_err()));
}

#[tokio::test]
async fn flood_of_events_ends_in_one_resync() {
    const FLOOD: usize = 20_000;
    let impostor = Impostor::listen(|stream, packet| {
        if packet[0] == REGISTER {
            for _ in 0..FLOOD {
                send(stream, b"\x07\x0aike-updown\x01\x04site\x02");
            }
        }
    });
    let mut supervisor = Supervisor::start(impostor.0.clone());
    assert!(matches!(soon(supervisor.next()).await, Notice::Connected(_)));
    // Read nothing: the supervisor drops hints, keeps memory bounded and drains charon's socket.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut events = 0;
    loop {
        match soon(supervisor.next()).await {
            Notice::Event(_) => events += 1,
            Notice::Resync => break,
            other => panic!("{other:?}"),
        }
    }
    assert!(events < FLOOD / 2, "{events}");
}
