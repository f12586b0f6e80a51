//! The floods, from a site and from the internet. Both run on the last CPU, as fast as it can.
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd, OwnedFd},
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use gateway_common::packet::flag;
use gateway_tests_kit::{
    cpu::on_last_cpu,
    frame::spoof,
    namespace::Namespace,
    raw::{packet_socket, put_if_room},
};
use nix::{
    errno::Errno,
    libc,
    sys::{
        socket::{
            MsgFlags, recv, setsockopt,
            sockopt::{RcvBufForce, ReceiveTimeout},
        },
        time::{TimeVal, TimeValLike},
    },
};

use super::{
    frames::{self, Pool, Segment},
    party::{ATTACKER, GATEWAY_MAC, PORT},
};

/// Frames between two checks of the stop flag.
const BURST: usize = 1024;
/// Number of spoofed source addresses.
const SOURCES: u32 = 1_000_000;

/// Sends the pool repeatedly until stopped.
pub fn from_site(namespace: &Namespace, pool: &Pool, sent: &AtomicU64, stop: &AtomicBool) -> Result<()> {
    let socket = packet_socket(namespace, &ATTACKER.interface())?;
    on_last_cpu()?;
    while !stop.load(Relaxed) {
        for frame in pool.iter() {
            if sent.fetch_add(u64::from(put_if_room(&socket, frame)?), Relaxed) % BURST as u64 == 0
                && stop.load(Relaxed)
            {
                break;
            }
        }
    }
    Ok(())
}

/// Sends outer packets until stopped. IPv4 packets take turns with a million sources.
pub fn from_internet(namespace: &Namespace, sent: &AtomicU64, stop: &AtomicBool) -> Result<()> {
    let (v4, v6) = frames::from_internet()?;
    let socket = packet_socket(namespace, "internet")?;
    on_last_cpu()?;
    let mut source = 0;
    let mut buffer = Vec::new();
    while !stop.load(Relaxed) {
        for (frame4, frame6) in v4.iter().zip(v6.iter()) {
            source = (source + 1) % SOURCES;
            buffer.clear();
            buffer.extend_from_slice(frame4);
            spoof(&mut buffer, Ipv4Addr::from(u32::from(Ipv4Addr::new(11, 0, 0, 0)) + source));
            let count = u64::from(put_if_room(&socket, &buffer)?) + u64::from(put_if_room(&socket, frame6)?);
            sent.fetch_add(count, Relaxed);
            if source % BURST as u32 == 0 && stop.load(Relaxed) {
                break;
            }
        }
    }
    Ok(())
}

/// Answers seven in eight SYN-ACKs of the attacker's server with an ACK until stopped. The completed
/// handshakes exhaust the flow quota; a delay at the start exhausts the half-open quota first.
pub fn acknowledge(namespace: &Namespace, stop: &AtomicBool) -> Result<()> {
    const BUFFER_BYTES: usize = 8 << 20;
    const DELAY: Duration = Duration::from_millis(300);
    let socket = packet_socket(namespace, &ATTACKER.interface())?;
    ignore_outgoing(&socket)?;
    setsockopt(&socket, RcvBufForce, &BUFFER_BYTES)?;
    setsockopt(&socket, ReceiveTimeout, &TimeVal::milliseconds(100))?;
    thread::sleep(DELAY);
    let mut buffer = [0u8; 256];
    while !stop.load(Relaxed) {
        let length = match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Ok(length) => length,
            Err(Errno::EAGAIN | Errno::ENOBUFS | Errno::EINTR) => continue,
            Err(error) => return Err(error).context("receive a frame"),
        };
        if let Some(ack) = answer(&buffer[..length]) {
            put_if_room(&socket, &ack.frame()?)?;
        }
    }
    Ok(())
}

/// Returns the ACK for a SYN-ACK, except to one port in eight.
fn answer(frame: &[u8]) -> Option<Segment> {
    const ETHERNET: usize = 14;
    let (source, destination, tcp) = match frame.get(12..14)? {
        [0x08, 0x00] => {
            let [source, destination]: [[u8; 4]; 2] =
                [frame.get(26..30)?.try_into().ok()?, frame.get(30..34)?.try_into().ok()?];
            (IpAddr::from(source), IpAddr::from(destination), ETHERNET + 20)
        }
        [0x86, 0xdd] => {
            let [source, destination]: [[u8; 16]; 2] =
                [frame.get(22..38)?.try_into().ok()?, frame.get(38..54)?.try_into().ok()?];
            (Ipv6Addr::from(source).into(), Ipv6Addr::from(destination).into(), ETHERNET + 40)
        }
        _ => return None,
    };
    let tcp = frame.get(tcp..tcp + 20)?;
    let word = |at: usize| u32::from_be_bytes([tcp[at], tcp[at + 1], tcp[at + 2], tcp[at + 3]]);
    let device_port = u16::from_be_bytes([tcp[2], tcp[3]]);
    let is_syn_ack = tcp[13] & (flag::SYN | flag::ACK) == flag::SYN | flag::ACK;
    let ours = frame[..6] != GATEWAY_MAC && is_syn_ack && device_port % 8 != 0;
    ours.then(|| Segment {
        addresses: (destination, source),
        ports: (device_port, PORT),
        seq: word(8),
        ack: Some(word(4).wrapping_add(1)),
        syn_rst: (false, false),
    })
}

/// Keeps the kernel from copying each frame of the flood to this socket.
fn ignore_outgoing(socket: &OwnedFd) -> Result<()> {
    // linux/if_packet.h.
    const PACKET_IGNORE_OUTGOING: libc::c_int = 23;
    let on: libc::c_int = 1;
    // SAFETY: the option takes an int, which lives until the call returns, and its size.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            PACKET_IGNORE_OUTGOING,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    Errno::result(result).context("ignore outgoing frames").map(drop)
}
