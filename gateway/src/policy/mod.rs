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
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use ipnet::IpNet;

pub use fault::{Fault, Faults, Invalid, Position};
pub use identity::Identity;
pub use limits::{Limits, Quota, Timeouts};
pub use load::{Reload, load, load_keeping};
pub use names::{CustomerName, InterfaceName, SiteName, connection_name, parse_connection_name};
pub use secrets::{check_secrets, unreadable};

/// Prefixes of one family that a site's `lan` may have. They are kept inline in the tunnel's map entry.
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
    /// The prefix of the cloud LAN, at most one of each family; every server is inside.
    pub cloud_lan: Vec<IpNet>,
    /// Who the gateway is to its peers.
    pub ipsec: Ipsec,
    /// What besides IKE and ESP may reach the gateway on the internet interface.
    pub management: Vec<Management>,
    /// Sizes of tables.
    pub limits: Limits,
    /// How long a flow lives in each TCP state.
    pub timeouts: Timeouts,
    /// What becomes of a connection that the gateway has not seen begin.
    pub midstream: Midstream,
}

/// What becomes of a connection that the gateway has not seen begin, as after a failover.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Midstream {
    /// Its packets are dropped.
    #[default]
    Drop,
    /// A packet from the site takes it up, as with `nf_conntrack_tcp_loose=1`.
    Adopt,
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

/// A tenant: one server, and sites that may reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Customer {
    /// The file's name without `.toml`.
    pub name: CustomerName,
    /// The server on the cloud LAN.
    pub server: Server,
    /// The server's TCP port, never 0.
    pub port: u16,
    /// What the customer may take of the flow tables.
    pub quota: Quota,
    /// At least one, in the order of the file, with different names.
    pub sites: Vec<Site>,
}

/// A server's addresses, at least one; no two customers have the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Server {
    /// IPv4.
    pub v4: Option<Ipv4Addr>,
    /// IPv6.
    pub v6: Option<Ipv6Addr>,
}

/// One IoT LAN with its gateway, hence one tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// Different from the customer's other sites' names.
    pub name: SiteName,
    /// What the site's certificate must say; no two sites have the same.
    pub identity: Identity,
    /// At least one prefix, of each family at most [`MAX_LAN_PREFIXES`] and none if the server has no
    /// address of it. They overlap no other prefix of this customer.
    pub lan: Vec<IpNet>,
    /// The largest packet on the way to the site, in bytes, if the policy knows.
    pub path_mtu: Option<u16>,
}

impl Policy {
    /// Sites of all customers, hence tunnels.
    pub fn site_count(&self) -> usize {
        self.customers.values().map(|c| c.sites.len()).sum()
    }

    /// The customers that are new or other than in an older policy; None if a customer or a site of that
    /// one is gone.
    pub fn changes(&self, older: &Self) -> Option<Vec<&Customer>> {
        for old in older.customers.values() {
            let new = self.customers.get(&old.name)?;
            if old != new && !old.sites.iter().all(|site| new.site(&site.name).is_some()) {
                return None;
            }
        }
        let changed = |customer: &&Customer| older.customers.get(&customer.name) != Some(customer);
        Some(self.customers.values().filter(changed).collect())
    }

    /// Whether any customer has an IPv6 server.
    pub fn has_v6_server(&self) -> bool {
        self.customers.values().any(|customer| customer.server.v6.is_some())
    }

    /// Flows that all customers may have together, IPv4 and IPv6. A customer's quota is of both families
    /// together, so that each table must hold all of it.
    pub fn quotas(&self) -> (u64, u64) {
        let sum = |has: fn(&Server) -> bool| {
            let customers = self.customers.values().filter(|customer| has(&customer.server));
            customers.map(|customer| u64::from(customer.quota.flows(&self.gateway.limits))).sum()
        };
        (sum(|server| server.v4.is_some()), sum(|server| server.v6.is_some()))
    }

    /// IPv6 flows that there is to be room for.
    pub fn flows6(&self) -> u32 {
        self.gateway.limits.flows6(self.has_v6_server())
    }
}

impl Server {
    /// Its addresses, IPv4 first.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.v4.map(IpAddr::V4).into_iter().chain(self.v6.map(IpAddr::V6))
    }
}

impl FromIterator<IpAddr> for Server {
    /// Of several of one family the last counts.
    fn from_iter<I: IntoIterator<Item = IpAddr>>(addresses: I) -> Self {
        let mut server = Self::default();
        for address in addresses {
            match address {
                IpAddr::V4(address) => server.v4 = Some(address),
                IpAddr::V6(address) => server.v6 = Some(address),
            }
        }
        server
    }
}

impl Customer {
    /// The site of this name.
    pub fn site(&self, name: &SiteName) -> Option<&Site> {
        self.sites.iter().find(|site| site.name == *name)
    }
}
