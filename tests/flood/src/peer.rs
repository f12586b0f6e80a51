//! IKE packets of known peers, sent during the flood to a socket in place of charon's.
use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use gateway_tests_kit::{
    namespace::Namespace,
    raw::{packet_socket, put_if_room},
};
use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};

use super::{
    frames,
    party::{GATEWAY, Party, is_new_site},
};

/// Pause between two packets of one peer: far below a peer's budget, far above the needs of rekeying.
const PAUSE: Duration = Duration::from_millis(50);
const IKE_PORT: u16 = 500;
/// Offset of the exchange type in an IKE message (RFC 7296 section 3.1), and the one that opens an IKE_SA.
const EXCHANGE: usize = 18;
const IKE_SA_INIT: u8 = 34;

/// Counts of IKE packets.
#[derive(Default)]
pub struct Tally {
    /// Packets of known peers put on the link.
    pub sent: AtomicU64,
    /// Packets of known peers that reached the socket.
    pub arrived: AtomicU64,
    /// Packets of strangers that reached the socket.
    pub strangers: AtomicU64,
    /// Those of them that open an IKE_SA.
    pub opened: AtomicU64,
    /// Packets of new sites that reached the socket, by address.
    pub new_sites: Mutex<HashMap<IpAddr, u32>>,
}

/// Sends packets of all known peers until stopped.
pub fn send(internet: &Namespace, tally: &Tally, stop: &AtomicBool) -> Result<()> {
    let socket = packet_socket(internet, "internet")?;
    let mut number = 0;
    while !stop.load(Relaxed) {
        for peer in Party::all() {
            let frame = frames::ike(IpAddr::V4(peer.peer()), number)?;
            number += 1;
            // Retry on a full link: the gateway is not to blame for it.
            while !put_if_room(&socket, &frame)? {
                thread::yield_now();
            }
            tally.sent.fetch_add(1, Relaxed);
        }
        thread::sleep(PAUSE);
    }
    Ok(())
}

/// Opens the gateway's socket in place of charon's.
pub fn open(gateway: &Namespace) -> Result<UdpSocket> {
    const BUFFER_BYTES: usize = 8 << 20;
    let socket = gateway.enter(|| {
        UdpSocket::bind(SocketAddr::new(GATEWAY[0], IKE_PORT)).context("open the socket for IKE")
    })?;
    setsockopt(&socket, RcvBufForce, &BUFFER_BYTES)?;
    socket.set_read_timeout(Some(Duration::from_millis(50)))?;
    Ok(socket)
}

/// Counts packets that reach the socket until stopped.
pub fn receive(socket: &UdpSocket, tally: &Tally, stop: &AtomicBool) -> Result<()> {
    let mut seen = HashSet::new();
    let mut buffer = [0u8; 64];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut buffer) else {
            // The queue is empty.
            if stop.load(Relaxed) {
                return Ok(());
            }
            continue;
        };
        let known = Party::all().any(|peer| from.ip() == IpAddr::V4(peer.peer()));
        if is_new_site(from.ip()) {
            let mut arrived = tally.new_sites.lock().unwrap_or_else(PoisonError::into_inner);
            *arrived.entry(from.ip()).or_default() += 1;
        } else if !known {
            tally.strangers.fetch_add(1, Relaxed);
            tally.opened.fetch_add(u64::from(buffer[EXCHANGE] == IKE_SA_INIT), Relaxed);
        } else if seen.insert((from.ip(), buffer[..length.min(8)].to_vec())) {
            tally.arrived.fetch_add(1, Relaxed);
        }
    }
}
