//! One side of the comparison: a gateway in a namespace between two veths, and packet sockets at their far
//! ends.
use std::{
    collections::BTreeSet,
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd, OwnedFd},
};

use anyhow::{Context, Result, bail, ensure};
use gateway_common::tcp::Direction;
use gateway_tests_kit::{
    namespace::Namespace,
    process,
    raw::packet_socket,
    world::{CUSTOMERS, TUNNELS},
};
use nix::{
    errno::Errno,
    libc,
    sys::socket::{
        MsgFlags, recv, send, setsockopt,
        sockopt::{RcvBufForce, ReceiveTimeout},
    },
    sys::time::{TimeVal, TimeValLike},
};

use super::segment::Flow;

/// Namespace of the far ends of all veths.
pub const WIRE: &str = "wire";
/// Packets sent between two calls of [`Side::collect`] at most: the tag, their IPv4 identification or IPv6
/// flow label, tells them apart.
pub const BATCH: usize = 4096;
/// Tag of the packet that ends a batch.
const SENTINEL: u16 = u16::MAX;
/// A gateway's addresses on the internet and on the LAN.
const GATEWAY: [IpAddr; 4] = [
    IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, 1)),
    IpAddr::V4(Ipv4Addr::new(10, 200, 0, 1)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x200, 0, 0, 0, 0, 0, 1)),
];
/// Longest time of a packet through a namespace.
const PATIENCE_SECONDS: i64 = 5;

/// A gateway and the sockets around it.
pub struct Side {
    gateway: Namespace,
    internet: OwnedFd,
    lan: OwnedFd,
    sentinel: Vec<u8>,
}

/// The IP packets that came out, by tag.
pub type Received = Vec<Option<Vec<u8>>>;

impl Side {
    /// Creates the namespace, with routes and neighbours, but without a filter.
    pub fn create(name: &str, wire: &Namespace, sentinel: &Flow) -> Result<Self> {
        let gateway = Namespace::create(name, true)?;
        for (key, value) in [
            ("ipv6/conf/all/disable_ipv6", "0"),
            ("ipv6/conf/default/disable_ipv6", "0"),
            ("ipv6/conf/all/forwarding", "1"),
            ("ipv6/conf/default/accept_dad", "0"),
        ] {
            gateway.set_sysctl(key, value)?;
        }
        let mut ip = gateway.command("ip");
        process::run_with_input(ip.args(["-batch", "-"]), &set_up(name, wire.name()))?;
        let mut up = wire.command("ip");
        let lines = format!("link set {name}-internet up\nlink set {name}-lan up\n");
        process::run_with_input(up.args(["-batch", "-"]), &lines)?;
        let syn = super::segment::Segment::new(Direction::ToServer, 2, 1, 0);
        Ok(Self {
            internet: socket(wire, &format!("{name}-internet"))?,
            lan: socket(wire, &format!("{name}-lan"))?,
            gateway,
            sentinel: sentinel.packet(&syn, SENTINEL)?.frame()?,
        })
    }

    /// The gateway's namespace.
    pub fn gateway(&self) -> &Namespace {
        &self.gateway
    }

    /// Sends a frame to the gateway.
    pub fn send(&self, direction: Direction, frame: &[u8]) -> Result<()> {
        let socket = match direction {
            Direction::ToServer => &self.internet,
            Direction::ToSite => &self.lan,
        };
        let sent = send(socket.as_raw_fd(), frame, MsgFlags::empty()).context("send a frame")?;
        ensure!(sent == frame.len(), "a frame was cut off");
        Ok(())
    }

    /// Returns the packets with tags below `count` that came out since the last call. The kernel's queues are
    /// first in, first out on one CPU: once the sentinel has arrived, so has every other packet.
    pub fn collect(&self, count: usize) -> Result<Received> {
        let mut received = vec![None; count];
        self.send(Direction::ToServer, &self.sentinel)?;
        let mut buffer = [0u8; 2048];
        loop {
            match receive(&self.lan, &mut buffer, MsgFlags::empty())? {
                Some(frame) if tag(frame) == Some(SENTINEL) => break,
                Some(frame) => store(frame, &mut received)?,
                None => bail!("the sentinel that ends a batch did not pass {}", self.gateway.name()),
            }
        }
        while let Some(frame) = receive(&self.internet, &mut buffer, MsgFlags::MSG_DONTWAIT)? {
            store(frame, &mut received)?;
        }
        Ok(received)
    }
}

