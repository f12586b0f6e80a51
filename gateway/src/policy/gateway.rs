//! The gateway's own part of a policy.
use std::path::PathBuf;

use ipnet::IpNet;

use super::identity::Identity;
use super::limits::{Limits, Timeouts};
use super::names::InterfaceName;

/// The gateway itself: `gateway.toml`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gateway {
    /// The interface on which IKE and ESP arrive.
    pub internet: InterfaceName,
    /// The interface of the cloud LAN, which holds the customers' servers.
    pub lan: InterfaceName,
    /// Prefixes of the cloud LAN, at most one per address family. Every server is inside.
    pub cloud_lan: Vec<IpNet>,
    /// The gateway's IKE identity and credentials.
    pub ipsec: Ipsec,
    /// Traffic other than IKE and ESP that may reach the gateway on the internet interface.
    pub management: Vec<Management>,
    /// Table sizes.
    pub limits: Limits,
    /// Idle timeout of a flow in each TCP state.
    pub timeouts: Timeouts,
    /// Treatment of a connection whose handshake the gateway did not see.
    pub midstream: Midstream,
    /// A reload that removes a larger part of the customers is held back; 100 for never. See
    /// [`check_removals`](super::check_removals).
    pub max_removed_percent: u8,
}

/// Treatment of a connection whose handshake the gateway did not see, such as after a failover.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Midstream {
    /// Drop its packets.
    #[default]
    Drop,
    /// Adopt it on a packet from the site, as `nf_conntrack_tcp_loose=1` does.
    Adopt,
}

/// The gateway's identity and its credentials: PEM files, named by absolute path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ipsec {
    /// The gateway's domain name, a subject alternative name of the certificate.
    pub identity: Identity,
    /// The gateway's certificate.
    pub certificate: PathBuf,
    /// The certificate's private key.
    pub private_key: PathBuf,
    /// The certificate authority that signs the sites' certificates.
    pub authority: PathBuf,
}

/// One entry of the management allow-list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Management {
    /// Allowed source addresses.
    pub from: IpNet,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Destination port on the gateway, never 0.
    pub port: u16,
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// `tcp`, IP protocol 6.
    Tcp,
    /// `udp`, IP protocol 17.
    Udp,
}
