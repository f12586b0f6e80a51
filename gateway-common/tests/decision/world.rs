//! The decision's tables in ordinary maps: three customers, two of them with the same LANs, in IPv4 and IPv6.
//!
//! Independent of the kit's `World` (`tests/kit/src/world.rs`) on purpose: that one needs the `gateway` crate
//! and the built programs, and the tests of this crate, which also run in the copies that `cargo xtask
//! mutate` breaks, need neither. Frames are built with etherparse directly for the same reason.
use std::{
    cell::RefCell,
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use etherparse::{IpHeaders, Ipv4Header, Ipv6FlowLabel, Ipv6Header, PacketBuilder, PacketBuilderStep};
use gateway_common::{
    decide::{self, Decision, FamilyTables, FlowCell, Identity, NotInserted, Tables, UsageCell},
    family::Family,
    layout::{Access, Addresses, Binding, LayoutFamily, Prefix, Quota, Settings, Share, Tunnel, Usage},
    limits::{MANAGEMENT_RULES, PREFIXES_PER_SITE},
    tcp::{
        DOUBTFUL_TIMEOUT_SECONDS, Flow, FlowKey, RETRANSMISSION_SLOT, STATE_SLOTS, State, UNACKNOWLEDGED_SLOT,
    },
    time::Ticks,
    wire::{Frame, Ipv4, Ipv6, ethertype_of},
};

/// All tables.
#[derive(Clone)]
pub struct World {
    pub settings: Settings,
    /// Bindings by reqid.
    pub bindings: HashMap<u32, Binding>,
    /// Sites by number; index 0 is no site.
    pub tunnels: Vec<Tunnel>,
    /// Customers by their servers' addresses.
    pub customers: HashMap<IpAddr, u32>,
    /// Marks by inbound SPI.
    pub inbound_spis: HashMap<u32, u32>,
    pub flows: RefCell<HashMap<Key, Flow>>,
    /// Usage by customer.
    pub usage: RefCell<HashMap<u32, Usage>>,
    /// Usage of shares by site.
    pub shares: RefCell<HashMap<u32, Usage>>,
    /// Room for flows of each family.
    pub flow_limit: usize,
}

/// A flow's key, whatever its family.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Key {
    pub customer: u32,
    pub device: IpAddr,
    pub port: u16,
}

/// A site's customer and LANs.
pub struct Site {
    pub customer: u32,
    pub v4: (Ipv4Addr, u8),
    pub v6: (Ipv6Addr, u8),
}

const fn site(customer: u32, v4: ([u8; 4], u8), v6: ([u16; 8], u8)) -> Site {
    let ([a, b, c, d], [e, f, g, h, i, j, k, l]) = (v4.0, v6.0);
    let v6 = (Ipv6Addr::new(e, f, g, h, i, j, k, l), v6.1);
    Site { customer, v4: (Ipv4Addr::new(a, b, c, d), v4.1), v6 }
}

/// All sites, in the order of their numbers, which begin at 1.
pub const SITES: [Site; 4] = [
    site(1, ([192, 168, 0, 0], 16), ([0xfd00, 0x192, 0x168, 0, 0, 0, 0, 0], 48)),
    site(1, ([10, 20, 0, 0], 16), ([0xfd00, 0x10, 0x20, 0, 0, 0, 0, 0], 48)),
    site(2, ([192, 168, 0, 0], 16), ([0xfd00, 0x192, 0x168, 0, 0, 0, 0, 0], 48)),
    site(3, ([10, 30, 7, 0], 24), ([0xfd00, 0x10, 0x30, 7, 0, 0, 0, 0], 64)),
];

/// Returns a customer's server.
pub const fn server(customer: u32, v6: bool) -> IpAddr {
    let host = 10 + customer as u8;
    match v6 {
        false => IpAddr::V4(Ipv4Addr::new(10, 200, 0, host)),
        true => IpAddr::V6(Ipv6Addr::new(0xfd00, 0x200, 0, 0, 0, 0, 0, host as u16)),
    }
}

/// Returns the SPI that the peer of a site's tunnel sends with.
pub const fn spi(site: u32) -> u32 {
    0xc0de_0000 + site
}

/// Returns the reqid of a site's tunnel.
pub const fn reqid(site: u32) -> u32 {
    20 + site
}

/// Returns the mark of a site's tunnel.
pub const fn mark(site: u32) -> u32 {
    1000 + site
}

/// Returns the identity of packets out of a site's tunnel.
pub const fn identity(site: u32) -> Identity {
    Identity { reqid: reqid(site), spi: spi(site), mark: mark(site) }
}

