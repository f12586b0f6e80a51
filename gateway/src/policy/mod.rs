//! What the operator wants: policy files, read, checked and turned into values.
//!
//! A [`Policy`] holds parsed values only; once there is one, no string is left to be checked.
mod conflicts;
mod document;
mod fault;
mod files;
mod identity;
mod keys;
mod limits;
mod load;
mod names;
mod prefix;
mod secrets;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use ipnet::Ipv4Net;

pub use fault::{Fault, Faults, Invalid, Position};
pub use identity::Identity;
pub use limits::{Limits, Timeouts};
pub use load::{Reload, load, load_keeping};
pub use names::{CustomerName, InterfaceName, SiteName, connection_name, parse_connection_name};
pub use secrets::{check_secrets, unreadable};

/// Prefixes that a site's `lan` may have. They are kept inline in the tunnel's map entry.
pub const MAX_LAN_PREFIXES: usize = gateway_common::limits::PREFIXES_PER_SITE;

/// Entries that `[management] allow` may have.
pub const MAX_MANAGEMENT: usize = gateway_common::limits::MANAGEMENT_RULES;

/// The port of a customer's server when its file names none: HTTP.
pub const DEFAULT_SERVER_PORT: u16 = 80;

/// Everything that the policy files say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// `gateway.toml`.
    pub gateway: Gateway,
    /// `customers/*.toml`.
    pub customers: BTreeMap<CustomerName, Customer>,
}

/// The gateway itself: `gateway.toml`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gateway {
    /// Where IKE and ESP arrive.
    pub internet: InterfaceName,
    /// Where the customers' servers are.
    pub lan: InterfaceName,
    /// The prefix of the cloud LAN; every server is inside.
    pub cloud_lan: Ipv4Net,
    /// Who the gateway is to its peers.
    pub ipsec: Ipsec,
    /// What besides IKE and ESP may reach the gateway on the internet interface.
    pub management: Vec<Management>,
    /// Sizes of tables.
    pub limits: Limits,
    /// How long a flow lives in each TCP state.
    pub timeouts: Timeouts,
}

/// The gateway's identity and the files that prove it, all PEM, by absolute path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ipsec {
    /// A subject alternative name of the certificate.
    pub identity: Identity,
    /// The gateway's certificate.
    pub certificate: PathBuf,
    /// Its private key.
    pub private_key: PathBuf,
    /// The certificate authority that signs the sites' certificates.
    pub authority: PathBuf,
}

/// One entry of the management allow-list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Management {
    /// Allowed source addresses.
    pub from: Ipv4Net,
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

/// A tenant: one server, and sites that may reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Customer {
    /// The file's name without `.toml`.
    pub name: CustomerName,
    /// The server's address on the cloud LAN; no two customers have the same.
    pub server: Ipv4Addr,
    /// The server's TCP port, never 0.
    pub port: u16,
    /// At least one, in the order of the file, with different names.
    pub sites: Vec<Site>,
}

/// One IoT LAN with its gateway, hence one tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// Different from the customer's other sites' names.
    pub name: SiteName,
    /// What the site's certificate must say; no two sites have the same.
    pub identity: Identity,
    /// 1 to [`MAX_LAN_PREFIXES`] prefixes, which overlap no other prefix of this customer.
    pub lan: Vec<Ipv4Net>,
}

impl Policy {
    /// Sites of all customers, hence tunnels.
    pub fn site_count(&self) -> usize {
        self.customers.values().map(|c| c.sites.len()).sum()
    }
}

impl Customer {
    /// The site of this name.
    pub fn site(&self, name: &SiteName) -> Option<&Site> {
        self.sites.iter().find(|site| site.name == *name)
    }
}
