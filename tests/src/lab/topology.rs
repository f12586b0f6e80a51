//! The lab's namespaces, links and addresses.
//!
//! ```text
//!  device ── router (berlin, munich, springfield) ──┐
//!  device ── router (austin) ── nat ────────────────┤
//!            stranger ──────────────────────────────┤
//!                                        internet (a router)
//!                                                   │ eth_internet
//!                                                gateway
//!                                                   │ eth_lan
//!                              cloud (a bridge that keeps servers apart)
//!                                   │           │           │
//!                                 acme        globex     initech
//! ```
use std::{fmt::Write, net::Ipv4Addr, path::Path, thread};

use anyhow::{Context, Result, anyhow};

use super::{
    namespace::Namespace,
    process::{output, run_with_input},
    site::{ROUTER_REQID, SITES, Spec},
};

/// The gateway's address on the internet.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
/// The gateway's address on the cloud LAN.
pub const GATEWAY_LAN: Ipv4Addr = Ipv4Addr::new(10, 200, 0, 1);
/// The gateway's next hop: all outer packets come from this one MAC address, as they do behind a
/// provider's router, which is what lets GRO merge tunnels (FACTS 8).
pub const INTERNET: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
/// Some host on the internet.
pub const INTERNET_HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 66);
/// The hardware address of the gateway's eth_internet.
pub const GATEWAY_MAC: [u8; 6] = [0x06, 0, 0, 0, 0, 1];
/// The hardware address of its next hop.
pub const INTERNET_MAC: [u8; 6] = [0x06, 0, 0, 0, 0, 2];
/// The stranger's address on the internet.
pub const STRANGER: Ipv4Addr = uplink(SITES.len()).1;

const CLOUD_LAN: &str = "10.200.0.0/24";
const NAT_INSIDE: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 1);
const ROUTER_BEHIND_NAT: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 2);

/// All namespaces of the lab.
#[derive(Debug)]
pub struct Topology {
    /// The cloud gateway, the only one with a view of `/run` that is a user's: see [`Topology::build`].
    pub gateway: Namespace,
    /// The router between the gateway and everyone.
    pub internet: Namespace,
    /// The bridge of the cloud LAN.
    pub cloud: Namespace,
    /// The network address translator in front of a site.
    pub nat: Namespace,
    /// A router on the internet that belongs to no customer.
    pub stranger: Namespace,
    /// The routers, in the order of [`SITES`].
    pub routers: Vec<Namespace>,
    /// The devices, in the order of [`SITES`].
    pub devices: Vec<Namespace>,
    /// Each customer's server.
    pub servers: Vec<(&'static str, Namespace)>,
}

impl Topology {
    /// Builds it all. Every namespace that will have a charon has `dir/<name>/run` as its `/run`.
    /// The gateway forwards nothing until gatewayd says so.
    pub fn build(dir: &Path) -> Result<Self> {
        let with_run = |name: &str, forwards| {
            Namespace::create(name, forwards)?.with_private_run(&dir.join(name).join("run"))
        };
        let topology = Self {
            internet: Namespace::create("internet", true)?,
            cloud: Namespace::create("cloud", false)?,
            nat: Namespace::create("nat", true)?,
            stranger: with_run("stranger", false)?,
            routers: SITES.iter().map(|site| with_run(&site.full_name(), true)).collect::<Result<_>>()?,
            devices: SITES
                .iter()
                .map(|site| Namespace::create(&format!("{}-device", site.full_name()), false))
                .collect::<Result<_>>()?,
            servers: customers()
                .map(|(customer, _)| Ok((customer, Namespace::create(&format!("{customer}-server"), false)?)))
                .collect::<Result<_>>()?,
            gateway: with_run("gateway", false)?,
        };
        // Links need both namespaces, addresses need the links.
        run_with_input(std::process::Command::new("ip").args(["-batch", "-"]), &topology.links())?;
        topology.configure()?;
        Ok(topology)
    }

    /// The namespace of a customer's server.
    pub fn server(&self, customer: &str) -> Result<&Namespace> {
        let found = self.servers.iter().find(|(name, _)| *name == customer);
        found.map(|(_, namespace)| namespace).ok_or_else(|| anyhow!("no customer {customer} in the lab"))
    }

