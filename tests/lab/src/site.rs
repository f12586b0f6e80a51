//! The sites, and the configuration of their routers' tunnels.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ::gateway::strongswan::{Child, Connection, Local, PeerIdentity, Remote, Revocation};
use anyhow::Result;
use ipnet::IpNet;

/// The cipher suite a site's router insists on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suite {
    /// AES-256-GCM, PRF with SHA-512, curve25519.
    Gcm,
    /// AES-256-CBC with HMAC-SHA-512, curve25519: for routers without GCM.
    Cbc,
}

/// One site of a customer, as in `policies/`, plus its addresses.
#[derive(Debug, Clone, Copy)]
pub struct Spec {
    /// The customer's name, that of the policy file.
    pub customer: &'static str,
    /// The site's name in that policy.
    pub name: &'static str,
    /// The IKE identity, a DNS name in the certificate.
    pub identity: &'static str,
    /// The IoT LAN, a prefix in CIDR notation.
    pub lan: &'static str,
    /// The router's address on the LAN.
    pub router: Ipv4Addr,
    /// The device's address on the LAN.
    pub device: Ipv4Addr,
    /// The prefix length of the LAN.
    pub prefix_len: u8,
    /// The customer's server on the cloud LAN.
    pub server: Ipv4Addr,
    /// The cipher suite that the router offers.
    pub suite: Suite,
    /// True if the router is behind NAT, so that ESP travels in UDP.
    pub behind_nat: bool,
    /// Its IPv6 addresses, in addition to the IPv4 ones.
    pub v6: Option<InsideV6>,
    /// True if the router's uplink has IPv6 only, so that IKE and ESP travel in IPv6.
    pub uplink_v6: bool,
}

/// IPv6 addresses of a site and its customer's server. Prefixes are /64.
#[derive(Debug, Clone, Copy)]
pub struct InsideV6 {
    /// The IoT LAN, a prefix in CIDR notation.
    pub lan: &'static str,
    /// The router's address on the LAN.
    pub router: Ipv6Addr,
    /// The device's address on the LAN.
    pub device: Ipv6Addr,
    /// The customer's server on the cloud LAN.
    pub server: Ipv6Addr,
}

/// A device and its server, in one address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    /// The device's address.
    pub device: IpAddr,
    /// The server's address.
    pub server: IpAddr,
}

impl Ends {
    /// Returns source and destination of packets to the server or, if not `to_server`, from it.
    pub fn way(self, to_server: bool) -> (IpAddr, IpAddr) {
        if to_server { (self.device, self.server) } else { (self.server, self.device) }
    }
}

/// acme's server on the cloud LAN.
pub const ACME_SERVER: Ipv4Addr = Ipv4Addr::new(10, 200, 0, 11);
/// globex's server on the cloud LAN.
pub const GLOBEX_SERVER: Ipv4Addr = Ipv4Addr::new(10, 200, 0, 12);
/// initech's server on the cloud LAN.
pub const INITECH_SERVER: Ipv4Addr = Ipv4Addr::new(10, 200, 0, 13);
/// wonka's server on the cloud LAN.
pub const WONKA_SERVER: Ipv4Addr = Ipv4Addr::new(10, 200, 0, 14);
/// The IPv6 address of acme's server.
pub const ACME_SERVER_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x200, 0, 0, 0, 0, 0, 0x11);
/// The IPv6 address of wonka's server.
pub const WONKA_SERVER_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x200, 0, 0, 0, 0, 0, 0x14);