/// Returns the binding of a site's tunnel.
pub const fn binding(site: u32) -> Binding {
    Binding { site, mark: mark(site), inbound_spis: [0; 2] }
}

/// A quota that no test reaches.
pub const PLENTY: Quota =
    Quota { flows: u32::MAX / 2, half_open: u32::MAX / 2, new_flow_interval_ns: 0, new_flow_burst: 1 };

/// Largest TCP segment in each family, in bytes.
const MSS: [u16; 2] = [1356, 1336];

impl World {
    pub fn new() -> Self {
        let mut timeouts = [Ticks::default(); STATE_SLOTS];
        for state in State::ALL {
            timeouts[*state as usize] = Ticks::from_seconds(state.default_timeout_seconds());
        }
        for slot in [RETRANSMISSION_SLOT, UNACKNOWLEDGED_SLOT] {
            timeouts[slot as usize] = Ticks::from_seconds(DOUBTFUL_TIMEOUT_SECONDS);
        }
        let settings = Settings {
            ready: 1,
            internet_ifindex: 2,
            lan_ifindex: 1,
            lan_mtu: 1500,
            xdp: 1,
            adopt_midstream: 0,
            management_count: 0,
            _reserved: 0,
            internet: Addresses::default(),
            lan: Addresses::default(),
            management: [Default::default(); MANAGEMENT_RULES],
            timeouts,
        };
        let customers = (1..=3).flat_map(|id| [false, true].map(|v6| (server(id, v6), id)));
        Self {
            settings,
            bindings: (1..=4).map(|site| (reqid(site), binding(site))).collect(),
            tunnels: [&[Tunnel::default()], &[1, 2, 3, 4].map(tunnel)[..]].concat(),
            customers: customers.collect(),
            inbound_spis: (1..=4).map(|site| (spi(site), mark(site))).collect(),
            flows: RefCell::default(),
            usage: RefCell::new((1..=3).map(|customer| (customer, Usage::default())).collect()),
            shares: RefCell::new((1..=4).map(|site| (site, Usage::default())).collect()),
            flow_limit: usize::MAX,
        }
    }
}

/// Decides about a packet of a site. Asserts that the fast and the full path decide the same.
pub fn from_site<F: Frame + ?Sized>(frame: &F, world: &World, identity: Identity, now_ns: u64) -> Decision {
    let other = world.clone();
    let decision = decide::from_site(frame, world, identity, now_ns);
    if let Some(settings) = decide::ready(world) {
        let slowly = match ethertype_of(frame) == Some(Ipv6::ETHERTYPE) {
            false => decide::from_site_full::<Ipv4, _, _>(frame, &other, settings, identity, now_ns),
            true => decide::from_site_full::<Ipv6, _, _>(frame, &other, settings, identity, now_ns),
        };
        world.assert_same(decision, &other, slowly);
    }
    decision
}

/// Decides about a packet of a server. Asserts that the fast and the full path decide the same.
pub fn from_server<F: Frame + ?Sized>(frame: &F, world: &World, now_ns: u64) -> Decision {
    let other = world.clone();
    let decision = decide::from_server(frame, world, now_ns);
    if let Some(settings) = decide::ready(world) {
        let slowly = match ethertype_of(frame) == Some(Ipv6::ETHERTYPE) {
            false => decide::from_server_full::<Ipv4, _, _>(frame, &other, settings, now_ns),
            true => decide::from_server_full::<Ipv6, _, _>(frame, &other, settings, now_ns),
        };
        world.assert_same(decision, &other, slowly);
    }
    decision
}

impl World {
    fn assert_same(&self, decision: Decision, other: &Self, others: Decision) {
        assert_eq!(decision, others, "at once and not");
        assert_eq!(*self.flows.borrow(), *other.flows.borrow());
        assert_eq!(*self.usage.borrow(), *other.usage.borrow());
        assert_eq!(*self.shares.borrow(), *other.shares.borrow());
    }
}

fn tunnel(number: u32) -> Tunnel {
    let site = &SITES[number as usize - 1];
    let (IpAddr::V4(v4), IpAddr::V6(v6)) = (server(site.customer, false), server(site.customer, true)) else {
        unreachable!("a server has an address of each family")
    };
    Tunnel {
        customer: site.customer,
        generation: 1,
        port: 80,
        up: 1,
        v4: access(v4.into(), MSS[0], Prefix::new(Ipv4::from(site.v4.0), site.v4.1), mark(number)),
        quota: PLENTY,
        share: Share::WHOLE,
        v6: access(v6.into(), MSS[1], Prefix::new(Ipv6::from(site.v6.0), site.v6.1), mark(number)),
        ..Tunnel::default()
    }
}

