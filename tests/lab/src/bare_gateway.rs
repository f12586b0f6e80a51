//! Two tunnels through a gateway that has neither charon nor gatewayd: what the kernel does by itself.
//!
//! ```text
//!  site 1 ──┐
//!           ├ internet (a bridge) ── eth_internet gateway eth_lan ── server
//!  site 2 ──┘
//! ```
//!
//! Both sites have the same LAN and both tunnels the same traffic selectors.
use std::{fmt::Write, net::Ipv4Addr, thread, time::Duration};

use anyhow::{Context, Result};
use gateway_tests_kit::{
    namespace::Namespace,
    process::{output, run_with_input},
};

use crate::{
    capture::{Capture, Frame},
    frame::{Packet, ping, send_packets},
};

/// The device's address behind either site.
pub const DEVICE: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 2);
/// The server that site 1 talks to, then that of site 2: two addresses of one host.
pub const SERVERS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 200, 0, 11), Ipv4Addr::new(10, 200, 0, 12)];
const GATEWAY: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
const SITES: [Ipv4Addr; 2] = [Ipv4Addr::new(203, 0, 113, 10), Ipv4Addr::new(203, 0, 113, 20)];
const LAN: &str = "192.168.0.0/16";
const CLOUD_LAN: &str = "10.200.0.0/24";
/// Key and salt of all SAs (RFC 4106).
const CIPHER: &str = "aead rfc4106(gcm(aes)) 0x000102030405060708090a0b0c0d0e0f10111213 128";
/// Longest time of a packet through the namespaces, under emulation.
const SETTLE: Duration = Duration::from_millis(300);

/// The marks of the tunnels: tunnel 1 has the mark 1, tunnel 2 the mark 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Marks {
    /// No policy and no SA has a mark, and all packets are unmarked.
    None,
    /// charon's `mark_out`: the outbound policies have marks.
    Out,
    /// charon's `mark_in`, `set_mark_in` and `mark_out`: all policies have marks, and decapsulated packets
    /// get the mark.
    All,
}

/// The namespaces. [`BareGateway::with`] removes them.
#[derive(Debug)]
pub struct BareGateway {
    /// The gateway, which forwards everything.
    pub gateway: Namespace,
    /// The host of both servers.
    pub server: Namespace,
    /// Router and device of each site in one.
    pub sites: [Namespace; 2],
    internet: Namespace,
}

impl BareGateway {
    /// Builds the namespaces with marked tunnels, runs `work`, and removes them.
    pub fn with(work: impl FnOnce(&Self) -> Result<()>) -> Result<()> {
        let create = |name: &str, forwards| Namespace::create(&format!("bare-{name}"), forwards);
        let bare = Self {
            gateway: create("gateway", true)?,
            server: create("server", false)?,
            sites: [create("site-1", false)?, create("site-2", false)?],
            internet: create("internet", false)?,
        };
        let result = bare.configure().context("cannot build the bare gateway").and_then(|()| work(&bare));
        let [site_1, site_2] = bare.sites;
        let namespaces = [bare.gateway, bare.server, site_1, site_2, bare.internet];
        let removed = namespaces.into_iter().try_for_each(Namespace::remove);
        result.and(removed)
    }

    /// Replaces the gateway's SAs and policies; those of tunnel 2 are loaded last.
    pub fn load_tunnels(&self, marks: Marks) -> Result<()> {
        let mut batch = "xfrm state flush\nxfrm policy flush\n".to_owned();
        for (number, site) in (1..).zip(SITES) {
            let mark = |marked: bool| match marked {
                true => format!("mark {number} mask 0xffffffff"),
                false => String::new(),
            };
            let (mark_in, mark_out) = (mark(marks == Marks::All), mark(marks != Marks::None));
            let set_mark = match marks {
                Marks::All => format!("output-mark {number} mask 0xffffffff"),
                Marks::None | Marks::Out => String::new(),
            };
            state(&mut batch, (site, GATEWAY), number, &set_mark)?;
            state(&mut batch, (GATEWAY, site), number, "")?;
            policy(&mut batch, (LAN, CLOUD_LAN), "in", &mark_in, (site, GATEWAY), number)?;
            policy(&mut batch, (LAN, CLOUD_LAN), "fwd", &mark_in, (site, GATEWAY), number)?;
            policy(&mut batch, (CLOUD_LAN, LAN), "out", &mark_out, (GATEWAY, site), number)?;
        }
        self.ip(&self.gateway, &batch)?;
        let mut rules = "table ip marks\ndelete table ip marks\n".to_owned();
        if marks != Marks::None {
            rules.push_str(
                "table ip marks { chain prerouting { type filter hook prerouting priority mangle\n",
            );
            for (number, server) in (1..).zip(SERVERS) {
                writeln!(rules, "iifname \"eth_lan\" ip saddr {server} meta mark set {number}")?;
            }
            rules.push_str("}\n}\n");
        }
        run_with_input(self.gateway.command("nft").args(["-f", "-"]), &rules).map(drop)
    }

    /// Sends a ping from a site, 0 or 1, to its server. Returns the frame in which it reached the server,
    /// if it did.
    pub fn ping(&self, site: usize) -> Result<Option<Frame>> {
        self.send(site, ping(DEVICE, SERVERS[site]))
    }

