//! Sockets for whole frames (packet(7)).
use std::{
    mem,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use anyhow::{Context, Result, ensure};
use nix::{
    errno::Errno,
    libc,
    net::if_::if_nametoindex,
    sys::socket::{
        MsgFlags, send, setsockopt,
        sockopt::{Mark, SndBufForce},
    },
};

use crate::namespace::Namespace;

/// Whose frames a socket receives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Receives {
    /// Nobody's: it only sends.
    Nothing,
    /// Those of all protocols, in both directions.
    Everything,
}

/// A socket on an interface of the namespace it is called in.
pub fn socket(interface: &str, receives: Receives) -> Result<OwnedFd> {
    // Protocol 0: nothing is received before it is bound to its interface.
    // SAFETY: socket takes plain numbers.
    let descriptor = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    Errno::result(descriptor).context("a packet socket")?;
    // SAFETY: it is a new descriptor that nobody else has.
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

/// A socket for whole frames of one interface, both directions, all protocols.
pub fn packet_socket(namespace: &Namespace, interface: &str) -> Result<OwnedFd> {
    namespace.enter(|| socket(interface, Receives::Everything))
}

/// One that sends much at once, with a mark.
pub fn sender(interface: &str, mark: u32) -> Result<OwnedFd> {
    const BUFFER_BYTES: usize = 8 << 20;
    let socket = socket(interface, Receives::Nothing)?;
    setsockopt(&socket, SndBufForce, &BUFFER_BYTES)?;
    setsockopt(&socket, Mark, &mark)?;
    Ok(socket)
}

/// Sends a frame.
pub fn put(socket: &OwnedFd, frame: &[u8]) -> Result<()> {
    let sent = send(socket.as_raw_fd(), frame, MsgFlags::empty()).context("send a frame")?;
    ensure!(sent == frame.len(), "a frame was cut off");
    Ok(())
}
