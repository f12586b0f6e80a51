//! The contents of the pinned maps, with types.
mod live;

use std::{collections::BTreeMap, net::IpAddr, ops::ControlFlow};

use anyhow::{Context, Result};
use aya::{
    Pod,
    maps::{Array, HashMap, MapData, MapError, RingBuf},
};
use gateway_common::{
    ids::TunnelId,
    layout::{
        Binding, Customer, OutboundSpi, Settings, Tunnel, Usage,
        map_list::{self, Map},
    },
    outer::PeerBudgets,
    tcp::{Flow, FlowKey},
    wheel::Wheel,
    wire::{Ipv4, Ipv6},
};

use crate::kernel::{
    bulk::Bulk,
    counted::{Counted, CountedMaps},
    handle,
    mapped::Mapped,
    pins::Pins,
};

/// A gateway's maps, opened from their pins, except those that only programs use.
pub struct Maps {
    settings: Array<MapData, Settings>,
    bindings: Mapped<Binding>,
    tunnels: Mapped<Tunnel>,
    customers: HashMap<MapData, Ipv4, Customer>,
    customers6: HashMap<MapData, Ipv6, Customer>,
    inbound_spis: HashMap<MapData, u32, u32>,
    outbound_spis: HashMap<MapData, OutboundSpi, u32>,
    peers: HashMap<MapData, Ipv6, PeerBudgets>,
    flows: Flows<Ipv4>,
    flows6: Flows<Ipv6>,
    usage: Array<MapData, Usage>,
    shares: Array<MapData, Usage>,
    wheels: Array<MapData, Wheel>,
    counted: CountedMaps,
    bulk: BulkMaps,
}

/// Second handles of the maps with an entry for each customer or tunnel, for many entries at a time.
struct BulkMaps {
    customers: Bulk<Ipv4, Customer>,
    customers6: Bulk<Ipv6, Customer>,
    inbound_spis: Bulk<u32, u32>,
    outbound_spis: Bulk<OutboundSpi, u32>,
    peers: Bulk<Ipv6, PeerBudgets>,
}

type Flows<A> = HashMap<MapData, FlowKey<A>, Flow>;

/// An address family, and its table of flows.
pub trait FamilyFlowTable: Sized {
    #[doc(hidden)]
    const TABLE: Map<FlowKey<Self>, Flow>;
    #[doc(hidden)]
    fn table(maps: &Maps) -> &Flows<Self>;
    #[doc(hidden)]
    fn table_mut(maps: &mut Maps) -> &mut Flows<Self>;
}

impl FamilyFlowTable for Ipv4 {
    const TABLE: Map<FlowKey<Self>, Flow> = map_list::FLOWS;

    fn table(maps: &Maps) -> &Flows<Self> {
        &maps.flows
    }

    fn table_mut(maps: &mut Maps) -> &mut Flows<Self> {
        &mut maps.flows
    }
}

impl FamilyFlowTable for Ipv6 {
    const TABLE: Map<FlowKey<Self>, Flow> = map_list::FLOWS6;

    fn table(maps: &Maps) -> &Flows<Self> {
        &maps.flows6
    }

    fn table_mut(maps: &mut Maps) -> &mut Flows<Self> {
        &mut maps.flows6
    }
}

impl Maps {
    /// Opens the pins of a gateway, whose daemon need not be running.
    pub fn open(pins: &Pins) -> Result<Self> {
        Ok(Self {
            settings: handle::array(pins, &map_list::SETTINGS)?,
            bindings: handle::mapped(pins, &map_list::BINDINGS)?,
            tunnels: handle::mapped(pins, &map_list::TUNNELS)?,
            customers: handle::hash(pins, &map_list::CUSTOMERS)?,
            customers6: handle::hash(pins, &map_list::CUSTOMERS6)?,
            inbound_spis: handle::hash(pins, &map_list::INBOUND_SPIS)?,
            outbound_spis: handle::hash(pins, &map_list::OUTBOUND_SPIS)?,
            peers: handle::hash(pins, &map_list::PEERS)?,
            flows: handle::hash(pins, &map_list::FLOWS)?,
            flows6: handle::hash(pins, &map_list::FLOWS6)?,
            usage: handle::array(pins, &map_list::USAGE)?,
            shares: handle::array(pins, &map_list::SHARES)?,
            wheels: handle::array(pins, &map_list::WHEELS)?,
            counted: CountedMaps::open(pins)?,
            bulk: BulkMaps {
                customers: handle::bulk(pins, &map_list::CUSTOMERS)?,
                customers6: handle::bulk(pins, &map_list::CUSTOMERS6)?,
                inbound_spis: handle::bulk(pins, &map_list::INBOUND_SPIS)?,
                outbound_spis: handle::bulk(pins, &map_list::OUTBOUND_SPIS)?,
                peers: handle::bulk(pins, &map_list::PEERS)?,
            },
        })
    }

