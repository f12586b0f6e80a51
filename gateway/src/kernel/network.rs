//! What the kernel tells over rtnetlink: that something changed, and how large packets to a peer
//! may be.
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

/// What tells that an interface or an address changed.
const GROUPS: [MulticastGroup; 3] =
    [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
/// How long to wait before connecting again.
const REOPEN_AFTER: Duration = Duration::from_secs(1);
/// How long the kernel may take to answer, which it does at once.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// How long an answer about a path holds.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(5);

/// Connections to the kernel, in the network namespace of the thread that made them.
pub struct Network {
    routes: Handle,
    changes: UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>,
    tasks: [JoinHandle<()>; 2],
}

impl Network {
    /// Connects. Must be called in a tokio runtime.
    pub fn open() -> Result<Self> {
        let (asking, routes, _) = new_connection().context("open a route socket")?;
        let (listening, _, changes) =
            new_multicast_connection(&GROUPS).context("listen to changes of interfaces")?;
        Ok(Self { routes, changes, tasks: [tokio::spawn(asking), tokio::spawn(listening)] })
    }

    /// Waits until an interface or an address changed, or may have: when the kernel had more to tell
    /// than the socket holds, it is opened again. Safe to cancel.
    pub async fn changed(&mut self) {
        if self.changes.next().await.is_none() {
            sleep(REOPEN_AFTER).await;
            match Self::open() {
                Ok(network) => *self = network,
                Err(error) => warn!("changes of interfaces are seen late: {error:#}"),
            }
            return;
        }
        // Whatever came meanwhile is the same change.
        while self.changes.try_recv().is_ok() {}
    }

    /// The largest packet on the way to a peer, in bytes, as the kernel has learnt it (RFC 1191, RFC
    /// 8201) or as its route says; None if neither, or without a route.
    pub async fn path_mtu(&self, peer: IpAddr) -> Option<u32> {
        let mut answers = Box::pin(self.routes.route().get(question(peer)).execute());
        let answer = timeout(ANSWER_WITHIN, answers.try_next()).await.ok()?.ok()??;
        path_mtu(&answer)
    }
}

/// What the kernel knows of paths to peers, asked now and then.
#[derive(Default)]
pub struct Paths {
    known: BTreeMap<IpAddr, (Instant, Option<u32>)>,
}

impl Paths {
    /// The path MTUs that the kernel has learnt, in bytes.
    pub async fn learn(
        &mut self,
        network: &Network,
        peers: impl IntoIterator<Item = IpAddr>,
    ) -> BTreeMap<IpAddr, u32> {
        let before = std::mem::take(&mut self.known);
        let now = Instant::now();
        for peer in peers {
            let known = before.get(&peer).filter(|(asked, _)| now - *asked < LOOK_AGAIN_AFTER);
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

/// What `ip route get PEER` asks.
fn question(peer: IpAddr) -> RouteMessage {
    let mut question = RouteMessage::default();
    (question.header.address_family, question.header.destination_prefix_length) = match peer {
        IpAddr::V4(_) => (AddressFamily::Inet, 32),
        IpAddr::V6(_) => (AddressFamily::Inet6, 128),
    };
    question.attributes.push(RouteAttribute::Destination(peer.into()));
    question
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
