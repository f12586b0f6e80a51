//! The kernel's IPsec SAs and policies, over netlink (linux/xfrm.h): what a charon that is gone has left is removed.
use std::{
    collections::BTreeSet,
    io::{self, IoSlice},
    mem,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::socket::{MsgFlags, recv, sendmsg};

// linux/xfrm.h, `enum` of messages.
const DELETE_SA: u16 = 0x11;
const GET_SA: u16 = 0x12;
const DELETE_POLICY: u16 = 0x14;
const GET_POLICY: u16 = 0x15;
const NEW_SA: u16 = 0x10;
const NEW_POLICY: u16 = 0x13;
// linux/netlink.h.
const ERROR: u16 = 2;
const DONE: u16 = 3;
const REQUEST: u16 = 1;
const ACKNOWLEDGE: u16 = 4;
const DUMP: u16 = 0x300;
const HEADER_BYTES: usize = 16;
// linux/xfrm.h, `enum xfrm_attr_type_t`.
const ATTRIBUTE_TEMPLATES: u16 = 5;
const ATTRIBUTE_MARK: u16 = 21;
const ATTRIBUTE_IF_ID: u16 = 31;
const ESP: u8 = 50;

// `struct xfrm_usersa_info`: a selector, then `struct xfrm_id` (destination, SPI, protocol), …, family at the end.
const SELECTOR_BYTES: usize = 56;
const SA_BYTES: usize = 224;
const SA_DESTINATION: usize = SELECTOR_BYTES;
const SA_SPI: usize = SA_DESTINATION + 16;
const SA_PROTOCOL: usize = SA_SPI + 4;
const SA_FAMILY: usize = 212;
/// `struct xfrm_usersa_id`: destination, SPI, family, protocol.
const SA_ID_BYTES: usize = 24;
// `struct xfrm_userpolicy_info`: a selector, two lifetimes (64, 32), priority, index, direction, …
const POLICY_BYTES: usize = 168;
const POLICY_INDEX: usize = SELECTOR_BYTES + 64 + 32 + 4;
const POLICY_DIRECTION: usize = POLICY_INDEX + 4;

/// The SAs that charon has: their SPIs in both directions, and their marks.
#[derive(Debug, Default)]
pub struct Known {
    /// SPIs, host byte order.
    pub spis: BTreeSet<u32>,
    /// Marks.
    pub marks: BTreeSet<u32>,
}

/// Removes the ESP SAs and the policies for IPsec that charon does not know, in this thread's network namespace. Returns
/// how many of each. Policies without a template, such as those that exempt traffic from IPsec, stay.
pub fn remove_unknown(known: &Known) -> Result<(usize, usize)> {
    let socket = socket().context("open a netlink socket for XFRM")?;
    let mut removed = (0, 0);
    for message in dump(&socket, GET_POLICY, NEW_POLICY).context("list the kernel's IPsec policies")? {
        if let Some(request) = unknown_policy(&message, known) {
            ask(&socket, DELETE_POLICY, &request).context("delete an IPsec policy")?;
            removed.1 += 1;
        }
    }
    for message in dump(&socket, GET_SA, NEW_SA).context("list the kernel's SAs")? {
        if let Some(request) = unknown_sa(&message, known) {
            ask(&socket, DELETE_SA, &request).context("delete an SA")?;
            removed.0 += 1;
        }
    }
    Ok(removed)
}

/// Returns the request that deletes an SA, unless it is known or not ESP.
fn unknown_sa(body: &[u8], known: &Known) -> Option<Vec<u8>> {
    let spi = u32::from_be_bytes(bytes(body, SA_SPI)?);
    let [protocol] = bytes(body, SA_PROTOCOL)?;
    if protocol != ESP || known.spis.contains(&spi) {
        return None;
    }
    let mut request = Vec::with_capacity(SA_ID_BYTES);
    request.extend(bytes::<16>(body, SA_DESTINATION)?);
    request.extend(spi.to_be_bytes());
    request.extend(bytes::<2>(body, SA_FAMILY)?);
    request.extend([protocol, 0]);
    copy_attributes(body, SA_BYTES, &[ATTRIBUTE_MARK], &mut request);
    Some(request)
}

/// Returns the request that deletes a policy, unless its mark is known or it is not about IPsec.
fn unknown_policy(body: &[u8], known: &Known) -> Option<Vec<u8>> {
    let [direction] = bytes(body, POLICY_DIRECTION)?;
    attribute(body, POLICY_BYTES, ATTRIBUTE_TEMPLATES)?;
    // `struct xfrm_mark`: value and mask.
    let mark = attribute(body, POLICY_BYTES, ATTRIBUTE_MARK)
        .and_then(|mark| Some(u32::from_ne_bytes(bytes(mark, 0)?)));
    if mark.is_some_and(|mark| known.marks.contains(&mark)) {
        return None;
    }
    // `struct xfrm_userpolicy_id`: selector, index (0: by selector), direction, padding.
    let mut request = body.get(..SELECTOR_BYTES)?.to_vec();
    request.extend([0; 4]);
    request.extend([direction, 0, 0, 0]);
    copy_attributes(body, POLICY_BYTES, &[ATTRIBUTE_MARK, ATTRIBUTE_IF_ID], &mut request);
    Some(request)
}

fn copy_attributes(body: &[u8], from: usize, kinds: &[u16], to: &mut Vec<u8>) {
    for kind in kinds {
        if let Some(value) = attribute(body, from, *kind) {
            let length = value.len() + 4;
            to.extend((length as u16).to_ne_bytes());
            to.extend(kind.to_ne_bytes());
            to.extend(value);
            to.resize(to.len().next_multiple_of(4), 0);
        }
    }
}

/// Returns the value of an attribute behind a message's fixed part.
fn attribute(body: &[u8], from: usize, kind: u16) -> Option<&[u8]> {
    let mut rest = body.get(from..)?;
    loop {
        let length = usize::from(u16::from_ne_bytes(bytes(rest, 0)?));
        let found = u16::from_ne_bytes(bytes(rest, 2)?);
        let value = rest.get(4..length)?;
        if found == kind {
            return Some(value);
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
}

/// Lists everything of one kind: the bodies of the answers.
fn dump(socket: &OwnedFd, request: u16, answer: u16) -> Result<Vec<Vec<u8>>> {
    // Room for the fixed part of a request: none is needed to list all.
    send(socket, request, REQUEST | DUMP, &[])?;
    let mut all = Vec::new();
    loop {
        for (kind, body) in receive(socket)? {
            match kind {
                DONE => return Ok(all),
                ERROR => check(&body)?,
                kind if kind == answer => all.push(body),
                kind => bail!("the kernel answered with message type {kind}"),
            }
        }
    }
}

/// Sends a request and waits for the kernel's acknowledgement. An SA or policy that is gone already is no error.
fn ask(socket: &OwnedFd, request: u16, body: &[u8]) -> Result<()> {
    send(socket, request, REQUEST | ACKNOWLEDGE, body)?;
    for (kind, body) in receive(socket)? {
        ensure!(kind == ERROR, "the kernel answered with message type {kind}");
        check(&body)?;
    }
    Ok(())
}

/// Checks the error number of an acknowledgement (`struct nlmsgerr`).
fn check(body: &[u8]) -> Result<()> {
    let number = i32::from_ne_bytes(bytes(body, 0).context("a short netlink message")?);
    match -number {
        0 | libc::ESRCH | libc::ENOENT => Ok(()),
        error => Err(io::Error::from_raw_os_error(error).into()),
    }
}

fn send(socket: &OwnedFd, kind: u16, flags: u16, body: &[u8]) -> Result<()> {
    let mut header = Vec::with_capacity(HEADER_BYTES);
    header.extend(((HEADER_BYTES + body.len()) as u32).to_ne_bytes());
    header.extend(kind.to_ne_bytes());
    header.extend(flags.to_ne_bytes());
    header.extend([0; 8]);
    let parts = [IoSlice::new(&header), IoSlice::new(body)];
    sendmsg::<()>(socket.as_raw_fd(), &parts, &[], MsgFlags::empty(), None)?;
    Ok(())
}

/// Reads one datagram: types and bodies of its messages.
fn receive(socket: &OwnedFd) -> Result<Vec<(u16, Vec<u8>)>> {
    let mut buffer = vec![0; 64 << 10];
    let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
    let mut rest = buffer.get(..length).unwrap_or_default();
    let mut messages = Vec::new();
    while !rest.is_empty() {
        let size = u32::from_ne_bytes(bytes(rest, 0).context("a short netlink message")?) as usize;
        let kind = u16::from_ne_bytes(bytes(rest, 4).context("a short netlink message")?);
        let body = rest.get(HEADER_BYTES..size).context("a netlink message of a wrong size")?;
        messages.push((kind, body.to_vec()));
        rest = rest.get(size.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(messages)
}

fn socket() -> Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
    // SAFETY: no pointers are passed; the descriptor is checked before it is owned.
    let descriptor = unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_XFRM) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error().into());
    }
    // SAFETY: just opened; nothing else owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(descriptor) };
    // The kernel answers at once; a wait means that something is wrong.
    let limit = libc::timeval { tv_sec: 5, tv_usec: 0 };
    let size = mem::size_of_val(&limit) as libc::socklen_t;
    // SAFETY: the option's value is a whole timeval, and its size is given.
    let set = unsafe {
        let value = (&raw const limit).cast();
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVTIMEO, value, size)
    };
    if set < 0 {
        return Err(io::Error::last_os_error().into());
    }
    Ok(socket)
}

fn bytes<const N: usize>(from: &[u8], at: usize) -> Option<[u8; N]> {
    from.get(at..)?.first_chunk().copied()
}