    /// Sends a packet from a site to its server. Returns the frame in which it reached the server, if it did.
    pub fn send(&self, site: usize, packet: Packet) -> Result<Option<Frame>> {
        let at_server = Capture::start(&self.server, "eth0")?;
        send_packets(&self.sites[site], &[packet])?;
        thread::sleep(SETTLE);
        let way = Some((DEVICE.into(), SERVERS[site].into()));
        Ok(at_server.stop()?.into_iter().find(|frame| !frame.outgoing && frame.addresses() == way))
    }

    /// Sends a packet from a site to its server. Returns true if the server's answer reached the same site
    /// through its tunnel.
    pub fn is_answered(&self, site: usize, packet: Packet) -> Result<bool> {
        let at_site = Capture::start(&self.sites[site], "eth_wan")?;
        send_packets(&self.sites[site], &[packet])?;
        thread::sleep(SETTLE);
        // The socket also sees packets that the site's kernel has decapsulated.
        let way = Some((SERVERS[site].into(), DEVICE.into()));
        Ok(at_site.stop()?.iter().any(|frame| !frame.outgoing && frame.addresses() == way))
    }

    /// Runs `ip -batch` in a namespace.
    pub fn ip(&self, namespace: &Namespace, batch: &str) -> Result<()> {
        run_with_input(namespace.command("ip").args(["-batch", "-"]), batch).map(drop)
    }

    fn configure(&self) -> Result<()> {
        let [gateway, server, site_1, site_2, internet] =
            [&self.gateway, &self.server, &self.sites[0], &self.sites[1], &self.internet]
                .map(Namespace::name);
        let mut links = String::new();
        for (a, a_name, b, b_name) in [
            (gateway, "eth_internet", internet, "gateway"),
            (site_1, "eth_wan", internet, "site1"),
            (site_2, "eth_wan", internet, "site2"),
            (gateway, "eth_lan", server, "eth0"),
        ] {
            writeln!(links, "link add {a_name} netns {a} type veth peer name {b_name} netns {b}")?;
        }
        run_with_input(std::process::Command::new("ip").args(["-batch", "-"]), &links)?;
        let mut bridge = "link add internet type bridge\nlink set internet up\n".to_owned();
        for port in ["gateway", "site1", "site2"] {
            writeln!(bridge, "link set {port} master internet\nlink set {port} up")?;
        }
        self.ip(&self.internet, &bridge)?;
        self.ip(
            &self.gateway,
            &format!(
                "link set lo up\naddr add {GATEWAY}/24 dev eth_internet\nlink set eth_internet up\n\
                 addr add 10.200.0.1/24 dev eth_lan\nlink set eth_lan up\nroute add {LAN} via {}\n",
                SITES[0]
            ),
        )?;
        self.ip(
            &self.server,
            &format!(
                "link set lo up\naddr add {}/24 dev eth0\naddr add {}/24 dev eth0\nlink set eth0 up\n\
                 route add default via 10.200.0.1\n",
                SERVERS[0], SERVERS[1]
            ),
        )?;
        for ((number, address), namespace) in (1..).zip(SITES).zip(&self.sites) {
            // A raw socket's packet meets the policy of its route's source address, not of its own.
            let mut batch = format!(
                "link set lo up\naddr add {DEVICE}/32 dev lo\naddr add {address}/24 dev eth_wan\n\
                 link set eth_wan up\nroute add default via {GATEWAY} src {DEVICE}\n"
            );
            state(&mut batch, (address, GATEWAY), number, "")?;
            state(&mut batch, (GATEWAY, address), number, "")?;
            policy(&mut batch, (LAN, CLOUD_LAN), "out", "", (address, GATEWAY), number)?;
            policy(&mut batch, (CLOUD_LAN, LAN), "in", "", (GATEWAY, address), number)?;
            self.ip(namespace, &batch)?;
        }
        output(self.gateway.command("ethtool").args(["-K", "eth_internet", "gro", "on"]))?;
        self.load_tunnels(Marks::All)
    }
}

/// Appends the command that adds an SA with the tunnel's number as its reqid. The SA has no replay window, since
/// reloaded tunnels count from 1 again.
fn state(batch: &mut String, way: (Ipv4Addr, Ipv4Addr), number: u32, more: &str) -> Result<()> {
    let spi = if way.0 == GATEWAY { 0x1100 + number } else { 0x1000 + number };
    Ok(writeln!(
        batch,
        "xfrm state add src {} dst {} proto esp spi {spi} reqid {number} mode tunnel {more} {CIPHER}",
        way.0, way.1
    )?)
}

/// Appends the command that adds a policy, or replaces the one with equal selectors and mark.
fn policy(
    batch: &mut String,
    selectors: (&str, &str),
    direction: &str,
    mark: &str,
    way: (Ipv4Addr, Ipv4Addr),
    number: u32,
) -> Result<()> {
    Ok(writeln!(
        batch,
        "xfrm policy update src {} dst {} dir {direction} {mark} tmpl src {} dst {} proto esp reqid {number} mode tunnel",
        selectors.0, selectors.1, way.0, way.1
    )?)
}
