//! Sockets for whole frames (packet(7)).
use std::{
    mem,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    process::Command,
};

use anyhow::{Context, Result, anyhow, ensure};
use nix::{
    errno::Errno,
    libc,
    net::if_::if_nametoindex,
    sys::socket::{
        MsgFlags, send, setsockopt,
        sockopt::{Mark, SndBufForce},
    },
};

use crate::{namespace::Namespace, process};

/// The frames that a socket receives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Receives {
    /// None: the socket only sends.
    Nothing,
    /// Those of all protocols, in both directions.
    Everything,
}

/// Opens a socket on an interface of this thread's network namespace.
pub fn socket(interface: &str, receives: Receives) -> Result<OwnedFd> {
    // Protocol 0: nothing is received before the socket is bound to its interface.
    // SAFETY: socket takes plain numbers.
    let descriptor = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    Errno::result(descriptor).context("open a packet socket")?;
    // SAFETY: the descriptor is new, so nobody else owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(descriptor) };
    // SAFETY: sockaddr_ll is plain data, for which all zeroes is a value.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = match receives {
        Receives::Nothing => 0,
        Receives::Everything => (libc::ETH_P_ALL as u16).to_be(),
    };
    address.sll_ifindex =
        if_nametoindex(interface).with_context(|| format!("interface {interface}"))?.cast_signed();
    // SAFETY: the address is a whole sockaddr_ll, and its size is given.
    let bound = unsafe {
        libc::bind(descriptor, (&raw const address).cast(), mem::size_of_val(&address) as libc::socklen_t)
    };
    Errno::result(bound).with_context(|| format!("bind a packet socket to {interface}"))?;
    Ok(socket)
}

/// Opens a socket on an interface of a namespace. It receives everything.
pub fn packet_socket(namespace: &Namespace, interface: &str) -> Result<OwnedFd> {
    namespace.enter(|| socket(interface, Receives::Everything))
}

/// Opens a socket that sends large bursts whose packets have this mark.
pub fn sender(interface: &str, mark: u32) -> Result<OwnedFd> {
    const BUFFER_BYTES: usize = 8 << 20;
    let socket = socket(interface, Receives::Nothing)?;
    setsockopt(&socket, SndBufForce, &BUFFER_BYTES)?;
    setsockopt(&socket, Mark, &mark)?;
    Ok(socket)
}

/// Returns the MAC address of an interface of this thread's network namespace.
pub fn mac_of(interface: &str) -> Result<[u8; 6]> {
    let text = process::output(Command::new("ip").args(["-br", "link", "show", interface]))?;
    let address = text.split_whitespace().nth(2).context("ip shows no address")?;
    let bytes =
        address.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<Vec<u8>, _>>()?;
    bytes.try_into().map_err(|_| anyhow!("{address} is not a MAC address"))
}

/// Sends a frame. Fails if the link's queue is full.
pub fn put(socket: &OwnedFd, frame: &[u8]) -> Result<()> {
    let sent = send(socket.as_raw_fd(), frame, MsgFlags::empty()).context("send a frame")?;
    ensure!(sent == frame.len(), "a frame was cut off");
    Ok(())
}

/// Sends a frame and returns true, or returns false if the link's queue is full.
pub fn put_if_room(socket: &OwnedFd, frame: &[u8]) -> Result<bool> {
    match send(socket.as_raw_fd(), frame, MsgFlags::empty()) {
        Ok(sent) => {
            ensure!(sent == frame.len(), "a frame was cut off");
            Ok(true)
        }
        Err(Errno::ENOBUFS) => Ok(false),
        Err(error) => Err(error).context("send a frame"),
    }
}
