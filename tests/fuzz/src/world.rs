//! A small fixed world for the decision: two customers with the same LAN, one of them with a second site, and
//! a tunnel that is down. This file alone knows the tables' types.
use std::cell::RefCell;

use gateway_common::{
    decide::{self, Decision, FlowCell, Full, Tables},
    layout::{Customer, Flow, FlowKey, ManagementRule, Prefix, Settings, Ticks, Tunnel},
    limits::{MANAGEMENT_RULES, OWN_ADDRESSES, PREFIXES_PER_SITE},
    tcp::{
        DOUBTFUL_TIMEOUT_SECONDS, Direction, RETRANSMISSION_SLOT, STATE_SLOTS, State, UNACKNOWLEDGED_SLOT,
    },
    wire::{Ipv4, protocol},
};

pub use gateway_common::decide::Identity;

/// Customer, network and bits of each tunnel's LAN; tunnel ids begin at 1.
pub const SITES: [(u32, [u8; 4], u8); 4] =
    [(1, [192, 168, 0, 0], 16), (1, [10, 20, 0, 0], 16), (2, [192, 168, 0, 0], 16), (2, [10, 30, 7, 0], 24)];
/// The tunnel that is down.
pub const DOWN: u32 = 4;
/// The port that servers offer.
pub const PORT: u16 = 80;
/// The largest segment that fits a tunnel, in bytes.
pub const MSS_BYTES: u16 = 1356;
/// The gateway's address on the internet interface.
pub const INTERNET: [u8; 4] = [203, 0, 113, 1];
/// The gateway's address on the LAN interface.
pub const LAN: [u8; 4] = [10, 200, 0, 1];
/// Who may manage the gateway, by TCP port 22.
pub const MANAGERS: ([u8; 4], u8) = ([198, 51, 100, 0], 24);
/// Flows there is room for: few, so that the table is full at times.
const FLOW_LIMIT: usize = 6;

/// A customer's server.
pub const fn server(customer: u32) -> [u8; 4] {
    [10, 200, 0, 10 + customer as u8]
}

/// The SPI that a tunnel's peer sends with.
pub const fn spi(tunnel: u32) -> u32 {
    0xc0de_0000 + tunnel
}

/// All tables.
#[derive(Debug)]
pub struct World {
    settings: Settings,
    tunnels: [Tunnel; SITES.len() + 1],
    flows: RefCell<Vec<(FlowKey, Flow)>>,
}

/// Which connection it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Key {
    /// Whose.
    pub customer: u32,
    /// The device.
    pub device: [u8; 4],
    /// The device's port.
    pub port: u16,
}

/// A connection as a target looks at it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Connection {
    /// Which.
    pub key: Key,
    /// The tunnel it belongs to.
    pub tunnel: u32,
    /// A state's number.
    pub state: u8,
    /// Both ends' window scale.
    pub scale: [u8; 2],
    /// Packets that passed, by direction number.
    pub packets: [u32; 2],
    /// Seconds until it is over, rounded down.
    pub left_seconds: u64,
    flow: Flow,
}

impl Connection {
    /// What a dropped segment must not change.
    pub fn essence(&self) -> impl PartialEq + std::fmt::Debug + use<> {
        (self.key, self.tunnel, self.state, self.packets, self.flow.generation, self.flow.status)
    }

    /// Sequence and acknowledgment numbers that a segment in this direction may turn on.
    pub fn landmarks(&self, direction: Direction) -> [u32; 6] {
        let own = self.flow.peers[direction as usize];
        let other = self.flow.peers[direction.opposite() as usize];
        [own.end, own.max_end, other.max_ack, other.end, self.flow.last_end, self.flow.last_ack]
    }
}

impl World {
    /// Without any flow.
    pub fn new(adopt_midstream: bool) -> Self {
        let mut tunnels = [Tunnel::default(); SITES.len() + 1];
        for (tunnel, (id, (customer, network, bits))) in tunnels[1..].iter_mut().zip((1..).zip(SITES)) {
            let mut lan = [Prefix::default(); PREFIXES_PER_SITE];
            lan[0] = Prefix::new(Ipv4 { octets: network }, bits);
            *tunnel = Tunnel {
                customer,
                up: u8::from(id != DOWN),
                prefix_count: 1,
                mss: MSS_BYTES,
                server: Ipv4 { octets: server(customer) },
                port: PORT,
                generation: 1,
                lan,
                ..Tunnel::default()
            };
        }
        Self { settings: settings(adopt_midstream), tunnels, flows: RefCell::default() }
    }

