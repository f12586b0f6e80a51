//! A small fixed world for the decision, in both families: two customers with the same LANs, one of them with
//! a second site, and a tunnel that is down. Only this file knows the tables' types.
//!
//! Independent of the kit's `World` and of that of gateway-common's tests on purpose: the committed corpus is
//! tuned to these addresses and small quotas, and a change to another test's world must not make it
//! worthless.
use std::{
    cell::RefCell,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use gateway_common::{
    decide::{self, Decision, FamilyTables, FlowCell, NotInserted, Tables, UsageCell},
    layout::{
        Access, Addresses, Binding, LayoutFamily, ManagementRule, Prefix, Quota, Settings, Share, Tunnel,
        Usage,
    },
    limits::{MANAGEMENT_RULES, PREFIXES_PER_SITE},
    tcp::{
        DOUBTFUL_TIMEOUT_SECONDS, Direction, Flow, FlowKey, RETRANSMISSION_SLOT, STATE_SLOTS, State,
        UNACKNOWLEDGED_SLOT, status,
    },
    time::Ticks,
    wire::{Ipv4, Ipv6, protocol},
};

pub use gateway_common::decide::Identity;

/// Customer and LANs of each tunnel, in the order of the tunnels' ids, which begin at 1.
pub const SITES: [Site; 4] = [
    site(1, ([192, 168, 0, 0], 16), ([0xfd00, 0x192, 0x168, 0, 0, 0, 0, 0], 48)),
    site(1, ([10, 20, 0, 0], 16), ([0xfd00, 0x10, 0x20, 0, 0, 0, 0, 0], 48)),
    site(2, ([192, 168, 0, 0], 16), ([0xfd00, 0x192, 0x168, 0, 0, 0, 0, 0], 48)),
    site(2, ([10, 30, 7, 0], 24), ([0xfd00, 0x10, 0x30, 7, 0, 0, 0, 0], 64)),
];
/// The tunnel that is down.
pub const DOWN: u32 = 4;
/// The port that servers offer.
pub const PORT: u16 = 80;
/// Largest TCP segment that fits a tunnel in bytes, in IPv4 and IPv6.
pub const MSS_BYTES: [u16; 2] = [1356, 1336];
/// The LAN's MTU in bytes.
pub const LAN_MTU_BYTES: u32 = 1400;
/// The gateway's addresses on the internet interface.
pub const INTERNET: [IpAddr; 2] = [v4([203, 0, 113, 1]), v6([0x2001, 0xdb8, 0x113, 0, 0, 0, 0, 1])];
/// The gateway's addresses on the LAN interface.
pub const LAN: [IpAddr; 2] = [v4([10, 200, 0, 1]), v6([0xfd00, 0x200, 0, 0, 0, 0, 0, 1])];
/// Networks that may manage the gateway on TCP port 22: address and number of leading bits.
pub const MANAGERS: [(IpAddr, u32); 2] =
    [(v4([198, 51, 100, 0]), 24), (v6([0x2001, 0xdb8, 0x51, 0, 0, 0, 0, 0]), 48)];
/// Quota of each customer, small enough to be reached at times.
const QUOTA: Quota = Quota { flows: 5, half_open: 3, new_flow_interval_ns: 1_500_000, new_flow_burst: 4 };

/// Share of each site, small enough to be reached at times.
const SHARE: Share = Share { flows: 4, half_open: 2 };
/// Room for flows of each family, small enough that the table is full at times.
const FLOW_LIMIT: usize = 6;
/// Number of customers; their ids begin at 1.
const CUSTOMERS: usize = 2;

/// A tunnel's customer and the LANs behind it: first address and bits.
#[derive(Debug)]
pub struct Site {
    /// The customer's id.
    pub customer: u32,
    /// The LAN in IPv4 and in IPv6.
    pub lan: [(IpAddr, u32); 2],
}

const fn site(customer: u32, lan: ([u8; 4], u32), lan6: ([u16; 8], u32)) -> Site {
    Site { customer, lan: [(v4(lan.0), lan.1), (v6(lan6.0), lan6.1)] }
}

const fn v4([a, b, c, d]: [u8; 4]) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(a, b, c, d))
}

const fn v6([a, b, c, d, e, f, g, h]: [u16; 8]) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(a, b, c, d, e, f, g, h))
}

/// Returns true if both addresses are of one family and share this many leading bits.
pub fn same_network(a: IpAddr, b: IpAddr, bits: u32) -> bool {
    match (a, b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros() >= bits,
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros() >= bits,
        _ => false,
    }
}

fn is_v6(frame: &[u8]) -> bool {
    frame.get(12..14) == Some(&[0x86, 0xdd])
}

