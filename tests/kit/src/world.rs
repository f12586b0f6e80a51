//! Contents of the gateway's maps: the world that packets of the tests meet.
//!
//! | customer | servers, port 80 | site | LANs | peers |
//! |---|---|---|---|---|
//! | acme (1) | 10.200.0.11, fd00:200::11 | berlin (1) | 192.168.0.0/16, fd00:1::/48 | 198.18.0.1, 2001:db8:18::1 |
//! | | | munich (2) | 10.20.0.0/16, fd00:2::/48 | 198.18.0.2, 2001:db8:18::2 |
//! | globex (2) | 10.200.0.12, fd00:200::12 | paris (3) | 192.168.0.0/16, fd00:1::/48 | 198.18.0.3, 2001:db8:18::3 |
//! | initech (3) | 10.200.0.13 | oslo (4) | 10.30.0.0/16 | 198.18.0.4, 2001:db8:18::4 |
//!
//! The first secrets of IKE cookies are in force, see [`secrets`].
//!
//! Each site has one tunnel. All tunnels are up, have generation 1 and quotas that nobody reaches. Inbound SPIs are
//! 0xc0de0001 to 4, outbound ones 0xbeef0001 to 4, reqids 21 to 24, marks 1001 to 1004, by site number. The three
//! numbers differ, so that a mix-up cannot pass unseen. [`crate::settings`] describes the gateway itself.
//!
//! Two other `World`s exist on purpose: `gateway-common/tests/decision/world.rs` and
//! `tests/fuzz/src/world.rs` implement the decision's tables in memory. This one is written into the kernel's
//! maps, for which it needs the `gateway` crate and its programs; the tests of `gateway-common` build without
//! either.
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use anyhow::{Context, Result, bail};
use gateway_common::{
    family::Family,
    layout::{Access, Binding, Customer, OutboundSpi, Prefix, Quota, Settings, Share, Tunnel},
    limits::PREFIXES_PER_SITE,
    outer::cookie::Secrets,
    wire::Ipv6,
};

use crate::{settings::settings, text::number};

/// Largest TCP segment through a tunnel in bytes, in IPv4 and IPv6.
pub const MSS_BYTES: [u16; 2] = [1356, 1336];
/// A quota that nobody reaches.
pub const PLENTY: Quota =
    Quota { flows: 1 << 24, half_open: 1 << 24, new_flow_interval_ns: 0, new_flow_burst: 1 };

/// Returns the reqid of a site's tunnel.
pub const fn reqid(site: u32) -> u32 {
    20 + site
}

/// Returns the mark of a site's tunnel.
pub const fn mark(site: u32) -> u32 {
    reqid(site) + MARK_MINUS_REQID
}

/// The difference between the mark and the reqid of each tunnel.
pub const MARK_MINUS_REQID: u32 = 980;

/// A site of the usual world and its tunnel.
pub struct KnownTunnel {
    /// The site's name in cases.
    pub name: &'static str,
    /// The site's number.
    pub id: u32,
    /// The tunnel's reqid.
    pub reqid: u32,
    /// The tunnel's mark.
    pub mark: u32,
    /// Its customer's id.
    pub customer: u32,
    /// The SPI its peer sends with.
    pub inbound_spi: u32,
    /// The SPI the gateway sends with.
    pub outbound_spi: u32,
    /// The peer's outer addresses.
    pub peers: [IpAddr; 2],
    /// The LAN: network and bits.
    pub lan: (Ipv4Addr, u8),
    /// The LAN in IPv6.
    pub lan6: Option<(Ipv6Addr, u8)>,
}

