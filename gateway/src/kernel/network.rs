//! rtnetlink: notices of changed interfaces and addresses, and the path MTU to a peer.
use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt, channel::mpsc::UnboundedReceiver};
use rtnetlink::{
    Handle, MulticastGroup, new_connection, new_multicast_connection,
    packet_core::NetlinkMessage,
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        route::{RouteAttribute, RouteMessage, RouteMetric},
    },
    sys::SocketAddr,
};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tracing::warn;

/// Multicast groups that announce changes of interfaces and addresses.
const GROUPS: [MulticastGroup; 3] =
    [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
/// Delay before a lost socket is reopened.
const REOPEN_AFTER: Duration = Duration::from_secs(1);
/// Limit on the kernel's answer, which normally comes at once.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// Age at which an answer about a path is refreshed.
const REFRESH_AFTER: Duration = Duration::from_secs(5);

/// Route sockets, in the network namespace of the thread that opened them.
pub struct Network {
    routes: Handle,
    changes: UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>,
    tasks: [JoinHandle<()>; 2],
}

impl Network {
    /// Opens the sockets. Must be called in a tokio runtime.
    pub fn open() -> Result<Self> {
        let (asking, routes, _) = new_connection().context("open a route socket")?;
        let (listening, _, changes) =
            new_multicast_connection(&GROUPS).context("listen for changes of interfaces")?;
        Ok(Self { routes, changes, tasks: [tokio::spawn(asking), tokio::spawn(listening)] })
    }

    /// Waits until an interface or an address may have changed. When the socket overflowed and closed, reopens
    /// it and returns, as changes may have been missed. Safe to cancel.
    pub async fn changed(&mut self) {
        if self.changes.next().await.is_none() {
            sleep(REOPEN_AFTER).await;
            match Self::open() {
                Ok(network) => *self = network,
                Err(error) => {
                    warn!("cannot listen for changes of interfaces, they will be noticed late: {error:#}")
                }
            }
            return;
        }
        // Treat everything received meanwhile as the same change.
        while self.changes.try_recv().is_ok() {}
    }

    /// Returns the path MTU to a peer in bytes, as learnt by the kernel (RFC 1191, RFC 8201) or as set on the
    /// route; None if neither is known or no route exists.
    pub async fn path_mtu(&self, peer: IpAddr) -> Option<u32> {
        let mut answers = Box::pin(self.routes.route().get(request(peer)).execute());
        let answer = timeout(ANSWER_WITHIN, answers.try_next()).await.ok()?.ok()??;
        path_mtu(&answer)
    }
}

/// A cache of the kernel's path MTUs to peers.
#[derive(Default)]
pub struct Paths {
    known: BTreeMap<IpAddr, (Instant, Option<u32>)>,
}

impl Paths {
    /// Returns the path MTUs of peers that have one, in bytes; refreshes old answers and forgets other peers.
    pub async fn learn(
        &mut self,
        network: &Network,
        peers: impl IntoIterator<Item = IpAddr>,
    ) -> BTreeMap<IpAddr, u32> {
        let before = std::mem::take(&mut self.known);
        let now = Instant::now();
        for peer in peers {
            let known = before.get(&peer).filter(|(asked, _)| now - *asked < REFRESH_AFTER);
            let known = match known {
                Some(known) => *known,
                None => (now, network.path_mtu(peer).await),
            };
            self.known.insert(peer, known);
        }
        self.known.iter().filter_map(|(peer, (_, mtu))| Some((*peer, (*mtu)?))).collect()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
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