/// Returns a customer's server.
pub const fn server(customer: u32, is_v6: bool) -> IpAddr {
    let host = 10 + customer as u8;
    match is_v6 {
        false => v4([10, 200, 0, host]),
        true => v6([0xfd00, 0x200, 0, 0, 0, 0, 0, host as u16]),
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

/// All tables.
#[derive(Clone, Debug)]
pub struct World {
    settings: Settings,
    bindings: [Binding; reqid(SITES.len() as u32) as usize + 1],
    tunnels: [Tunnel; SITES.len() + 1],
    flows: RefCell<Vec<(Key, Flow)>>,
    usage: RefCell<[Usage; CUSTOMERS + 1]>,
    shares: RefCell<[Usage; SITES.len() + 1]>,
}

/// The key of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Key {
    /// The customer's id.
    pub customer: u32,
    /// The device.
    pub device: IpAddr,
    /// The device's port.
    pub port: u16,
}

/// A connection as the fuzz targets look at it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Connection {
    /// Its key.
    pub key: Key,
    /// Its tunnel.
    pub tunnel: u32,
    /// Number of its TCP state, 0 while it is being removed.
    pub state: u8,
    /// Seconds until it expires, rounded down.
    pub left_seconds: u64,
    /// It has expired.
    pub is_over: bool,
    flow: Flow,
}

impl Connection {
    /// Returns the part that a dropped segment must not change.
    pub fn essence(&self) -> impl PartialEq + std::fmt::Debug + use<> {
        const STATUS: u8 = status::REPLY_SEEN | status::ASSURED | status::HALF_OPEN;
        (self.key, self.tunnel, self.state, self.flow.generation, self.flow.last & STATUS)
    }

    /// Returns both ends' window scale.
    pub fn scales(&self) -> [u8; 2] {
        [self.flow.scale(0), self.flow.scale(1)]
    }

    /// Returns true if its customer is charged for an incomplete handshake.
    pub fn is_half_open(&self) -> bool {
        self.flow.has(status::HALF_OPEN)
    }

    /// Returns the numbers at which the verdict on a segment in this direction may change.
    pub fn landmarks(&self, direction: Direction) -> [u32; 6] {
        let own = self.flow.peers[direction as usize];
        let other = self.flow.peers[direction.opposite() as usize];
        [own.end, own.max_end, other.max_ack, other.end, self.flow.last_end, self.flow.last_ack]
            .map(|number| number.0)
    }
}

impl World {
    /// Returns the world without any flow.
    pub fn new(adopt_midstream: bool) -> Self {
        let mut bindings = [Binding::default(); _];
        for site in 1..=SITES.len() as u32 {
            bindings[reqid(site) as usize] = Binding { site, mark: mark(site), inbound_spis: [0; 2] };
        }
        let mut tunnels = [Tunnel::default(); SITES.len() + 1];
        for (tunnel, (id, site)) in tunnels[1..].iter_mut().zip((1..).zip(&SITES)) {
            let [lan, lan6] = site.lan;
            let [server, server6] = [false, true].map(|is_v6| Ipv6::from(server(site.customer, is_v6)));
            *tunnel = Tunnel {
                customer: site.customer,
                generation: 1,
                port: PORT,
                up: u8::from(id != DOWN),
                v4: access(
                    unmapped(server),
                    MSS_BYTES[0],
                    Prefix::new(unmapped(lan.0.into()), lan.1 as u8),
                    mark(id),
                ),
                quota: QUOTA,
                share: SHARE,
                v6: access(server6, MSS_BYTES[1], Prefix::new(lan6.0.into(), lan6.1 as u8), mark(id)),
                ..Tunnel::default()
            };
        }
        let settings = settings(adopt_midstream);
        Self {
            settings,
            bindings,
            tunnels,
            flows: RefCell::default(),
            usage: RefCell::default(),
            shares: RefCell::default(),
        }
    }

    /// Decides about a decapsulated packet. Asserts that the fast and the full path decide the same.
    pub fn from_site(&self, frame: &[u8], identity: Identity, now_ns: u64) -> Decision {
        let other = self.clone();
        let decision = decide::from_site(frame, self, identity, now_ns);
        let slowly = match is_v6(frame) {
            false => decide::from_site_full::<Ipv4, _, _>(frame, &other, &self.settings, identity, now_ns),
            true => decide::from_site_full::<Ipv6, _, _>(frame, &other, &self.settings, identity, now_ns),
        };
        assert_eq!(decision, slowly);
        self.check_same(&other);
        decision
    }