const fn known(name: &'static str, id: u32, customer: u32, lan: [u8; 4], lan6: Option<u16>) -> KnownTunnel {
    let [a, b, c, d] = lan;
    KnownTunnel {
        name,
        id,
        reqid: reqid(id),
        mark: mark(id),
        customer,
        inbound_spi: 0xc0de_0000 + id,
        outbound_spi: 0xbeef_0000 + id,
        peers: [
            IpAddr::V4(Ipv4Addr::new(198, 18, 0, id as u8)),
            IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x18, 0, 0, 0, 0, id as u16)),
        ],
        lan: (Ipv4Addr::new(a, b, c, d), 16),
        lan6: match lan6 {
            Some(site) => Some((Ipv6Addr::new(0xfd00, site, 0, 0, 0, 0, 0, 0), 48)),
            None => None,
        },
    }
}

/// All sites of the usual world.
pub const TUNNELS: [KnownTunnel; 4] = [
    known("berlin", 1, 1, [192, 168, 0, 0], Some(1)),
    known("munich", 2, 1, [10, 20, 0, 0], Some(2)),
    known("paris", 3, 2, [192, 168, 0, 0], Some(1)),
    known("oslo", 4, 3, [10, 30, 0, 0], None),
];

/// A customer of the usual world.
pub struct KnownCustomer {
    /// Its name in cases.
    pub name: &'static str,
    /// Its id.
    pub id: u32,
    /// Its server.
    pub server: Ipv4Addr,
    /// Its server in IPv6.
    pub server6: Option<Ipv6Addr>,
}

const fn customer(name: &'static str, id: u32, v6: bool) -> KnownCustomer {
    KnownCustomer {
        name,
        id,
        server: Ipv4Addr::new(10, 200, 0, 10 + id as u8),
        server6: match v6 {
            true => Some(Ipv6Addr::new(0xfd00, 0x200, 0, 0, 0, 0, 0, 0x10 + id as u16)),
            false => None,
        },
    }
}

/// All customers of the usual world.
pub const CUSTOMERS: [KnownCustomer; 3] =
    [customer("acme", 1, true), customer("globex", 2, true), customer("initech", 3, false)];

impl KnownTunnel {
    /// Returns the customer.
    pub fn owner(&self) -> &'static KnownCustomer {
        &CUSTOMERS[self.customer as usize - 1]
    }
}

/// The port that servers offer.
const PORT: u16 = 80;

/// Returns the number of a site by its name, or the number itself.
pub fn tunnel_id(name: &str) -> Result<u32> {
    by_name(name, |tunnel| tunnel.id)
}

/// Returns the reqid of a site's tunnel by the site's name, or the number itself.
pub fn named_reqid(name: &str) -> Result<u32> {
    by_name(name, |tunnel| tunnel.reqid)
}

/// Returns the mark of a site's tunnel by the site's name, or the number itself.
pub fn named_mark(name: &str) -> Result<u32> {
    by_name(name, |tunnel| tunnel.mark)
}

fn by_name(name: &str, of: impl Fn(&KnownTunnel) -> u32) -> Result<u32> {
    match TUNNELS.iter().find(|tunnel| tunnel.name == name.trim()) {
        Some(tunnel) => Ok(of(tunnel)),
        None => number(name.trim()).with_context(|| format!("there is no site {name:?}")),
    }
}

/// Returns a site's name, or the number if it has none.
pub fn tunnel_name(id: u32) -> String {
    TUNNELS.iter().find(|tunnel| tunnel.id == id).map_or(id.to_string(), |tunnel| tunnel.name.to_owned())
}

/// Returns a customer's id by its name, 0 for `nobody`.
pub fn customer_id(name: &str) -> Result<u32> {
    match CUSTOMERS.iter().find(|customer| customer.name == name.trim()) {
        Some(customer) => Ok(customer.id),
        None if name.trim() == "nobody" => Ok(0),
        None => bail!("there is no customer {name:?}"),
    }
}

/// Returns a customer's name, as [`customer_id`] reads it.
pub fn customer_name(id: u32) -> String {
    match CUSTOMERS.iter().find(|customer| customer.id == id) {
        Some(customer) => customer.name.to_owned(),
        None if id == 0 => "nobody".to_owned(),
        None => format!("customer {id}"),
    }
}