    fn links(&self) -> String {
        let mut batch = String::new();
        let mut link = |a: (&Namespace, &str), b: (&Namespace, &str), addresses: [&str; 2]| {
            let (a_namespace, a_name) = (a.0.name(), a.1);
            let (b_namespace, b_name) = (b.0.name(), b.1);
            let [a_mac, b_mac] = addresses;
            writeln!(
                batch,
                "link add {a_name} netns {a_namespace} {a_mac} type veth peer name {b_name} netns {b_namespace} {b_mac}"
            )
            .expect("a String takes all")
        };
        let macs = [GATEWAY_MAC, INTERNET_MAC].map(|mac| {
            let [a, b, c, d, e, f] = mac;
            format!("address {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
        });
        link((&self.gateway, "eth_internet"), (&self.internet, "gateway"), [&macs[0], &macs[1]]);
        link((&self.gateway, "eth_lan"), (&self.cloud, "gateway"), ["", ""]);
        link((&self.stranger, "eth_wan"), (&self.internet, "stranger"), ["", ""]);
        for ((site, router), device) in SITES.iter().zip(&self.routers).zip(&self.devices) {
            if site.behind_nat {
                link((&self.nat, "eth_wan"), (&self.internet, site.name), ["", ""]);
                link((router, "eth_wan"), (&self.nat, "eth_lan"), ["", ""]);
            } else {
                link((router, "eth_wan"), (&self.internet, site.name), ["", ""]);
            }
            link((router, "eth_lan"), (device, "eth0"), ["", ""]);
        }
        for (customer, server) in &self.servers {
            link((server, "eth0"), (&self.cloud, customer), ["", ""]);
        }
        batch
    }

    /// Runs one `ip -batch` in each namespace, all at once.
    fn configure(&self) -> Result<()> {
        let mut jobs = vec![
            (&self.gateway, gateway_commands()),
            (&self.internet, internet_commands()),
            (&self.cloud, cloud_commands()),
            (&self.nat, nat_commands()),
            (&self.stranger, uplink_commands(uplink(SITES.len()))),
        ];
        for (index, site) in SITES.iter().enumerate() {
            jobs.push((&self.routers[index], router_commands(index, site)));
            jobs.push((&self.devices[index], device_commands(site)));
        }
        for ((_, address), (_, server)) in customers().zip(&self.servers) {
            jobs.push((server, server_commands(address)));
        }
        thread::scope(|scope| {
            let mut threads = vec![
                // GRO is off by default on veth; the one real cards have on is what FACTS 8 is about.
                scope.spawn(|| {
                    output(self.gateway.command("ethtool").args(["-K", "eth_internet", "gro", "on"]))
                        .map(drop)
                }),
                scope.spawn(|| {
                    run_with_input(self.nat.command("nft").args(["-f", "-"]), MASQUERADE).map(drop)
                }),
            ];
            for (namespace, commands) in &jobs {
                threads.push(scope.spawn(move || {
                    run_with_input(
                        namespace.command("ip").args(["-batch", "-"]),
                        &format!("link set lo up\n{commands}"),
                    )
                    .with_context(|| format!("in {}", namespace.name()))
                    .map(drop)
                }));
            }
            threads
                .into_iter()
                .try_for_each(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?)
        })
    }
}

/// Each customer with its server's address, once.
pub fn customers() -> impl Iterator<Item = (&'static str, Ipv4Addr)> {
    SITES.iter().enumerate().filter_map(|(index, site)| {
        let first = SITES.iter().position(|other| other.customer == site.customer) == Some(index);
        first.then_some((site.customer, site.server))
    })
}

/// The address of a site's router on its uplink, which is not the one the gateway sees behind NAT.
pub fn router_wan(index: usize) -> Ipv4Addr {
    if SITES[index].behind_nat { ROUTER_BEHIND_NAT } else { uplink(index).1 }
}

/// The next hop of a site's router on its uplink.
pub fn next_hop(site: &Spec) -> Ipv4Addr {
    if site.behind_nat { NAT_INSIDE } else { uplink(index_of(site)).0 }
}

/// The address that the gateway sees a site's router at.
pub fn seen_address(site: &Spec) -> Ipv4Addr {
    uplink(index_of(site)).1
}

fn index_of(site: &Spec) -> usize {
    SITES.iter().position(|other| other.identity == site.identity).expect("it is one of SITES")
}

/// Of an XFRM policy, behind all that charon installs, which are below 400,000.
const LAST_PRIORITY: u32 = 4_000_000;

const MASQUERADE: &str = "table ip nat {
  chain postrouting {
    type nat hook postrouting priority srcnat
    oifname \"eth_wan\" masquerade
  }
}
";

/// The internet's and the site's address of uplink number `index`, a /30.
const fn uplink(index: usize) -> (Ipv4Addr, Ipv4Addr) {
    let base = 4 * index as u8;
    (Ipv4Addr::new(198, 51, 100, base + 1), Ipv4Addr::new(198, 51, 100, base + 2))
}

fn gateway_commands() -> String {
    format!(
        "addr add {GATEWAY}/30 dev eth_internet
addr add {GATEWAY_LAN}/24 dev eth_lan
link set eth_internet up
link set eth_lan up
route add default via {INTERNET}
"
    )
}

fn internet_commands() -> String {
    let mut commands = format!(
        "addr add {INTERNET}/30 dev gateway
addr add {INTERNET_HOST}/32 dev lo
link set gateway up
"
    );
    for (index, name) in SITES.iter().map(|site| site.name).chain(["stranger"]).enumerate() {
        let (address, _) = uplink(index);
        write!(commands, "addr add {address}/30 dev {name}\nlink set {name} up\n")
            .expect("a String takes all");
    }
    commands
}

/// Isolated ports do not talk to each other, as servers of different tenants in a cloud do not.
fn cloud_commands() -> String {
    let mut commands =
        "link add lan type bridge\nlink set lan up\nlink set gateway master lan\nlink set gateway up\n"
            .to_owned();
    for (customer, _) in customers() {
        write!(
            commands,
            "link set {customer} master lan\nlink set {customer} type bridge_slave isolated on\nlink set {customer} up\n"
        )
        .expect("a String takes all");
    }
    commands
}

fn nat_commands() -> String {
    let index = SITES.iter().position(|site| site.behind_nat).expect("one site is behind NAT");
    format!("{}addr add {NAT_INSIDE}/30 dev eth_lan\nlink set eth_lan up\n", uplink_commands(uplink(index)))
}

fn uplink_commands((next_hop, address): (Ipv4Addr, Ipv4Addr)) -> String {
    format!("addr add {address}/30 dev eth_wan\nlink set eth_wan up\nroute add default via {next_hop}\n")
}

/// Every router is hostile: beside what charon installs, it sends whatever comes from its LAN for the
/// cloud LAN into its tunnel, from any source address and for any destination. Charon's own policies come
/// first: they name an SPI, so that a rekeyed SA is not used before the gateway can decrypt it.
fn router_commands(index: usize, site: &Spec) -> String {
    let wan = router_wan(index);
    let uplink = if site.behind_nat { (NAT_INSIDE, ROUTER_BEHIND_NAT) } else { uplink(index) };
    format!(
        "{}addr add {}/{} dev eth_lan
link set eth_lan up
xfrm policy add src 0.0.0.0/0 dst {CLOUD_LAN} dir out priority {LAST_PRIORITY} tmpl src {wan} dst {GATEWAY} proto esp reqid {ROUTER_REQID} mode tunnel
",
        uplink_commands(uplink),
        site.router,
        site.prefix_len
    )
}

fn device_commands(site: &Spec) -> String {
    format!(
        "addr add {}/{} dev eth0\nlink set eth0 up\nroute add default via {}\n",
        site.device, site.prefix_len, site.router
    )
}

/// A server knows nothing but the gateway.
fn server_commands(address: Ipv4Addr) -> String {
    format!(
        "addr add {address}/32 dev eth0
link set eth0 up
route add {GATEWAY_LAN} dev eth0 scope link
route add default via {GATEWAY_LAN}
"
    )
}