    /// Returns the gateway's settings; all zero before the first ones are written.
    pub fn settings(&self) -> Result<Settings> {
        self.settings.get(&0, 0).context("read SETTINGS")
    }

    /// Replaces the settings.
    pub fn set_settings(&mut self, settings: &Settings) -> Result<()> {
        self.settings.set(0, settings, 0).context("write SETTINGS")
    }

    /// Returns the highest tunnel id that fits.
    pub fn tunnel_limit(&self) -> u32 {
        self.tunnels.len().saturating_sub(1)
    }

    /// Returns all tunnels.
    pub fn tunnels(&self) -> Result<BTreeMap<TunnelId, Tunnel>> {
        let ids = (1..self.tunnels.len()).filter_map(TunnelId::new);
        let all = ids.filter_map(|id| Some((id, self.tunnels.get(id.get())?)));
        Ok(all.filter(|(_, tunnel)| tunnel.customer != 0).collect())
    }

    /// Returns one tunnel; all zero if it does not exist.
    pub fn tunnel(&self, id: TunnelId) -> Result<Tunnel> {
        self.tunnels.get(id.get()).with_context(|| format!("TUNNELS has no room for tunnel {id}"))
    }

    /// Writes one tunnel.
    pub fn set_tunnel(&mut self, id: TunnelId, tunnel: &Tunnel) -> Result<()> {
        self.tunnels.set(id.get(), tunnel).with_context(|| format!("TUNNELS has no room for tunnel {id}"))
    }

    /// Writes tunnels in this order.
    pub fn set_tunnels(&mut self, tunnels: &[(TunnelId, &Tunnel)]) -> Result<()> {
        tunnels.iter().try_for_each(|(id, tunnel)| self.set_tunnel(*id, tunnel))
    }

    /// Returns all customers by their servers' addresses.
    pub fn customers(&self) -> Result<BTreeMap<IpAddr, Customer>> {
        let v4 = self.bulk.customers.entries().context("read CUSTOMERS")?;
        let v6 = self.bulk.customers6.entries().context("read CUSTOMERS6")?;
        let v4 = v4.into_iter().map(|(server, customer)| (IpAddr::V4(server.into()), customer));
        Ok(v4.chain(v6.into_iter().map(|(server, customer)| (IpAddr::V6(server.into()), customer))).collect())
    }

    /// Returns the customer with this server, if one has it.
    pub fn customer(&self, server: IpAddr) -> Result<Option<Customer>> {
        let customer = match server {
            IpAddr::V4(server) => self.customers.get(&server.into(), 0),
            IpAddr::V6(server) => self.customers6.get(&server.into(), 0),
        };
        found(customer).with_context(|| format!("read the customer of server {server}"))
    }

    /// Writes customers.
    pub fn set_customers(&mut self, customers: &[(IpAddr, Customer)]) -> Result<()> {
        let (mut v4, mut v6) = ((Vec::new(), Vec::new()), (Vec::new(), Vec::new()));
        for (server, customer) in customers {
            match server {
                IpAddr::V4(server) => {
                    v4.0.push((*server).into());
                    v4.1.push(*customer);
                }
                IpAddr::V6(server) => {
                    v6.0.push((*server).into());
                    v6.1.push(*customer);
                }
            }
        }
        self.bulk.customers.update(&v4.0, &v4.1).context("write CUSTOMERS")?;
        self.bulk.customers6.update(&v6.0, &v6.1).context("write CUSTOMERS6")
    }

    /// Writes one customer.
    pub fn set_customer(&mut self, server: IpAddr, customer: &Customer) -> Result<()> {
        match server {
            IpAddr::V4(server) => self.customers.insert(&server.into(), customer, 0),
            IpAddr::V6(server) => self.customers6.insert(&server.into(), customer, 0),
        }
        .with_context(|| format!("write the customer of server {server}"))
    }

