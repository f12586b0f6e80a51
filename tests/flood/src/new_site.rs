//! New sites that connect during the flood, by a script: a request, the same with the cookie that the gateway asks
//! for, and the messages of IKE_AUTH.
use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::OwnedFd,
    sync::{
        PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use gateway_tests_kit::{
    frame::IKE_PORT,
    namespace::Namespace,
    raw::{Receives, put_if_room, socket},
};

use super::{frames, party::new_site, peer};

/// Number of new sites.
pub const NEW_SITES: u32 = 50;
/// Longest time in which a site may connect.
pub const LIMIT: Duration = Duration::from_secs(2);
/// Pause between two sites.
const PAUSE: Duration = Duration::from_millis(50);
/// Time after which a site repeats its request.
const RETRANSMISSION: Duration = Duration::from_millis(500);
/// Messages of IKE_AUTH: the fragments of a certificate.
const AUTH_MESSAGES: u32 = 3;

/// Results of the new sites.
#[derive(Default)]
pub struct Tally {
    /// Sites that tried to connect.
    pub tried: AtomicU64,
    /// Sites that connected in time.
    pub connected: AtomicU64,
    /// Longest time in microseconds that a site took to connect.
    pub slowest_us: AtomicU64,
}

/// Connects one new site after the other, until all have tried or the flood is over.
pub fn connect(
    internet: &Namespace,
    charon: &peer::Tally,
    tally: &Tally,
    flood_over: &AtomicBool,
) -> Result<()> {
    let wire = internet.enter(|| socket("internet", Receives::Nothing))?;
    for number in 0..NEW_SITES {
        thread::sleep(PAUSE);
        if flood_over.load(Relaxed) {
            return Ok(());
        }
        let address = new_site(number as u16 + 1);
        let answers = internet.enter(|| {
            UdpSocket::bind(SocketAddr::new(address.into(), IKE_PORT)).context("open a new site's socket")
        })?;
        answers.set_read_timeout(Some(RETRANSMISSION))?;
        let start = Instant::now();
        tally.tried.fetch_add(1, Relaxed);
        if one(&wire, &answers, address.into(), u64::from(number) + 1, charon, start)? {
            tally.connected.fetch_add(1, Relaxed);
            tally.slowest_us.fetch_max(start.elapsed().as_micros() as u64, Relaxed);
        }
    }
    Ok(())
}

/// Connects one site. Returns false if that took too long.
fn one(
    wire: &OwnedFd,
    answers: &UdpSocket,
    address: IpAddr,
    spi: u64,
    charon: &peer::Tally,
    start: Instant,
) -> Result<bool> {
    const HEADER_BYTES: usize = 28;
    let arrived = || {
        let all = charon.new_sites.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(&address).copied().unwrap_or(0)
    };
    let mut cookie = Vec::new();
    while cookie.is_empty() {
        send(wire, &frames::init(address, spi, &[])?)?;
        let mut answer = [0; 256];
        if let Ok(length) = answers.recv(&mut answer) {
            cookie = answer[HEADER_BYTES.min(length)..length].to_vec();
        }
        if start.elapsed() > LIMIT {
            return Ok(false);
        }
    }
    // The payload that follows is a security association.
    cookie[0] = 33;
    let before = arrived();
    send(wire, &frames::init(address, spi, &cookie)?)?;
    for _ in 0..AUTH_MESSAGES {
        send(wire, &frames::auth(address, spi)?)?;
    }
    while arrived() - before < 1 + AUTH_MESSAGES {
        if start.elapsed() > LIMIT {
            return Ok(false);
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(true)
}

/// Sends a frame, again and again while the link is full: the gateway is not to blame for it.
fn send(wire: &OwnedFd, frame: &[u8]) -> Result<()> {
    while !put_if_room(wire, frame)? {
        thread::yield_now();
    }
    Ok(())
}
