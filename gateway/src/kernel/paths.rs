//! The path MTUs to peers, followed in a task of its own: nobody waits for the kernel's answers.
//!
//! The kernel keeps what routers announce (RFC 1191, RFC 8201) as exceptions of its routes, and lists only those on
//! request (net/ipv4/fib_trie.c, `fib_table_dump`). So a look costs what there are exceptions, however many peers there
//! are. An MTU that is set on a route is asked for once for each peer, and rarely again.
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    ops::Bound::{Excluded, Unbounded},
    time::Duration,
};

use anyhow::{Context, Result};
use futures::TryStreamExt;
use rtnetlink::{
    Handle, new_connection,
    packet_route::{
        AddressFamily,
        route::{RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric},
    },
    sys::AsyncSocket as _,
};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tracing::warn;

/// Interval of looks at what the kernel has learnt.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// Shortest interval of looks.
const SHORTEST_INTERVAL: Duration = Duration::from_secs(1);
/// Looks after which each peer's route has been asked for again.
const REFRESHED_AFTER_LOOKS: usize = 120;
/// Limit on the kernel's answer, which normally comes at once.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// Follows the path MTUs, in the network namespace of the thread that started it.
pub struct Paths {
    peers: watch::Sender<BTreeSet<IpAddr>>,
    learnt: watch::Receiver<BTreeMap<IpAddr, u32>>,
    tasks: [JoinHandle<()>; 2],
}

impl Paths {
    /// Starts to follow. Must be called in a tokio runtime.
    pub fn follow() -> Result<Self> {
        let (routes, connection) = Routes::open()?;
        let (peers, watched) = watch::channel(BTreeSet::new());
        let (sender, learnt) = watch::channel(BTreeMap::new());
        Ok(Self { peers, learnt, tasks: [connection, tokio::spawn(look(routes, watched, sender))] })
    }

    /// Replaces the peers whose paths are followed.
    pub fn set_peers(&self, peers: BTreeSet<IpAddr>) {
        self.peers.send_if_modified(|current| {
            let differs = *current != peers;
            if differs {
                *current = peers;
            }
            differs
        });
    }

    /// Waits for a change, and returns the path MTUs of peers that have one, in bytes. Cancel safe.
    pub async fn changed(&mut self) -> BTreeMap<IpAddr, u32> {
        if self.learnt.changed().await.is_err() {
            // Unreachable: the task runs until the sender of peers is dropped.
            return std::future::pending().await;
        }
        self.learnt.borrow_and_update().clone()
    }
}

