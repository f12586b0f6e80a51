//! The network: one namespace with the gateway, and one with all sites.
//!
//! | who | outer address | inner addresses |
//! |---|---|---|
//! | gateway | 198.18.0.1, behind the router 198.18.0.2 | 10.255.255.254, in the servers' network |
//! | site N | 198.18.1.0 + N | 172.16.0.0/29 + 8 N |
use std::{
    fmt::Write as _,
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use anyhow::Result;
use gateway::kernel::pins::Pins;
use gateway_tests_kit::{
    bpf::{Driver, Link},
    namespace::Namespace,
    process,
};
use ipnet::Ipv4Net;

/// The gateway's outer address.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// The gateway's next hop to all sites: the kernel's table of neighbours has room for 1,024.
const ROUTER: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);
/// The gateway's interface to the internet.
pub const INTERNET: &str = "internet";
/// The gateway's interface to the servers.
pub const LAN: &str = "lan";
/// The gateway's folder of pins, below its `/run`.
pub const PINS: &str = "bpf";
/// Number of addresses of a site's LAN.
const LAN_ADDRESSES: u32 = 8;
const UPLINK: &str = "uplink";
/// The servers' end of the cloud LAN. Nobody is there.
const SERVERS: &str = "servers";

/// Both namespaces, each with a private `/run`.
pub struct Ground {
    /// The gateway's.
    pub gateway: Namespace,
    /// The sites'.
    pub sites: Namespace,
    runs: (PathBuf, PathBuf),
    _driver: Link,
}

/// Returns a site's outer address.
pub fn outer(site: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(198, 18, 1, 0).to_bits() + site)
}

/// Returns a site's LAN.
pub fn lan(site: u32) -> Ipv4Net {
    let address = Ipv4Addr::new(172, 16, 0, 0).to_bits() + LAN_ADDRESSES * site;
    Ipv4Net::new_assert(Ipv4Addr::from_bits(address), 29)
}

impl Ground {
    /// Makes the namespaces with the addresses of sites 1 to `sites`.
    pub fn create(sites: u32) -> Result<Self> {
        let runs = (PathBuf::from("/run/tunnels/gateway"), PathBuf::from("/run/tunnels/sites"));
        fs::create_dir_all(&runs.0)?;
        fs::create_dir_all(&runs.1)?;
        // Mounted before the gateway gets its own view of mounts, so that the maps can be opened from outside.
        Pins::new(runs.0.join(PINS)).prepare()?;
        let gateway = Namespace::create("tunnels-gateway", true)?;
        let far = Namespace::create("tunnels-sites", false)?.with_private_run(&runs.1)?;
        let gateway = gateway.with_private_run(&runs.0)?;
        let name = far.name();
        let mut lines = format!(
            "link set lo up\nlink add {INTERNET} type veth peer name {UPLINK} netns {name}\n\
             link add {LAN} type veth peer name {SERVERS} netns {name}\naddr add {GATEWAY}/30 dev {INTERNET}\n\
             addr add 10.255.255.254/9 dev {LAN}\nlink set {INTERNET} up\nlink set {LAN} up\n\
             route add 198.18.0.0/15 via {ROUTER}\n"
        );
        batch(&gateway, &lines)?;
        lines = format!("link set lo up\nlink set {UPLINK} up\nlink set {SERVERS} up\n");
        let _ = writeln!(lines, "addr add {ROUTER}/30 dev {UPLINK}");
        for site in 1..=sites {
            // charon's ESP in user space needs a local address in each LAN.
            let inside = Ipv4Addr::from_bits(lan(site).addr().to_bits() + 1);
            let _ = writeln!(lines, "addr add {}/15 dev {UPLINK} noprefixroute", outer(site));
            let _ = writeln!(lines, "addr add {inside}/32 dev lo");
        }
        batch(&far, &lines)?;
        // A veth takes frames that an XDP program sends back only if its other end has one as well.
        let driver = far.enter(|| Driver::pass()?.attach(UPLINK))?;
        Ok(Self { gateway, sites: far, runs, _driver: driver })
    }

    /// Returns the gateway's `/run`, as seen from outside.
    pub fn run(&self) -> &Path {
        &self.runs.0
    }

    /// Returns the sites' `/run`, as seen from outside.
    pub fn sites_run(&self) -> &Path {
        &self.runs.1
    }
}

fn batch(namespace: &Namespace, lines: &str) -> Result<()> {
    process::run_with_input(namespace.command("ip").args(["-batch", "-"]), lines).map(drop)
}