/// Receives a frame. Returns `None` after the socket's timeout, or at once with MSG_DONTWAIT.
fn receive<'a>(socket: &OwnedFd, buffer: &'a mut [u8], flags: MsgFlags) -> Result<Option<&'a [u8]>> {
    match recv(socket.as_raw_fd(), buffer, flags) {
        Ok(length) => Ok(Some(&buffer[..length])),
        Err(Errno::EAGAIN) => Ok(None),
        Err(Errno::ENOBUFS) => bail!("the socket's buffer is too small for a batch"),
        Err(error) => Err(std::io::Error::from(error)).context("receive a frame"),
    }
}

/// Returns a frame's tag, its IPv4 identification or IPv6 flow label. `None` for the gateway's own packets:
/// ICMP errors, ARP, neighbour discovery.
fn tag(frame: &[u8]) -> Option<u16> {
    let word = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    let own = |source: IpAddr| source.is_multicast() || GATEWAY.contains(&source);
    match frame.get(12..54)? {
        [8, 0, ..] => {
            let source: [u8; 4] = frame[26..30].try_into().ok()?;
            (!own(source.into())).then(|| word(18))
        }
        [0x86, 0xdd, ..] => {
            let source: [u8; 16] = frame[22..38].try_into().ok()?;
            let link_local = source[0] == 0xfe || source == [0; 16];
            (!own(source.into()) && !link_local).then(|| word(16))
        }
        _ => None,
    }
}

/// Stores a frame's packet at its tag.
fn store(frame: &[u8], received: &mut Received) -> Result<()> {
    let Some(tag) = tag(frame) else { return Ok(()) };
    let place = received.get_mut(usize::from(tag)).with_context(|| format!("nobody sent packet {tag}"))?;
    ensure!(place.is_none(), "packet {tag} arrived twice");
    *place = Some(frame[14..].to_vec());
    Ok(())
}

fn socket(wire: &Namespace, interface: &str) -> Result<OwnedFd> {
    const BUFFER_BYTES: usize = 64 << 20;
    let socket = packet_socket(wire, interface)?;
    setsockopt(&socket, RcvBufForce, &BUFFER_BYTES)?;
    setsockopt(&socket, ReceiveTimeout, &TimeVal::seconds(PATIENCE_SECONDS))?;
    let on: libc::c_int = 1;
    // SAFETY: the option's value is an int, and its size is passed along.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_IGNORE_OUTGOING,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    match Errno::result(result).map_err(std::io::Error::from) {
        Ok(_) => Ok(socket),
        Err(error) if error.kind() == ErrorKind::InvalidInput => bail!("PACKET_IGNORE_OUTGOING: {error}"),
        Err(error) => Err(error.into()),
    }
}

/// Returns the lines for `ip -batch`: the sites behind a router on the internet, the servers on the LAN.
fn set_up(name: &str, wire: &str) -> String {
    const ROUTERS: [&str; 2] = ["203.0.113.254", "2001:db8:113::fe"];
    let mut lines = String::new();
    for (interface, addresses) in [("internet", &GATEWAY[..2]), ("lan", &GATEWAY[2..])] {
        lines += &format!(
            "link add {interface} address 52:54:00:00:00:01 type veth peer name {name}-{interface} netns {wire}\n\
             link set {interface} up\n"
        );
        for address in addresses {
            let bits = if address.is_ipv4() { 24 } else { 64 };
            lines += &format!("addr add {address}/{bits} dev {interface}\n");
        }
    }
    for router in ROUTERS {
        lines += &format!("neigh add {router} lladdr 52:54:00:00:00:fe dev internet nud permanent\n");
    }
    let servers = CUSTOMERS.iter().flat_map(|customer| {
        [Some(IpAddr::V4(customer.server)), customer.server6.map(IpAddr::V6)].into_iter().flatten()
    });
    for server in servers {
        lines += &format!("neigh add {server} lladdr 52:54:00:00:00:02 dev lan nud permanent\n");
    }
    let lans: BTreeSet<(IpAddr, u8)> = TUNNELS
        .iter()
        .flat_map(|known| {
            let lan6 = known.lan6.map(|(network, bits)| (IpAddr::V6(network), bits));
            [Some((IpAddr::V4(known.lan.0), known.lan.1)), lan6].into_iter().flatten()
        })
        .collect();
    for (network, bits) in lans {
        let router = ROUTERS[usize::from(network.is_ipv6())];
        lines += &format!("route add {network}/{bits} via {router} dev internet\n");
    }
    lines
}
