//! The decision's tables in ordinary maps: three customers, two of them with the same LAN.
use std::{cell::RefCell, collections::HashMap};

use gateway_common::{
    decide::{FlowCell, Full, Tables},
    layout::{Customer, Flow, FlowKey, Prefix, Settings, Ticks, Tunnel},
    limits::{MANAGEMENT_RULES, OWN_ADDRESSES, PREFIXES_PER_SITE},
    tcp::{DOUBTFUL_TIMEOUT_SECONDS, RETRANSMISSION_SLOT, STATE_SLOTS, State, UNACKNOWLEDGED_SLOT},
    wire::Ipv4,
};

/// All tables.
#[derive(Clone)]
pub struct World {
    pub settings: Settings,
    /// By tunnel id; index 0 is no tunnel.
    pub tunnels: Vec<Tunnel>,
    pub customers: HashMap<[u8; 4], Customer>,
    pub inbound_spis: HashMap<u32, u32>,
    pub flows: RefCell<HashMap<FlowKey, Flow>>,
    /// How many flows there is room for.
    pub flow_limit: usize,
}

/// Customer by tunnel id, network and bits of each site's LAN.
pub const SITES: [(u32, [u8; 4], u8); 4] =
    [(1, [192, 168, 0, 0], 16), (1, [10, 20, 0, 0], 16), (2, [192, 168, 0, 0], 16), (3, [10, 30, 7, 0], 24)];

/// A customer's server.
pub const fn server(customer: u32) -> [u8; 4] {
    [10, 200, 0, 10 + customer as u8]
}

/// The SPI that a tunnel's peer sends with.
pub const fn spi(tunnel: u32) -> u32 {
    0xc0de_0000 + tunnel
}

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
            lan_ifindex: 1,
            internet_address_count: 0,
            lan_address_count: 0,
            management_count: 0,
            adopt_midstream: 0,
            internet_ifindex: 2,
            internet_addresses: [Ipv4::default(); OWN_ADDRESSES],
            lan_addresses: [Ipv4::default(); OWN_ADDRESSES],
            management: [Default::default(); MANAGEMENT_RULES],
            timeouts,
        };
        let tunnels = SITES.map(|(customer, network, bits)| {
            let mut lan = [Prefix::default(); PREFIXES_PER_SITE];
            lan[0] = Prefix::new(Ipv4 { octets: network }, bits);
            Tunnel {
                customer,
                up: 1,
                prefix_count: 1,
                mss: 1356,
                server: Ipv4 { octets: server(customer) },
                port: 80,
                _reserved: 0,
                generation: 1,
                lan,
            }
        });
        let customer = |id| (server(id), Customer { id, generation: 1, port: 80, _reserved: 0 });
        Self {
            settings,
            tunnels: [&[Tunnel::default()], &tunnels[..]].concat(),
            customers: (1..=3).map(customer).collect(),
            inbound_spis: (1..=4).map(|tunnel| (spi(tunnel), tunnel)).collect(),
            flows: RefCell::default(),
            flow_limit: usize::MAX,
        }
    }
}

impl Tables for World {
    fn settings(&self) -> Option<&Settings> {
        Some(&self.settings)
    }

    fn tunnel(&self, number: u32) -> Option<&Tunnel> {
        self.tunnels.get(number as usize)
    }

    fn customer(&self, server: Ipv4) -> Option<&Customer> {
        self.customers.get(&server.octets)
    }

    fn inbound_spi(&self, spi: u32) -> Option<u32> {
        self.inbound_spis.get(&spi).copied()
    }

    fn flow(&self, key: &FlowKey) -> Option<impl FlowCell> {
        self.flows.borrow().contains_key(key).then_some(Cell { flows: &self.flows, key: *key })
    }

    fn insert_flow(&self, key: &FlowKey, flow: &Flow) -> Result<(), Full> {
        let mut flows = self.flows.borrow_mut();
        // As BPF_NOEXIST does.
        if flows.len() >= self.flow_limit || flows.contains_key(key) {
            return Err(Full);
        }
        flows.insert(*key, *flow);
        Ok(())
    }
}

struct Cell<'a> {
    flows: &'a RefCell<HashMap<FlowKey, Flow>>,
    key: FlowKey,
}

impl FlowCell for Cell<'_> {
    fn tunnel(&self) -> u32 {
        self.flows.borrow()[&self.key].tunnel
    }

    fn locked<R>(&self, change: impl FnOnce(&mut Flow) -> R) -> R {
        let mut flows = self.flows.borrow_mut();
        change(flows.get_mut(&self.key).expect("flows are not removed meanwhile"))
    }
}