    /// Decides about a packet from the cloud LAN. Asserts that the fast and the full path decide the same.
    pub fn from_server(&self, frame: &[u8], now_ns: u64) -> Decision {
        let other = self.clone();
        let decision = decide::from_server(frame, self, now_ns);
        let slowly = match is_v6(frame) {
            false => decide::from_server_full::<Ipv4, _, _>(frame, &other, &self.settings, now_ns),
            true => decide::from_server_full::<Ipv6, _, _>(frame, &other, &self.settings, now_ns),
        };
        assert_eq!(decision, slowly);
        self.check_same(&other);
        decision
    }

    fn check_same(&self, other: &Self) {
        self.check_usage();
        assert_eq!(*self.flows.borrow(), *other.flows.borrow());
        assert_eq!(*self.usage.borrow(), *other.usage.borrow());
        assert_eq!(*self.shares.borrow(), *other.shares.borrow());
    }

    /// Marks expired flows, as the wheel does before it removes them.
    pub fn end(&self, now_ns: u64) {
        let now = Ticks::from_ns(now_ns);
        for (_, flow) in self.flows.borrow_mut().iter_mut().filter(|(_, flow)| flow.is_over(now)) {
            flow.end();
        }
    }

    /// Removes expired flows and returns their share of the quota.
    pub fn remove(&self, now_ns: u64) {
        let (now, mut usage) = (Ticks::from_ns(now_ns), self.usage.borrow_mut());
        let mut shares = self.shares.borrow_mut();
        self.flows.borrow_mut().retain(|(key, flow)| {
            let is_over = flow.is_over(now);
            if is_over {
                let half_open = u32::from(flow.has(status::HALF_OPEN));
                usage[key.customer as usize].give_back(1, half_open);
                shares[flow.tunnel as usize].give_back_share(key.customer, 1, half_open);
            }
            !is_over
        });
        drop((usage, shares));
        self.check_usage();
    }

    /// Asserts that each customer's usage matches its flows in the table and is within its quota.
    fn check_usage(&self) {
        let (flows, usage) = (self.flows.borrow(), self.usage.borrow());
        for (customer, usage) in (0..).zip(&*usage) {
            let (mut count, mut half_open) = (0, 0);
            for (_, flow) in flows.iter().filter(|(key, _)| key.customer == customer) {
                count += 1;
                half_open += u32::from(flow.has(status::HALF_OPEN));
            }
            assert_eq!((usage.flows, usage.half_open), (count, half_open), "usage of customer {customer}");
            assert!(count <= QUOTA.flows && half_open <= QUOTA.half_open, "quota of customer {customer}");
        }
        assert_eq!(usage[0], Usage::default());
        self.check_shares();
    }

    /// Asserts that each site's usage matches its flows in the table and is within its share.
    fn check_shares(&self) {
        let flows = self.flows.borrow();
        for (site, usage) in (0..).zip(&*self.shares.borrow()) {
            let own = || flows.iter().filter(|(_, flow)| flow.tunnel == site);
            let half_open = own().filter(|(_, flow)| flow.has(status::HALF_OPEN)).count() as u32;
            let count = own().count() as u32;
            assert_eq!((usage.flows, usage.half_open), (count, half_open), "share of site {site}");
            assert!(count <= SHARE.flows && half_open <= SHARE.half_open, "share of site {site}");
        }
    }

    /// Returns all flows, expired ones included, in the order of their arrival.
    pub fn connections(&self, now_ns: u64) -> Vec<Connection> {
        let now = Ticks::from_ns(now_ns);
        let connection = |(key, flow): &(Key, Flow)| Connection {
            key: *key,
            tunnel: flow.tunnel,
            state: flow.state(),
            left_seconds: flow.expires.since(now).as_ns() / 1_000_000_000,
            is_over: flow.is_over(now),
            flow: *flow,
        };
        self.flows.borrow().iter().map(connection).collect()
    }
}

/// Returns the IPv4 address in an IPv4-mapped IPv6 address.
fn unmapped(address: Ipv6) -> Ipv4 {
    let [.., a, b, c, d] = address.octets;
    Ipv4 { octets: [a, b, c, d] }
}

fn access<A: LayoutFamily>(server: A, mss: u16, prefix: Prefix<A>, mark: u32) -> Access<A> {
    let (mut lan, mut marks) = ([Prefix::default(); PREFIXES_PER_SITE], [0; PREFIXES_PER_SITE]);
    (lan[0], marks[0]) = (prefix, mark);
    Access { server, mss, prefix_count: 1, _reserved: 0, lan, marks }
}