    /// Removes one customer.
    pub fn remove_customer(&mut self, server: IpAddr) -> Result<()> {
        ignore_absent(match server {
            IpAddr::V4(server) => self.customers.remove(&server.into()),
            IpAddr::V6(server) => self.customers6.remove(&server.into()),
        })
        .with_context(|| format!("remove the customer of server {server}"))
    }

    /// Iterates over the flows of a family. The table changes meanwhile: a flow may be missed or returned twice.
    pub fn flows<A: FamilyFlowTable>(&self) -> impl Iterator<Item = Result<(FlowKey<A>, Flow)>> + '_
    where
        FlowKey<A>: Pod,
    {
        A::table(self)
            .iter()
            .map(|entry| entry.with_context(|| format!("read {}", A::TABLE.description.name)))
    }

    /// Removes one flow. For tests: its node stays in its timing wheel.
    pub fn remove_flow<A: FamilyFlowTable>(&mut self, key: &FlowKey<A>) -> Result<()>
    where
        FlowKey<A>: Pod,
    {
        ignore_absent(A::table_mut(self).remove(key))
            .with_context(|| format!("remove a flow from {}", A::TABLE.description.name))
    }

    /// Writes one flow. For tests: it gets no node in a timing wheel.
    pub fn set_flow<A: FamilyFlowTable>(&mut self, key: &FlowKey<A>, flow: &Flow) -> Result<()>
    where
        FlowKey<A>: Pod,
    {
        A::table_mut(self)
            .insert(key, flow, 0)
            .with_context(|| format!("write a flow to {}", A::TABLE.description.name))
    }

    /// Returns what a customer has taken of its quota.
    pub fn usage(&self, customer: u32) -> Result<Usage> {
        self.usage.get(&customer, 0).context("read USAGE")
    }

    /// Writes what a customer has taken of its quota. For tests.
    pub fn set_usage(&mut self, customer: u32, usage: &Usage) -> Result<()> {
        self.usage.set(customer, usage, 0).context("write USAGE")
    }

    /// Returns what a site has taken of its share. It counts only if its `customer` is the site's.
    pub fn share(&self, site: u32) -> Result<Usage> {
        self.shares.get(&site, 0).context("read SHARES")
    }

    /// Writes what a site has taken of its share. For tests.
    pub fn set_share(&mut self, site: u32, usage: &Usage) -> Result<()> {
        self.shares.set(site, usage, 0).context("write SHARES")
    }

    /// Returns the timing wheels, by CPU.
    pub fn wheels(&self) -> Result<Vec<Wheel>> {
        (0..self.wheels.len()).map(|cpu| self.wheels.get(&cpu, 0).context("read WHEELS")).collect()
    }

    /// Returns the highest customer id that fits.
    pub fn customer_limit(&self) -> u32 {
        self.counted.customer_limit()
    }

    /// Returns a customer's counters, or with customer 0 those of packets that belong to none.
    pub fn counted(&self, customer: u32) -> Result<Counted> {
        self.counted.of(customer)
    }
}

/// Opens the ring buffer of drop events.
pub fn events(pins: &Pins) -> Result<RingBuf<MapData>> {
    handle::ring_buffer(pins, &map_list::EVENTS)
}

/// Calls `take` with each flow of a family until it breaks, and holds a part of them only. The table changes meanwhile: a
/// flow may be missed or come twice.
pub fn each_flow<A: FamilyFlowTable>(
    pins: &Pins,
    take: impl FnMut(&FlowKey<A>, &Flow) -> ControlFlow<()>,
) -> Result<()>
where
    FlowKey<A>: Pod + Default,
{
    let table = handle::bulk(pins, &A::TABLE)?;
    table.each(take).with_context(|| format!("read {}", A::TABLE.description.name))
}

/// Returns how many entries a pinned map has room for, or None if it is not pinned.
pub fn pinned_size<K, V>(pins: &Pins, map: &Map<K, V>) -> Option<u32> {
    let map = MapData::from_pin(pins.map(map.description.name)).ok()?;
    Some(map.info().ok()?.max_entries())
}

/// Returns the bytes of kernel memory that all pinned maps take, by the kernel's account.
pub fn memory_bytes(pins: &Pins) -> Result<u64> {
    map_list::pinned().map(|map| handle::memory_bytes(pins, map.name)).sum()
}

/// Returns None for an absent entry.
fn found<V>(entry: Result<V, MapError>) -> Result<Option<V>, MapError> {
    match entry {
        Ok(value) => Ok(Some(value)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Treats the removal of an absent entry as success.
fn ignore_absent(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other,
    }
}
