//! rtnetlink: notices of changed interfaces and addresses.
use std::time::Duration;

use anyhow::{Context, Result};
use futures::{StreamExt, channel::mpsc::UnboundedReceiver};
use rtnetlink::{
    MulticastGroup, new_multicast_connection, packet_core::NetlinkMessage, packet_route::RouteNetlinkMessage,
    sys::SocketAddr,
};
use tokio::{task::JoinHandle, time::sleep};
use tracing::warn;

/// Multicast groups that announce changes of interfaces and addresses.
const GROUPS: [MulticastGroup; 3] =
    [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
/// Delay before a lost socket is reopened.
const REOPEN_AFTER: Duration = Duration::from_secs(1);

/// A route socket, in the network namespace of the thread that opened it.
pub struct Network {
    changes: UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>,
    task: JoinHandle<()>,
}

impl Network {
    /// Opens the socket. Must be called in a tokio runtime.
    pub fn open() -> Result<Self> {
        let (listening, _, changes) =
            new_multicast_connection(&GROUPS).context("listen for changes of interfaces")?;
        Ok(Self { changes, task: tokio::spawn(listening) })
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
}

impl Drop for Network {
    fn drop(&mut self) {
        self.task.abort();
    }
}
