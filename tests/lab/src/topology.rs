//! The lab's namespaces, links and addresses.
//!
//! ```text
//!  device ── router (berlin, munich, springfield) ──┐
//!  device ── router (austin) ── nat ────────────────┤
//!  device ── router (london), IPv6 uplink ──────────┤
//!            stranger ──────────────────────────────┤
//!                                        internet (a router)
//!                                                   │ eth_internet
//!                                                gateway
//!                                                   │ eth_lan
//!                              cloud (a bridge that keeps servers apart)
//!                               │           │           │          │
//!                             acme        globex     initech     wonka
//! ```
use std::{
    collections::BTreeSet,
    fmt::Write,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
    thread,
};

use anyhow::{Context, Result, anyhow};
use gateway_tests_kit::{
    namespace::Namespace,
    process::{output, run_with_input},
};

use crate::site::{ROUTER_REQID, SITES, Spec};

/// The gateway's address on the internet.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
/// The gateway's IPv6 address on the internet.
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 1);
/// The gateway's address on the cloud LAN.
pub const GATEWAY_LAN: Ipv4Addr = Ipv4Addr::new(10, 200, 0, 1);
/// The gateway's IPv6 address on the cloud LAN.
pub const GATEWAY_LAN_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x200, 0, 0, 0, 0, 0, 1);
/// The gateway's next hop. All outer packets come from its MAC address, as behind a provider's router, which
/// lets GRO merge tunnels (docs/facts.md: gro-merges-tunnels).
pub const INTERNET: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
/// The IPv6 address of the gateway's next hop.
pub const INTERNET_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 2);
/// A host on the internet.
pub const INTERNET_HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 66);
/// The IPv6 address of that host.
pub const INTERNET_HOST_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 0x66);
/// The MAC address of the gateway's eth_internet.
pub const GATEWAY_MAC: [u8; 6] = [0x06, 0, 0, 0, 0, 1];
/// The MAC address of the gateway's next hop.
pub const INTERNET_MAC: [u8; 6] = [0x06, 0, 0, 0, 0, 2];
/// The stranger's address on the internet.
pub const STRANGER: Ipv4Addr = uplink(SITES.len()).1;

const CLOUD_LAN: &str = "10.200.0.0/24";
const CLOUD_LAN_V6: &str = "fd00:200::/64";
const NAT_INSIDE: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 1);
const ROUTER_BEHIND_NAT: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 2);

/// All namespaces of the lab.
#[derive(Debug)]
pub struct Topology {
    /// The cloud gateway.
    pub gateway: Namespace,
    /// The router between the gateway and everyone.
    pub internet: Namespace,
    /// The bridge of the cloud LAN.
    pub cloud: Namespace,
    /// The NAT in front of a site.
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
    /// Builds namespaces, links and addresses. Namespaces that run a charon have `dir/<name>/run` as their
    /// `/run`. The gateway forwards nothing until gatewayd turns forwarding on.
    pub fn build(dir: &Path) -> Result<Self> {
        let with_run = |name: &str, forwards| {
            let namespace = Namespace::create(name, forwards)?.with_ipv6(forwards)?;
            namespace.with_private_run(&dir.join(name).join("run"))
        };
        let topology = Self {
            internet: Namespace::create("internet", true)?.with_ipv6(true)?,
            cloud: Namespace::create("cloud", false)?,
            nat: Namespace::create("nat", true)?,
            stranger: with_run("stranger", false)?,
            routers: SITES.iter().map(|site| with_run(&site.full_name(), true)).collect::<Result<_>>()?,
            devices: SITES
                .iter()
                .map(|site| {
                    Namespace::create(&format!("{}-device", site.full_name()), false)?.with_ipv6(false)
                })
                .collect::<Result<_>>()?,
            servers: customers()
                .map(|(customer, _)| {
                    let server = Namespace::create(&format!("{customer}-server"), false)?.with_ipv6(false)?;
                    Ok((customer, server))
                })
                .collect::<Result<_>>()?,
            gateway: with_run("gateway", false)?,
        };
        // Links need both namespaces, addresses need the links.
        run_with_input(std::process::Command::new("ip").args(["-batch", "-"]), &topology.links())?;
        topology.configure()?;
        Ok(topology)
    }

    /// Returns the namespace of a customer's server.
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
            .expect("writing to a String cannot fail")
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