/// Returns the settings of a gateway with one address and one management rule in each family.
pub fn settings(adopt_midstream: bool) -> Settings {
    let mut timeouts = [Ticks::default(); STATE_SLOTS];
    for state in State::ALL {
        timeouts[*state as usize] = Ticks::from_seconds(state.default_timeout_seconds());
    }
    for slot in [RETRANSMISSION_SLOT, UNACKNOWLEDGED_SLOT] {
        timeouts[slot as usize] = Ticks::from_seconds(DOUBTFUL_TIMEOUT_SECONDS);
    }
    let mut management = [ManagementRule::default(); MANAGEMENT_RULES];
    for (rule, ((from, bits), mapped)) in management.iter_mut().zip(MANAGERS.into_iter().zip([96, 0])) {
        let from = Prefix::new(Ipv6::from(from), (mapped + bits) as u8);
        *rule = ManagementRule { from, port: 22, protocol: protocol::TCP, ..Default::default() };
    }
    Settings {
        ready: 1,
        internet_ifindex: 2,
        lan_ifindex: 1,
        lan_mtu: LAN_MTU_BYTES,
        xdp: 1,
        adopt_midstream: u32::from(adopt_midstream),
        management_count: MANAGERS.len() as u32,
        _reserved: 0,
        internet: addresses(INTERNET),
        lan: addresses(LAN),
        management,
        timeouts,
    }
}

fn addresses([one, other]: [IpAddr; 2]) -> Addresses {
    let mut addresses = Addresses { v4_count: 1, v6_count: 1, ..Addresses::default() };
    addresses.v4[0] = unmapped(one.into());
    addresses.v6[0] = other.into();
    addresses
}

impl Tables for World {
    fn settings(&self) -> Option<&Settings> {
        Some(&self.settings)
    }

    fn binding(&self, reqid: u32) -> Option<&Binding> {
        self.bindings.get(reqid as usize)
    }

    fn tunnel(&self, number: u32) -> Option<&Tunnel> {
        self.tunnels.get(number as usize)
    }

    fn inbound_spi(&self, number: u32) -> Option<u32> {
        (1..=SITES.len() as u32).find(|site| spi(*site) == number).map(mark)
    }

    fn usage(&self, customer: u32) -> Option<impl UsageCell> {
        (1..=CUSTOMERS).contains(&(customer as usize)).then_some(OneUsage(&self.usage, customer as usize))
    }

    fn share(&self, site: u32) -> Option<impl UsageCell> {
        (1..=SITES.len()).contains(&(site as usize)).then_some(OneUsage(&self.shares, site as usize))
    }
}

impl<A: LayoutFamily> FamilyTables<A> for World {
    fn customer(&self, address: A) -> Option<u32> {
        (1..=CUSTOMERS as u32).find(|customer| server(*customer, A::LINUX == 10) == address_of(address))
    }

    fn flow(&self, key: &FlowKey<A>) -> Option<impl FlowCell> {
        let key = key_of(key);
        let at = self.flows.borrow().iter().position(|(other, _)| *other == key)?;
        Some(Cell { flows: &self.flows, at })
    }

    fn insert_flow(&self, key: &FlowKey<A>, flow: &Flow, _: Ticks) -> Result<(), NotInserted> {
        let (key, mut flows) = (key_of(key), self.flows.borrow_mut());
        assert!(flows.iter().all(|(other, _)| *other != key), "the flow exists already");
        let of_family = |(other, _): &&(Key, Flow)| other.device.is_ipv4() == key.device.is_ipv4();
        if flows.iter().filter(of_family).count() >= FLOW_LIMIT {
            return Err(NotInserted::Full);
        }
        flows.push((key, *flow));
        Ok(())
    }
}

fn address_of<A: LayoutFamily>(address: A) -> IpAddr {
    let mapped = address.mapped();
    // An IPv6 address that looks like a mapped one stays IPv6 here.
    if A::LINUX == 10 { IpAddr::V6(mapped.into()) } else { mapped.into() }
}

fn key_of<A: LayoutFamily>(key: &FlowKey<A>) -> Key {
    Key { customer: key.customer, device: address_of(key.lan_address), port: key.lan_port }
}

/// A flow by its index, which is valid because no flow is removed during a decision.
struct Cell<'a> {
    flows: &'a RefCell<Vec<(Key, Flow)>>,
    at: usize,
}

impl FlowCell for Cell<'_> {
    fn tunnel(&self) -> u32 {
        self.flows.borrow()[self.at].1.tunnel
    }

    fn locked<R>(&self, change: impl FnOnce(&mut Flow) -> R) -> R {
        change(&mut self.flows.borrow_mut()[self.at].1)
    }
}

/// The usage of a customer or a site, by its number.
struct OneUsage<'a, const N: usize>(&'a RefCell<[Usage; N]>, usize);

impl<const N: usize> UsageCell for OneUsage<'_, N> {
    fn locked<R>(&self, change: impl FnOnce(&mut Usage) -> R) -> R {
        change(&mut self.0.borrow_mut()[self.1])
    }
}