/// The contents of the maps.
#[derive(Clone, PartialEq, Debug)]
pub struct World {
    /// SETTINGS.
    pub settings: Settings,
    /// BINDINGS.
    pub bindings: BTreeMap<u32, Binding>,
    /// TUNNELS.
    pub tunnels: BTreeMap<u32, Tunnel>,
    /// CUSTOMERS and CUSTOMERS6.
    pub customers: BTreeMap<IpAddr, Customer>,
    /// PEERS.
    pub peers: BTreeSet<Ipv6>,
    /// INBOUND_SPIS.
    pub inbound_spis: BTreeMap<u32, u32>,
    /// OUTBOUND_SPIS.
    pub outbound_spis: BTreeMap<OutboundSpi, u32>,
    /// COOKIES.
    pub secrets: Secrets,
    /// True if PROGRAMS, the array of tail calls, is filled.
    pub continuations: bool,
}

impl World {
    /// Returns the usual world.
    pub fn usual() -> Self {
        let customers = CUSTOMERS.iter().flat_map(|customer| {
            let servers = [Some(IpAddr::V4(customer.server)), customer.server6.map(IpAddr::V6)];
            servers.into_iter().flatten().map(|server| (server, Customer { id: customer.id }))
        });
        let outbound =
            TUNNELS.iter().flat_map(|known| known.peers.map(|peer| (outbound(known, peer), known.mark)));
        Self {
            settings: settings(),
            bindings: TUNNELS.iter().map(|known| (known.reqid, binding(known))).collect(),
            tunnels: TUNNELS.iter().map(|known| (known.id, tunnel(known))).collect(),
            customers: customers.collect(),
            peers: TUNNELS.iter().flat_map(|known| known.peers.map(Ipv6::from)).collect(),
            inbound_spis: TUNNELS.iter().map(|known| (known.inbound_spi, known.mark)).collect(),
            outbound_spis: outbound.collect(),
            secrets: secrets(1),
            continuations: true,
        }
    }
}

fn binding(known: &KnownTunnel) -> Binding {
    Binding { site: known.id, mark: known.mark, inbound_spis: [0; 2] }
}

/// Returns the secrets of IKE cookies of this version, 1 or more. The secret of version N is the key of the two
/// little-endian numbers N and !N.
pub fn secrets(version: u32) -> Secrets {
    let key = |version: u32| [u64::from(version), !u64::from(version)];
    (2..=version).fold(Secrets::first([key(0), key(1)]), |secrets, version| secrets.rotated(key(version)))
}

fn tunnel(known: &KnownTunnel) -> Tunnel {
    let owner = known.owner();
    let lan6 = known.lan6.map(|(network, bits)| Prefix::new(Ipv6::from(network), bits));
    let server6 = owner.server6.map(Ipv6::from).unwrap_or_default();
    Tunnel {
        customer: known.customer,
        generation: 1,
        port: PORT,
        up: 1,
        v4: access(
            owner.server.into(),
            MSS_BYTES[0],
            &[Prefix::new(known.lan.0.into(), known.lan.1)],
            known.mark,
        ),
        quota: PLENTY,
        share: Share::WHOLE,
        v6: access(server6, MSS_BYTES[1], lan6.as_slice(), known.mark),
        ..Tunnel::default()
    }
}

/// Returns a site's access in one family: its server, its LAN's prefixes, and the mark of the tunnel for all of them.
pub fn access<A: Family>(server: A, mss: u16, prefixes: &[Prefix<A>], mark: u32) -> Access<A> {
    let (mut lan, mut marks) = ([Prefix::default(); PREFIXES_PER_SITE], [0; PREFIXES_PER_SITE]);
    lan[..prefixes.len()].copy_from_slice(prefixes);
    marks[..prefixes.len()].fill(mark);
    Access { server, mss, prefix_count: prefixes.len() as u8, _reserved: 0, lan, marks }
}

fn outbound(known: &KnownTunnel, peer: IpAddr) -> OutboundSpi {
    OutboundSpi { peer: peer.into(), spi: known.outbound_spi }
}
