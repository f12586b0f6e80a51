//! The kernel's XFRM notifications (netlink), and charon's VICI events, in the order in which they happen.
use std::{
    mem,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    path::Path,
    time::{Duration, Instant},
};

use ::gateway::strongswan::{Event, EventKind, Events};
use anyhow::{Context, Result, ensure};
use gateway_tests_kit::namespace::Namespace;
use nix::{errno::Errno, libc, sys::socket::MsgFlags};

/// Resolution of the times.
const POLL: Duration = Duration::from_millis(2);

/// A change of the kernel's SAs or policies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// A new or updated SA, by its SPI in host byte order.
    SaAdded(u32),
    /// A deleted SA, by its SPI.
    SaDeleted(u32),
    /// A new or updated policy for packets in or forwarded.
    PolicyIn,
    /// A new or updated policy for packets out.
    PolicyOut,
    /// A deleted policy.
    PolicyDeleted,
}

/// One observation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// The kernel has changed.
    Kernel(Change),
    /// charon reported this.
    Vici(EventKind),
}

/// Observes a namespace's kernel and charon, from [`XfrmMonitor::start`] on.
#[derive(Debug)]
pub struct XfrmMonitor {
    runtime: tokio::runtime::Runtime,
    events: Events,
    kernel: OwnedFd,
    start: Instant,
    /// Everything seen so far, with the time since the start.
    pub seen: Vec<(Duration, Seen)>,
}

impl XfrmMonitor {
    /// Starts observing. `vici` is charon's socket.
    pub fn start(namespace: &Namespace, vici: &Path) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let events = runtime.block_on(Events::connect(vici))?;
        let kernel = namespace.enter(netlink_socket)?;
        Ok(Self { runtime, events, kernel, start: Instant::now(), seen: Vec::new() })
    }

    /// Waits for an event of this kind and returns it.
    pub fn wait_for(&mut self, kind: EventKind, limit: Duration) -> Result<Event> {
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            if let Some(event) = self.poll()?
                && event.kind == kind
            {
                return Ok(event);
            }
        }
        anyhow::bail!("no {kind:?} within {limit:?}, but {:?}", self.seen)
    }

    /// Observes until `done` or the limit. Returns true if `done`.
    pub fn watch(&mut self, limit: Duration, done: impl Fn(&[(Duration, Seen)]) -> bool) -> Result<bool> {
        let deadline = Instant::now() + limit;
        while !done(&self.seen) {
            if Instant::now() > deadline {
                return Ok(false);
            }
            self.poll()?;
        }
        Ok(true)
    }

    /// Returns when this was first seen, and its place in the order.
    pub fn find(&self, what: &Seen) -> Option<(usize, Duration)> {
        let place = self.seen.iter().position(|(_, seen)| seen == what)?;
        Some((place, self.seen[place].0))
    }

    /// Waits for at most [`POLL`]. Whatever the kernel did before charon sent its event is in the socket's
    /// queue by then, and comes first.
    fn poll(&mut self) -> Result<Option<Event>> {
        let events = &mut self.events;
        let event = self.runtime.block_on(async { tokio::time::timeout(POLL, events.next()).await });
        let time = self.start.elapsed();
        while let Some(changes) = receive(&self.kernel)? {
            self.seen.extend(changes.into_iter().map(|change| (time, Seen::Kernel(change))));
        }
        let Ok(event) = event else { return Ok(None) };
        let event = event?;
        self.seen.push((time, Seen::Vici(event.kind)));
        Ok(Some(event))
    }
}

/// Opens a socket that receives notifications of SAs and policies.
fn netlink_socket() -> Result<OwnedFd> {
    // linux/xfrm.h: XFRMNLGRP_SA and XFRMNLGRP_POLICY.
    const GROUPS: u32 = 1 << (3 - 1) | 1 << (4 - 1);
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: socket takes plain numbers.
    let descriptor = unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_XFRM) };
    Errno::result(descriptor).context("open a netlink socket")?;
    // SAFETY: the descriptor is new, so nobody else owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(descriptor) };
    // SAFETY: sockaddr_nl is plain data, for which all zeroes is a value.
    let mut address: libc::sockaddr_nl = unsafe { mem::zeroed() };
    address.nl_family = libc::AF_NETLINK as u16;
    address.nl_groups = GROUPS;
    let length = mem::size_of_val(&address) as libc::socklen_t;
    // SAFETY: the address is a whole sockaddr_nl, and its size is given.
    let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
    Errno::result(bound).context("join the groups of XFRM")?;
    Ok(socket)
}

/// Returns the changes of one datagram, or `None` if none is queued.
fn receive(socket: &OwnedFd) -> Result<Option<Vec<Change>>> {
    let mut buffer = vec![0; 64 << 10];
    let length = match nix::sys::socket::recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
        Ok(length) => length,
        Err(Errno::EAGAIN) => return Ok(None),
        Err(error) => return Err(error).context("cannot read notifications of XFRM"),
    };
    let mut rest = &buffer[..length];
    let mut changes = Vec::new();
    while !rest.is_empty() {
        let size = u32::from_ne_bytes(array(rest, 0)?) as usize;
        ensure!((16..=rest.len()).contains(&size), "a netlink message of {size} bytes");
        changes.extend(change(&rest[..size])?);
        rest = &rest[size.next_multiple_of(4).min(rest.len())..];
    }
    Ok(Some(changes))
}

/// Parses one message of linux/xfrm.h. Offsets include the header's 16 bytes.
fn change(message: &[u8]) -> Result<Option<Change>> {
    const NEW_SA: u16 = 0x10;
    const DELETED_SA: u16 = 0x11;
    const NEW_POLICY: u16 = 0x13;
    const DELETED_POLICY: u16 = 0x14;
    const UPDATED_POLICY: u16 = 0x19;
    const UPDATED_SA: u16 = 0x1a;
    /// `xfrm_usersa_info.id.spi`, behind a selector of 56 bytes and an address.
    const SPI: usize = 16 + 56 + 16;
    /// `xfrm_usersa_id.spi`, behind an address.
    const DELETED_SPI: usize = 16 + 16;
    /// `xfrm_userpolicy_info.dir`, behind a selector, two lifetimes (64, 32), priority and index.
    const DIRECTION: usize = 16 + 56 + 64 + 32 + 8;
    const XFRM_POLICY_OUT: u8 = 1;
    Ok(match u16::from_ne_bytes(array(message, 4)?) {
        NEW_SA | UPDATED_SA => Some(Change::SaAdded(u32::from_be_bytes(array(message, SPI)?))),
        DELETED_SA => Some(Change::SaDeleted(u32::from_be_bytes(array(message, DELETED_SPI)?))),
        NEW_POLICY | UPDATED_POLICY if array::<1>(message, DIRECTION)? == [XFRM_POLICY_OUT] => {
            Some(Change::PolicyOut)
        }
        NEW_POLICY | UPDATED_POLICY => Some(Change::PolicyIn),
        DELETED_POLICY => Some(Change::PolicyDeleted),
        _ => None,
    })
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N]> {
    let found = bytes.get(at..at + N).context("a short netlink message")?;
    Ok(found.try_into()?)
}