impl Drop for Paths {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Looks again and again until the other end is dropped.
async fn look(
    routes: Routes,
    mut peers: watch::Receiver<BTreeSet<IpAddr>>,
    learnt: watch::Sender<BTreeMap<IpAddr, u32>>,
) {
    let mut asked = Asked::default();
    loop {
        let wanted = peers.borrow_and_update().clone();
        asked.refresh(&routes, &wanted).await;
        let exceptions = routes.exceptions().await;
        let of_peer = |peer: &IpAddr| {
            let set = asked.known.get(peer).copied().flatten();
            Some((*peer, exceptions.get(peer).copied().or(set)?))
        };
        let now: BTreeMap<IpAddr, u32> = wanted.iter().filter_map(of_peer).collect();
        learnt.send_if_modified(|before| {
            let differs = *before != now;
            if differs {
                *before = now;
            }
            differs
        });
        // New peers need not wait long, but a site that moves again and again must not keep this busy.
        sleep(SHORTEST_INTERVAL).await;
        tokio::select! {
            changed = peers.changed() => if changed.is_err() { return },
            () = sleep(LOOK_INTERVAL) => {}
        }
    }
}

/// The answers about peers' routes.
#[derive(Default)]
struct Asked {
    known: BTreeMap<IpAddr, Option<u32>>,
    /// The peer that was refreshed last.
    last: Option<IpAddr>,
}

impl Asked {
    /// Asks for the routes of new peers and of some others, and forgets peers that are gone.
    async fn refresh(&mut self, routes: &Routes, peers: &BTreeSet<IpAddr>) {
        self.known.retain(|peer, _| peers.contains(peer));
        let new = peers.iter().filter(|peer| !self.known.contains_key(peer)).copied();
        let after = self.last.map_or(Unbounded, Excluded);
        let some = peers.range((after, Unbounded)).take(peers.len() / REFRESHED_AFTER_LOOKS + 1);
        let some: Vec<IpAddr> = some.copied().collect();
        self.last = some.last().copied();
        for peer in new.collect::<Vec<_>>().into_iter().chain(some) {
            let mtu = routes.path_mtu(peer).await;
            self.known.insert(peer, mtu);
        }
    }
}

/// A route socket.
struct Routes(Handle);

impl Routes {
    /// Opens a socket, and starts the task that serves it.
    fn open() -> Result<(Self, JoinHandle<()>)> {
        let (mut connection, routes, _) = new_connection().context("open a route socket")?;
        // Only then the kernel lists exceptions without routes (net/ipv4/fib_frontend.c, `inet_dump_fib`).
        let socket = connection.socket_mut().socket_ref();
        socket.set_netlink_get_strict_chk(true).context("NETLINK_GET_STRICT_CHK")?;
        Ok((Self(routes), tokio::spawn(connection)))
    }

    /// Returns the path MTU to a peer in bytes, as learnt by the kernel or as set on the route; None if neither is known
    /// or no route exists.
    async fn path_mtu(&self, peer: IpAddr) -> Option<u32> {
        let mut answers = Box::pin(self.0.route().get(request(peer)).execute());
        let answer = timeout(ANSWER_WITHIN, answers.try_next()).await.ok()?.ok()??;
        path_mtu(&answer)
    }

    /// Returns the path MTUs in bytes that the kernel has learnt, by destination.
    async fn exceptions(&self) -> BTreeMap<IpAddr, u32> {
        let mut learnt = BTreeMap::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut request = RouteMessage::default();
            request.header.address_family = family;
            request.header.flags = RouteFlags::Cloned;
            let answers = self.0.route().get(request).execute();
            match timeout(ANSWER_WITHIN, answers.try_collect::<Vec<_>>()).await {
                Ok(Ok(routes)) => learnt.extend(routes.iter().filter_map(exception)),
                Ok(Err(error)) => warn!("cannot list the path MTUs that the kernel has learnt: {error}"),
                Err(_) => warn!("the kernel does not list the path MTUs that it has learnt"),
            }
        }
        learnt
    }
}

/// Returns the request of `ip route get PEER`.
fn request(peer: IpAddr) -> RouteMessage {
    let mut request = RouteMessage::default();
    (request.header.address_family, request.header.destination_prefix_length) = match peer {
        IpAddr::V4(_) => (AddressFamily::Inet, 32),
        IpAddr::V6(_) => (AddressFamily::Inet6, 128),
    };
    request.attributes.push(RouteAttribute::Destination(peer.into()));
    request
}

/// Returns the destination and the path MTU of an exception.
fn exception(route: &RouteMessage) -> Option<(IpAddr, u32)> {
    let destination = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(IpAddr::V4(*address)),
        RouteAttribute::Destination(RouteAddress::Inet6(address)) => Some(IpAddr::V6(*address)),
        _ => None,
    });
    Some((destination?, path_mtu(route)?))
}

fn path_mtu(answer: &RouteMessage) -> Option<u32> {
    let metrics = answer.attributes.iter().filter_map(|attribute| match attribute {
        RouteAttribute::Metrics(metrics) => Some(metrics),
        _ => None,
    });
    metrics.flatten().find_map(|metric| match metric {
        RouteMetric::Mtu(bytes) => Some(*bytes),
        _ => None,
    })
}