    /// Runs one `ip -batch` in each namespace, all in parallel.
    fn configure(&self) -> Result<()> {
        let mut jobs = vec![
            (&self.gateway, gateway_commands()),
            (&self.internet, internet_commands()),
            (&self.cloud, cloud_commands()),
            (&self.nat, nat_commands()),
            (&self.stranger, format!("link set eth_wan up\n{}", uplink_commands(uplink(SITES.len())))),
        ];
        for (index, site) in SITES.iter().enumerate() {
            jobs.push((&self.routers[index], router_commands(index, site)));
            jobs.push((&self.devices[index], device_commands(site)));
        }
        for ((_, addresses), (_, server)) in customers().zip(&self.servers) {
            jobs.push((server, server_commands(&addresses)));
        }
        // The kernel accepts router advertisements despite forwarding, so that the attack with one could
        // work.
        self.gateway.set_sysctl("ipv6/conf/eth_lan/accept_ra", "2")?;
        thread::scope(|scope| {
            let mut threads = vec![
                // veth has GRO off by default, real cards on (docs/facts.md: gro-merges-tunnels).
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

/// Returns each customer once, with its server's addresses.
pub fn customers() -> impl Iterator<Item = (&'static str, Vec<IpAddr>)> {
    SITES.iter().enumerate().filter_map(|(index, site)| {
        let first = SITES.iter().position(|other| other.customer == site.customer) == Some(index);
        let of_customer = SITES.iter().filter(|other| other.customer == site.customer);
        let addresses: BTreeSet<_> = of_customer.flat_map(Spec::ends).map(|ends| ends.server).collect();
        first.then(|| (site.customer, addresses.into_iter().collect()))
    })
}

/// Returns the gateway's address that a site's router is configured with.
pub fn gateway_address(site: &Spec) -> IpAddr {
    if site.uplink_v6 { GATEWAY_V6.into() } else { GATEWAY.into() }
}

/// Returns the address of a site's router on its uplink; behind NAT the gateway sees another one.
pub fn router_wan(index: usize) -> IpAddr {
    if SITES[index].behind_nat { ROUTER_BEHIND_NAT.into() } else { seen_address(&SITES[index]) }
}

/// Returns the next hop of a site's router on its uplink.
pub fn next_hop(site: &Spec) -> IpAddr {
    let index = index_of(site);
    match (site.behind_nat, site.uplink_v6) {
        (true, _) => NAT_INSIDE.into(),
        (_, true) => uplink_v6(index).0.into(),
        (_, false) => uplink(index).0.into(),
    }
}

/// Returns the address of a site's router that the gateway sees.
pub fn seen_address(site: &Spec) -> IpAddr {
    let index = index_of(site);
    if site.uplink_v6 { uplink_v6(index).1.into() } else { uplink(index).1.into() }
}

fn index_of(site: &Spec) -> usize {
    SITES.iter().position(|other| other.identity == site.identity).expect("it is one of SITES")
}

/// XFRM policy priority after all of charon's, which are below 400,000.
const LAST_PRIORITY: u32 = 4_000_000;

const MASQUERADE: &str = "table ip nat {
  chain postrouting {
    type nat hook postrouting priority srcnat
    oifname \"eth_wan\" masquerade
  }
}
";

/// Returns the internet's and the site's address of uplink number `index`, a /30.
const fn uplink(index: usize) -> (Ipv4Addr, Ipv4Addr) {
    let base = 4 * index as u8;
    (Ipv4Addr::new(198, 51, 100, base + 1), Ipv4Addr::new(198, 51, 100, base + 2))
}

/// Returns the internet's and the site's address of IPv6 uplink number `index`, a /64.
fn uplink_v6(index: usize) -> (Ipv6Addr, Ipv6Addr) {
    let of = |host| Ipv6Addr::new(0x2001, 0xdb8, 1, index as u16, 0, 0, 0, host);
    (of(1), of(2))
}

fn gateway_commands() -> String {
    format!(
        "addr add {GATEWAY}/30 dev eth_internet
addr add {GATEWAY_LAN}/24 dev eth_lan
link set eth_internet up
link set eth_lan up
addr add {GATEWAY_V6}/64 dev eth_internet
addr add {GATEWAY_LAN_V6}/64 dev eth_lan
route add default via {INTERNET}
route add default via {INTERNET_V6}
"
    )
}

fn internet_commands() -> String {
    let mut commands = format!(
        "addr add {INTERNET}/30 dev gateway
addr add {INTERNET_HOST}/32 dev lo
addr add {INTERNET_HOST_V6}/128 dev lo
link set gateway up
addr add {INTERNET_V6}/64 dev gateway
"
    );
    let sites = SITES.iter().map(|site| (site.name, site.uplink_v6));
    for (index, (name, v6)) in sites.chain([("stranger", false)]).enumerate() {
        let address = match v6 {
            true => format!("{}/64", uplink_v6(index).0),
            false => format!("{}/30", uplink(index).0),
        };
        write!(commands, "link set {name} up\naddr add {address} dev {name}\n")
            .expect("writing to a String cannot fail");
    }
    commands
}

/// Returns the cloud LAN's commands. Its ports are isolated, as servers of different tenants in a cloud are.
/// A cloud does not forget a silent server's port and flood its packets, either: ageing_time is a day, in
/// hundredths of a second.
fn cloud_commands() -> String {
    let mut commands =
        "link add lan type bridge ageing_time 8640000\nlink set lan up\nlink set gateway master lan\nlink set gateway up\n"
            .to_owned();
    for (customer, _) in customers() {
        write!(
            commands,
            "link set {customer} master lan\nlink set {customer} type bridge_slave isolated on\nlink set {customer} up\n"
        )
        .expect("writing to a String cannot fail");
    }
    commands
}

fn nat_commands() -> String {
    let index = SITES.iter().position(|site| site.behind_nat).expect("one site is behind NAT");
    format!(
        "link set eth_wan up\n{}addr add {NAT_INSIDE}/30 dev eth_lan\nlink set eth_lan up\n",
        uplink_commands(uplink(index))
    )
}

fn uplink_commands((next_hop, address): (Ipv4Addr, Ipv4Addr)) -> String {
    format!("addr add {address}/30 dev eth_wan\nroute add default via {next_hop}\n")
}

/// Returns a hostile router's commands: beside charon's policies, it tunnels every packet from its LAN to the
/// cloud LAN, from any source address to any destination. Charon's policies take precedence: they name an
/// SPI, so that the router does not use a rekeyed SA before the gateway can decrypt it.
fn router_commands(index: usize, site: &Spec) -> String {
    let wan = router_wan(index);
    let gateway = gateway_address(site);
    let mut commands = match (wan, next_hop(site)) {
        (IpAddr::V4(own), IpAddr::V4(next_hop)) => uplink_commands((next_hop, own)),
        // Inner packets need a route of their own family before they are encrypted.
        (own, next_hop) => format!(
            "addr add {own}/64 dev eth_wan\nroute add default via {next_hop}\n\
             route add 0.0.0.0/0 via inet6 {next_hop}\n"
        ),
    };
    commands.insert_str(0, "link set eth_wan up\nlink set eth_lan up\n");
    let mut families = vec![(format!("{}/{}", site.router, site.prefix_len), "0.0.0.0/0", CLOUD_LAN)];
    if let Some(v6) = site.v6 {
        families.push((format!("{}/64", v6.router), "::/0", CLOUD_LAN_V6));
        if !site.uplink_v6 {
            commands.push_str("route add ::/0 dev eth_wan\n");
        }
    }
    for (own, any, cloud_lan) in families {
        write!(
            commands,
            "addr add {own} dev eth_lan
xfrm policy add src {any} dst {cloud_lan} dir out priority {LAST_PRIORITY} tmpl src {wan} dst {gateway} proto esp reqid {ROUTER_REQID} mode tunnel
"
        )
        .expect("writing to a String cannot fail");
    }
    commands
}

fn device_commands(site: &Spec) -> String {
    let mut commands = format!(
        "addr add {}/{} dev eth0\nlink set eth0 up\nroute add default via {}\n",
        site.device, site.prefix_len, site.router
    );
    if let Some(v6) = site.v6 {
        write!(commands, "addr add {}/64 dev eth0\nroute add default via {}\n", v6.device, v6.router)
            .expect("writing to a String cannot fail");
    }
    commands
}

/// Returns a server's commands: its only neighbour is the gateway.
fn server_commands(addresses: &[IpAddr]) -> String {
    let mut commands = "link set eth0 up\n".to_owned();
    for address in addresses {
        let gateway = if address.is_ipv4() { IpAddr::from(GATEWAY_LAN) } else { GATEWAY_LAN_V6.into() };
        write!(
            commands,
            "addr add {address} dev eth0\nroute add {gateway} dev eth0\nroute add default via {gateway}\n"
        )
        .expect("writing to a String cannot fail");
    }
    commands
}