    /// Decides about a decapsulated packet.
    pub fn from_site(&self, frame: &[u8], identity: Identity, now_ns: u64) -> Decision {
        decide::from_site(frame, self, identity, now_ns)
    }

    /// Decides about a packet from the cloud LAN.
    pub fn from_server(&self, frame: &[u8], now_ns: u64) -> Decision {
        decide::from_server(frame, self, now_ns)
    }

    /// All flows, also those that are over, in the order in which they came.
    pub fn connections(&self, now_ns: u64) -> Vec<Connection> {
        let now = Ticks::from_ns(now_ns);
        let connection = |(key, flow): &(FlowKey, Flow)| Connection {
            key: Key { customer: key.customer, device: key.lan_address.octets, port: key.lan_port },
            tunnel: flow.tunnel,
            state: flow.state,
            scale: flow.scale,
            packets: flow.packets,
            left_seconds: flow.expires.since(now).as_ns() / 1_000_000_000,
            flow: *flow,
        };
        self.flows.borrow().iter().map(connection).collect()
    }
}

/// Of a gateway with one address on each side and one rule for management.
pub fn settings(adopt_midstream: bool) -> Settings {
    let mut timeouts = [Ticks::default(); STATE_SLOTS];
    for state in State::ALL {
        timeouts[*state as usize] = Ticks::from_seconds(state.default_timeout_seconds());
    }
    for slot in [RETRANSMISSION_SLOT, UNACKNOWLEDGED_SLOT] {
        timeouts[slot as usize] = Ticks::from_seconds(DOUBTFUL_TIMEOUT_SECONDS);
    }
    let mut settings = Settings {
        ready: 1,
        lan_ifindex: 1,
        internet_ifindex: 2,
        internet_address_count: 1,
        lan_address_count: 1,
        management_count: 1,
        adopt_midstream: u32::from(adopt_midstream),
        internet_addresses: [Ipv4::default(); OWN_ADDRESSES],
        lan_addresses: [Ipv4::default(); OWN_ADDRESSES],
        management: [ManagementRule::default(); MANAGEMENT_RULES],
        timeouts,
    };
    settings.internet_addresses[0] = Ipv4 { octets: INTERNET };
    settings.lan_addresses[0] = Ipv4 { octets: LAN };
    let from = Prefix::new(Ipv4 { octets: MANAGERS.0 }, MANAGERS.1);
    settings.management[0] = ManagementRule { from, port: 22, protocol: protocol::TCP, ..Default::default() };
    settings
}

const CUSTOMERS: [Customer; 2] = [
    Customer { id: 1, generation: 1, port: PORT, _reserved: 0 },
    Customer { id: 2, generation: 1, port: PORT, _reserved: 0 },
];

impl Tables for World {
    fn settings(&self) -> Option<&Settings> {
        Some(&self.settings)
    }

    fn tunnel(&self, number: u32) -> Option<&Tunnel> {
        self.tunnels.get(number as usize)
    }

    fn customer(&self, address: Ipv4) -> Option<&Customer> {
        CUSTOMERS.iter().find(|customer| server(customer.id) == address.octets)
    }

    fn inbound_spi(&self, number: u32) -> Option<u32> {
        (1..=SITES.len() as u32).find(|tunnel| spi(*tunnel) == number)
    }

    fn flow(&self, key: &FlowKey) -> Option<impl FlowCell> {
        let at = self.flows.borrow().iter().position(|(other, _)| other == key)?;
        Some(Cell { flows: &self.flows, at })
    }

    fn insert_flow(&self, key: &FlowKey, flow: &Flow) -> Result<(), Full> {
        let mut flows = self.flows.borrow_mut();
        assert!(flows.iter().all(|(other, _)| other != key), "a flow there is already");
        if flows.len() >= FLOW_LIMIT {
            return Err(Full);
        }
        flows.push((*key, *flow));
        Ok(())
    }
}

/// A flow by its place: flows are never removed.
struct Cell<'a> {
    flows: &'a RefCell<Vec<(FlowKey, Flow)>>,
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
