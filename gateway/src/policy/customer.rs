//! A customer: its server, its quota and its sites.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::identity::Identity;
use super::limits::{Quota, SiteQuota};
use super::names::{CustomerName, SiteName};

/// A tenant: one server and the sites that may reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Customer {
    /// The file's name without `.toml`.
    pub name: CustomerName,
    /// The server on the cloud LAN.
    pub server: Server,
    /// The server's TCP port, never 0.
    pub port: u16,
    /// The customer's share of the flow tables.
    pub quota: Quota,
    /// Sites in file order: at least one, each with a name of its own.
    pub sites: Vec<Site>,
}

/// A server's addresses: at least one, none shared with another customer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Server {
    /// IPv4.
    pub v4: Option<Ipv4Addr>,
    /// IPv6.
    pub v6: Option<Ipv6Addr>,
}

/// One IoT LAN behind one site gateway: one tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// The site's name, unique within the customer.
    pub name: SiteName,
    /// The domain name that the site's certificate must carry, unique among all sites.
    pub identity: Identity,
    /// Prefixes of the site's LAN: at least one, at most
    /// [`MAX_LAN_PREFIXES`](super::limits::MAX_LAN_PREFIXES) per family, and only families in which the
    /// server has an address. They overlap no other prefix of the same customer.
    pub lan: Vec<IpNet>,
    /// MTU of the path to the site in bytes, if the policy states it.
    pub path_mtu: Option<u16>,
    /// The site's share of the customer's quota.
    pub quota: SiteQuota,
}

impl Server {
    /// Returns the server's addresses, IPv4 first.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.v4.map(IpAddr::V4).into_iter().chain(self.v6.map(IpAddr::V6))
    }
}

impl FromIterator<IpAddr> for Server {
    /// Collects addresses. The last address of a family wins.
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
    /// Returns the site of this name.
    pub fn site(&self, name: &SiteName) -> Option<&Site> {
        self.sites.iter().find(|site| site.name == *name)
    }
}
