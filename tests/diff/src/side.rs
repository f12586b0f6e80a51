//! One side of the comparison: a gateway in a namespace between two veths, and the sockets at their
//! far ends that packets are put into and taken out of.
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

/// The far ends of all veths.
pub const WIRE: &str = "wire";
/// How many packets may be under way between two calls of [`Side::collect`]: their IPv4
/// identification or IPv6 flow label tells them apart.
pub const BATCH: usize = 4096;
/// The tag of the packet that ends a batch.
const SENTINEL: u16 = u16::MAX;
/// A gateway's addresses on both sides.
const GATEWAY: [IpAddr; 4] = [
    IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, 1)),
    IpAddr::V4(Ipv4Addr::new(10, 200, 0, 1)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x200, 0, 0, 0, 0, 0, 1)),
];
/// How long a packet may take through a namespace.
const PATIENCE_SECONDS: i64 = 5;

/// A gateway.
pub struct Side {
    gateway: Namespace,
    internet: OwnedFd,
    lan: OwnedFd,
    sentinel: Vec<u8>,
}

/// What came out, by tag: the IP packet.
pub type Arrived = Vec<Option<Vec<u8>>>;

impl Side {
    /// Makes the namespace, with routes and neighbours, and nothing that filters.
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

    /// Its namespace.
    pub fn gateway(&self) -> &Namespace {
        &self.gateway
    }

    /// Puts a frame on the wire to it.
    pub fn send(&self, direction: Direction, frame: &[u8]) -> Result<()> {
        let socket = match direction {
            Direction::ToServer => &self.internet,
            Direction::ToSite => &self.lan,
        };
        let sent = send(socket.as_raw_fd(), frame, MsgFlags::empty()).context("send a frame")?;
        ensure!(sent == frame.len(), "a frame was cut off");
        Ok(())
    }

    /// What came out since the last call, of packets with tags below `count`. The kernel's queues
    /// are first in, first out on one CPU: once the sentinel is here, so is all that will come.
    pub fn collect(&self, count: usize) -> Result<Arrived> {
        let mut arrived = vec![None; count];
        self.send(Direction::ToServer, &self.sentinel)?;
        let mut buffer = [0u8; 2048];
        loop {
            match receive(&self.lan, &mut buffer, MsgFlags::empty())? {
                Some(frame) if tag(frame) == Some(SENTINEL) => break,
                Some(frame) => file(frame, &mut arrived)?,
                None => bail!("the packet that ends a batch did not come through {}", self.gateway.name()),
            }
        }
        while let Some(frame) = receive(&self.internet, &mut buffer, MsgFlags::MSG_DONTWAIT)? {
            file(frame, &mut arrived)?;
        }
        Ok(arrived)
    }
}

/// None once nothing came for a while, or at once with MSG_DONTWAIT.
fn receive<'a>(socket: &OwnedFd, buffer: &'a mut [u8], flags: MsgFlags) -> Result<Option<&'a [u8]>> {
    match recv(socket.as_raw_fd(), buffer, flags) {
        Ok(length) => Ok(Some(&buffer[..length])),
        Err(Errno::EAGAIN) => Ok(None),
        Err(Errno::ENOBUFS) => bail!("the socket's buffer is too small for a batch"),
        Err(error) => Err(std::io::Error::from(error)).context("receive a frame"),
    }
}

/// IPv4 identification or IPv6 flow label, but of what the gateway itself says (ICMP errors, ARP,
/// neighbour discovery).
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

fn file(frame: &[u8], arrived: &mut Arrived) -> Result<()> {
    let Some(tag) = tag(frame) else { return Ok(()) };
    let place = arrived.get_mut(usize::from(tag)).with_context(|| format!("nobody sent packet {tag}"))?;
    ensure!(place.is_none(), "packet {tag} came twice");
    *place = Some(frame[14..].to_vec());
    Ok(())
}

fn socket(wire: &Namespace, interface: &str) -> Result<OwnedFd> {
    const BUFFER_BYTES: usize = 64 << 20;
    let socket = packet_socket(wire, interface)?;
    setsockopt(&socket, RcvBufForce, &BUFFER_BYTES)?;
    setsockopt(&socket, ReceiveTimeout, &TimeVal::seconds(PATIENCE_SECONDS))?;
    let on: libc::c_int = 1;
    // SAFETY: the option's value is an int, whose size is given.
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

/// Lines for `ip -batch`: the sites behind a router on the internet interface, the servers on the LAN.
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