fn access<A: LayoutFamily>(server: A, mss: u16, prefix: Prefix<A>, mark: u32) -> Access<A> {
    let (mut lan, mut marks) = ([Prefix::default(); PREFIXES_PER_SITE], [0; PREFIXES_PER_SITE]);
    (lan[0], marks[0]) = (prefix, mark);
    Access { server, mss, prefix_count: 1, _reserved: 0, lan, marks }
}

/// Starts a frame with Ethernet and an IP header without options, of the addresses' family.
pub fn ip(from: IpAddr, to: IpAddr, hop_limit: u8) -> PacketBuilderStep<IpHeaders> {
    let headers = match (from, to) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let header = Ipv4Header {
                time_to_live: hop_limit,
                source: source.octets(),
                destination: destination.octets(),
                ..Ipv4Header::default()
            };
            IpHeaders::Ipv4(header, Default::default())
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let header = Ipv6Header {
                flow_label: Ipv6FlowLabel::ZERO,
                hop_limit,
                source: source.octets(),
                destination: destination.octets(),
                ..Ipv6Header::default()
            };
            IpHeaders::Ipv6(header, Default::default())
        }
        _ => unreachable!("both addresses are of one family"),
    };
    PacketBuilder::ethernet2([2; 6], [4; 6]).ip(headers)
}

/// Returns the offset of the TCP header in a frame of the address's family.
pub fn transport(address: IpAddr) -> usize {
    if address.is_ipv4() { 34 } else { 54 }
}

impl Tables for World {
    fn settings(&self) -> Option<&Settings> {
        Some(&self.settings)
    }

    fn binding(&self, reqid: u32) -> Option<&Binding> {
        self.bindings.get(&reqid)
    }

    fn tunnel(&self, number: u32) -> Option<&Tunnel> {
        self.tunnels.get(number as usize)
    }

    fn inbound_spi(&self, spi: u32) -> Option<u32> {
        self.inbound_spis.get(&spi).copied()
    }

    fn usage(&self, customer: u32) -> Option<impl UsageCell> {
        let known = self.usage.borrow().contains_key(&customer);
        known.then_some(OneUsage { usage: &self.usage, number: customer })
    }

    fn share(&self, site: u32) -> Option<impl UsageCell> {
        let known = self.shares.borrow().contains_key(&site);
        known.then_some(OneUsage { usage: &self.shares, number: site })
    }
}

impl<A: LayoutFamily> FamilyTables<A> for World {
    fn customer(&self, server: A) -> Option<u32> {
        self.customers.get(&address(server)).copied()
    }

    fn flow(&self, key: &FlowKey<A>) -> Option<impl FlowCell> {
        let key = key_of(key);
        self.flows.borrow().contains_key(&key).then_some(Cell { flows: &self.flows, key })
    }

    fn insert_flow(&self, key: &FlowKey<A>, flow: &Flow, _: Ticks) -> Result<(), NotInserted> {
        let mut flows = self.flows.borrow_mut();
        let key = key_of(key);
        // Like BPF_NOEXIST.
        if flows.contains_key(&key) {
            return Err(NotInserted::Exists);
        }
        if flows.keys().filter(|other| other.device.is_ipv4() == key.device.is_ipv4()).count()
            >= self.flow_limit
        {
            return Err(NotInserted::Full);
        }
        flows.insert(key, *flow);
        Ok(())
    }
}

fn address<A: LayoutFamily>(address: A) -> IpAddr {
    let mapped = address.mapped();
    match A::HEADER_BYTES {
        20 => mapped.into(),
        // IpAddr::from would take a mapped address for IPv4.
        _ => IpAddr::V6(mapped.into()),
    }
}

fn key_of<A: LayoutFamily>(key: &FlowKey<A>) -> Key {
    Key { customer: key.customer, device: address(key.lan_address), port: key.lan_port }
}

struct Cell<'a> {
    flows: &'a RefCell<HashMap<Key, Flow>>,
    key: Key,
}

impl FlowCell for Cell<'_> {
    fn tunnel(&self) -> u32 {
        self.flows.borrow()[&self.key].tunnel
    }

    fn locked<R>(&self, change: impl FnOnce(&mut Flow) -> R) -> R {
        let mut flows = self.flows.borrow_mut();
        change(flows.get_mut(&self.key).expect("no flow is removed during a decision"))
    }
}

/// The usage of a customer or a site, by its number.
struct OneUsage<'a> {
    usage: &'a RefCell<HashMap<u32, Usage>>,
    number: u32,
}

impl UsageCell for OneUsage<'_> {
    fn locked<R>(&self, change: impl FnOnce(&mut Usage) -> R) -> R {
        change(self.usage.borrow_mut().get_mut(&self.number).expect("no usage is removed"))
    }
}