/// All sites. acme-berlin and globex-springfield have equal IPv4 LANs and device addresses; acme-berlin and
/// wonka-london have equal IPv6 LANs and device addresses.
pub const SITES: [Spec; 5] = [
    Spec {
        customer: "acme",
        name: "berlin",
        identity: "berlin.acme.example",
        lan: "192.168.0.0/16",
        router: Ipv4Addr::new(192, 168, 0, 1),
        device: Ipv4Addr::new(192, 168, 1, 2),
        prefix_len: 16,
        server: ACME_SERVER,
        suite: Suite::Gcm,
        behind_nat: false,
        v6: Some(InsideV6 {
            lan: "fd00:192:168::/64",
            router: Ipv6Addr::new(0xfd00, 0x192, 0x168, 0, 0, 0, 0, 1),
            device: Ipv6Addr::new(0xfd00, 0x192, 0x168, 0, 0, 0, 0, 2),
            server: ACME_SERVER_V6,
        }),
        uplink_v6: false,
    },
    Spec {
        customer: "acme",
        name: "munich",
        identity: "munich.acme.example",
        lan: "10.20.0.0/16",
        router: Ipv4Addr::new(10, 20, 0, 1),
        device: Ipv4Addr::new(10, 20, 1, 2),
        prefix_len: 16,
        server: ACME_SERVER,
        suite: Suite::Gcm,
        behind_nat: false,
        v6: None,
        uplink_v6: false,
    },
    Spec {
        customer: "globex",
        name: "springfield",
        identity: "springfield.globex.example",
        lan: "192.168.0.0/16",
        router: Ipv4Addr::new(192, 168, 0, 1),
        device: Ipv4Addr::new(192, 168, 1, 2),
        prefix_len: 16,
        server: GLOBEX_SERVER,
        suite: Suite::Gcm,
        behind_nat: false,
        v6: None,
        uplink_v6: false,
    },
    Spec {
        customer: "initech",
        name: "austin",
        identity: "austin.initech.example",
        lan: "10.30.0.0/16",
        router: Ipv4Addr::new(10, 30, 0, 1),
        device: Ipv4Addr::new(10, 30, 1, 2),
        prefix_len: 16,
        server: INITECH_SERVER,
        suite: Suite::Cbc,
        behind_nat: true,
        v6: None,
        uplink_v6: false,
    },
    Spec {
        customer: "wonka",
        name: "london",
        identity: "london.wonka.example",
        lan: "10.40.0.0/16",
        router: Ipv4Addr::new(10, 40, 0, 1),
        device: Ipv4Addr::new(10, 40, 1, 2),
        prefix_len: 16,
        server: WONKA_SERVER,
        suite: Suite::Gcm,
        behind_nat: false,
        v6: Some(InsideV6 {
            lan: "fd00:192:168::/64",
            router: Ipv6Addr::new(0xfd00, 0x192, 0x168, 0, 0, 0, 0, 1),
            device: Ipv6Addr::new(0xfd00, 0x192, 0x168, 0, 0, 0, 0, 2),
            server: WONKA_SERVER_V6,
        }),
        uplink_v6: true,
    },
];

impl Spec {
    /// Returns `acme-berlin`, the name of its namespace and folder.
    pub fn full_name(&self) -> String {
        format!("{}-{}", self.customer, self.name)
    }

    /// Returns device and server for each address family of the site.
    pub fn ends(&self) -> Vec<Ends> {
        let v4 = Ends { device: self.device.into(), server: self.server.into() };
        let v6 = self.v6.map(|v6| Ends { device: v6.device.into(), server: v6.server.into() });
        [v4].into_iter().chain(v6).collect()
    }

    /// Returns the LANs of each address family of the site.
    pub fn lans(&self) -> Result<Vec<IpNet>> {
        let lans = [self.lan].into_iter().chain(self.v6.map(|v6| v6.lan));
        lans.map(|lan| Ok(lan.parse()?)).collect()
    }

    /// Returns the server's addresses as prefixes.
    pub fn servers(&self) -> Vec<IpNet> {
        self.ends().into_iter().map(|ends| ends.server.into()).collect()
    }
}

impl Suite {
    /// Returns the IKE proposal in strongSwan's notation.
    pub fn ike(self) -> &'static str {
        match self {
            Self::Gcm => "aes256gcm16-prfsha512-curve25519",
            Self::Cbc => "aes256-sha512-prfsha512-curve25519",
        }
    }

    /// Returns the ESP proposal in strongSwan's notation. The group makes CHILD rekeys forward secret.
    pub fn esp(self) -> &'static str {
        match self {
            Self::Gcm => "aes256gcm16-curve25519",
            Self::Cbc => "aes256-sha512-curve25519",
        }
    }
}

/// The name of a router's only connection and of its only child.
pub const CONNECTION: &str = "cloud";
/// The gateway's IKE identity in the example policies.
pub const GATEWAY_IDENTITY: &str = "gateway.example";

/// The reqid of a site's only tunnel on its own router. The cloud gateway has its own reqid for the same
/// tunnel.
pub const ROUTER_REQID: u32 = 1;

/// Returns the connection of a site's router, which tunnels the site's LANs to its servers through the cloud
/// gateway. `way` is the outer addresses of router and gateway. Connection and child are both named
/// [`CONNECTION`].
pub fn connection(local: Local, authority: &str, way: (IpAddr, IpAddr), spec: &Spec) -> Result<Connection> {
    let remote = Remote {
        identity: PeerIdentity::Name(GATEWAY_IDENTITY.to_owned()),
        authority: authority.as_bytes().into(),
        revocation: Revocation::Relaxed,
    };
    let mut child = Child::new(CONNECTION, spec.lans()?, spec.servers());
    child.esp_proposals = vec![spec.suite.esp().into()];
    child.reqid = Some(ROUTER_REQID);
    let mut connection = Connection::new(CONNECTION, local, remote);
    connection.local_addrs = vec![way.0];
    connection.remote_addrs = vec![way.1];
    connection.proposals = vec![spec.suite.ike().into()];
    connection.children = vec![child];
    Ok(connection)
}
