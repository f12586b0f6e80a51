//! The pinned maps, with types.
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::IpAddr,
    os::fd::{AsFd as _, AsRawFd as _},
};

use anyhow::{Context, Result};
use aya::{
    Pod,
    maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, RingBuf},
};
use gateway_common::{
    ids::TunnelId,
    layout::{Counters, Customer, OutboundSpi, Settings, Tunnel, Usage},
    outer::PeerBudgets,
    reason::{REASON_SLOTS, Reason},
    tcp::{Flow, FlowKey},
    wheel::Expiry,
    wire::{Ipv4, Ipv6},
};

use crate::kernel::{
    bulk::Bulk,
    mapped::Mapped,
    pins::{self, Pins},
};

/// All maps of a gateway, opened from their pins, but for those that only programs use.
pub struct Maps {
    settings: Array<MapData, Settings>,
    tunnels: Mapped<Tunnel>,
    customers: HashMap<MapData, Ipv4, Customer>,
    customers6: HashMap<MapData, Ipv6, Customer>,
    inbound_spis: HashMap<MapData, u32, u32>,
    outbound_spis: HashMap<MapData, OutboundSpi, u32>,
    peers: HashMap<MapData, Ipv6, PeerBudgets>,
    flows: Flows<Ipv4>,
    flows6: Flows<Ipv6>,
    usage: Array<MapData, Usage>,
    expiry: Array<MapData, Expiry>,
    counters: PerCpuArray<MapData, Counters>,
    bulk: BulkMaps,
}

/// The maps with an entry for each customer or tunnel, once more, for many entries at a time.
struct BulkMaps {
    customers: Bulk<Ipv4, Customer>,
    customers6: Bulk<Ipv6, Customer>,
    inbound_spis: Bulk<u32, u32>,
    outbound_spis: Bulk<OutboundSpi, u32>,
    peers: Bulk<Ipv6, PeerBudgets>,
}

type Flows<A> = HashMap<MapData, FlowKey<A>, Flow>;

/// A family whose flows have a table of their own.
pub trait Tabled: Sized {
    #[doc(hidden)]
    const TABLE: &'static str;
    #[doc(hidden)]
    fn table(maps: &Maps) -> &Flows<Self>;
    #[doc(hidden)]
    fn table_mut(maps: &mut Maps) -> &mut Flows<Self>;
}

impl Tabled for Ipv4 {
    const TABLE: &'static str = "FLOWS";

    fn table(maps: &Maps) -> &Flows<Self> {
        &maps.flows
    }

    fn table_mut(maps: &mut Maps) -> &mut Flows<Self> {
        &mut maps.flows
    }
}

impl Tabled for Ipv6 {
    const TABLE: &'static str = "FLOWS6";

    fn table(maps: &Maps) -> &Flows<Self> {
        &maps.flows6
    }

    fn table_mut(maps: &mut Maps) -> &mut Flows<Self> {
        &mut maps.flows6
    }
}

/// What was counted for one customer on all CPUs.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Counted {
    /// Packets passed on, by direction number.
    pub passed: [u64; 2],
    /// Bytes of them, by direction number.
    pub passed_bytes: [u64; 2],
    /// ESP packets whose SPI was not known.
    pub unknown_spi: u64,
    /// Flows opened.
    pub opened: u64,
    /// Drop events not written.
    pub events_lost: u64,
    /// Packets dropped, without zeros.
    pub dropped: BTreeMap<Reason, u64>,
}

impl Maps {
    /// Opens the pins of a gateway whose daemon may be dead.
    pub fn open(pins: &Pins) -> Result<Self> {
        Ok(Self {
            settings: array(pins, "SETTINGS")?,
            tunnels: mapped(pins, "TUNNELS")?,
            customers: hash(pins, "CUSTOMERS")?,
            customers6: hash(pins, "CUSTOMERS6")?,
            inbound_spis: hash(pins, "INBOUND_SPIS")?,
            outbound_spis: hash(pins, "OUTBOUND_SPIS")?,
            peers: hash(pins, "PEERS")?,
            flows: hash(pins, Ipv4::TABLE)?,
            flows6: hash(pins, Ipv6::TABLE)?,
            usage: array(pins, "USAGE")?,
            expiry: array(pins, "EXPIRY")?,
            counters: PerCpuArray::try_from(open(pins, "COUNTERS")?).context("map COUNTERS")?,
            bulk: BulkMaps {
                customers: bulk(pins, "CUSTOMERS")?,
                customers6: bulk(pins, "CUSTOMERS6")?,
                inbound_spis: bulk(pins, "INBOUND_SPIS")?,
                outbound_spis: bulk(pins, "OUTBOUND_SPIS")?,
                peers: bulk(pins, "PEERS")?,
            },
        })
    }

    /// The gateway's settings; all zero before the first ones.
    pub fn settings(&self) -> Result<Settings> {
        self.settings.get(&0, 0).context("read SETTINGS")
    }

    /// Replaces the settings.
    pub fn set_settings(&mut self, settings: &Settings) -> Result<()> {
        self.settings.set(0, settings, 0).context("write SETTINGS")
    }

    /// The highest tunnel id there is room for.
    pub fn tunnel_limit(&self) -> u32 {
        self.tunnels.len().saturating_sub(1)
    }

    /// All tunnels there are.
    pub fn tunnels(&self) -> Result<BTreeMap<TunnelId, Tunnel>> {
        let ids = (1..self.tunnels.len()).filter_map(TunnelId::new);
        let all = ids.filter_map(|id| Some((id, self.tunnels.get(id.get())?)));
        Ok(all.filter(|(_, tunnel)| tunnel.customer != 0).collect())
    }

    /// One tunnel; all zero if there is none.
    pub fn tunnel(&self, id: TunnelId) -> Result<Tunnel> {
        self.tunnels.get(id.get()).with_context(|| format!("TUNNELS has no place for tunnel {id}"))
    }

    /// Writes one tunnel.
    pub fn set_tunnel(&mut self, id: TunnelId, tunnel: &Tunnel) -> Result<()> {
        self.tunnels.set(id.get(), tunnel).with_context(|| format!("TUNNELS has no place for tunnel {id}"))
    }

    /// Writes tunnels, in this order.
    pub fn set_tunnels(&mut self, tunnels: &[(TunnelId, &Tunnel)]) -> Result<()> {
        tunnels.iter().try_for_each(|(id, tunnel)| self.set_tunnel(*id, tunnel))
    }

    /// All customers by their servers' addresses.
    pub fn customers(&self) -> Result<BTreeMap<IpAddr, Customer>> {
        let v4 = self.bulk.customers.entries().context("read CUSTOMERS")?;
        let v6 = self.bulk.customers6.entries().context("read CUSTOMERS6")?;
        let v4 = v4.into_iter().map(|(server, customer)| (IpAddr::V4(server.into()), customer));
        Ok(v4.chain(v6.into_iter().map(|(server, customer)| (IpAddr::V6(server.into()), customer))).collect())
    }

    /// The customer with this server, if there is one.
    pub fn customer(&self, server: IpAddr) -> Result<Option<Customer>> {
        let customer = match server {
            IpAddr::V4(server) => self.customers.get(&server.into(), 0),
            IpAddr::V6(server) => self.customers6.get(&server.into(), 0),
        };
        match customer {
            Ok(customer) => Ok(Some(customer)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(error).with_context(|| format!("read {server} from the customers")),
        }
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
        .with_context(|| format!("write {server} to the customers"))
    }

    /// Removes one customer.
    pub fn remove_customer(&mut self, server: IpAddr) -> Result<()> {
        gone(match server {
            IpAddr::V4(server) => self.customers.remove(&server.into()),
            IpAddr::V6(server) => self.customers6.remove(&server.into()),
        })
        .with_context(|| format!("remove {server} from the customers"))
    }

    /// Outer addresses of peers, IPv4 mapped into IPv6.
    pub fn peers(&self) -> Result<BTreeSet<Ipv6>> {
        let entries = self.bulk.peers.entries().context("read PEERS")?;
        Ok(entries.into_iter().map(|(peer, _)| peer).collect())
    }

    /// Adds a peer with whole budgets. One that is there keeps what it has left of them.
    pub fn add_peer(&mut self, peer: Ipv6) -> Result<()> {
        const BPF_NOEXIST: u64 = 1;
        match self.peers.insert(&peer, &PeerBudgets::default(), BPF_NOEXIST) {
            Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::EEXIST) => {
                Ok(())
            }
            result => result,
        }
        .with_context(|| format!("add {peer:?} to PEERS"))
    }

    /// Removes a peer.
    pub fn remove_peer(&mut self, peer: Ipv6) -> Result<()> {
        gone(self.peers.remove(&peer)).with_context(|| format!("remove {peer:?} from PEERS"))
    }

    /// Inbound SPIs and the tunnels they belong to.
    pub fn inbound_spis(&self) -> Result<BTreeMap<u32, u32>> {
        Ok(self.bulk.inbound_spis.entries().context("read INBOUND_SPIS")?.into_iter().collect())
    }

    /// Outbound SPIs and the tunnels they belong to.
    pub fn outbound_spis(&self) -> Result<BTreeMap<OutboundSpi, u32>> {
        Ok(self.bulk.outbound_spis.entries().context("read OUTBOUND_SPIS")?.into_iter().collect())
    }

    /// Writes inbound SPIs.
    pub fn set_inbound_spis(&mut self, spis: &[(u32, TunnelId)]) -> Result<()> {
        let (keys, values): (Vec<_>, Vec<_>) = spis.iter().map(|(spi, id)| (*spi, id.get())).unzip();
        self.bulk.inbound_spis.update(&keys, &values).context("write INBOUND_SPIS")
    }

    /// Writes outbound SPIs.
    pub fn set_outbound_spis(&mut self, spis: &[(OutboundSpi, TunnelId)]) -> Result<()> {
        let (keys, values): (Vec<_>, Vec<_>) = spis.iter().map(|(spi, id)| (*spi, id.get())).unzip();
        self.bulk.outbound_spis.update(&keys, &values).context("write OUTBOUND_SPIS")
    }

    /// Writes or, for None, removes an inbound SPI.
    pub fn set_inbound_spi(&mut self, spi: u32, tunnel: Option<TunnelId>) -> Result<()> {
        match tunnel {
            Some(tunnel) => self.inbound_spis.insert(&spi, &tunnel.get(), 0),
            None => gone(self.inbound_spis.remove(&spi)),
        }
        .with_context(|| format!("write SPI {spi:08x} to INBOUND_SPIS"))
    }

    /// Writes or, for None, removes an outbound SPI.
    pub fn set_outbound_spi(&mut self, spi: OutboundSpi, tunnel: Option<TunnelId>) -> Result<()> {
        match tunnel {
            Some(tunnel) => self.outbound_spis.insert(&spi, &tunnel.get(), 0),
            None => gone(self.outbound_spis.remove(&spi)),
        }
        .with_context(|| format!("write SPI {:08x} to OUTBOUND_SPIS", spi.spi))
    }

    /// Runs through the flows of a family. The table changes meanwhile: one may be missed or come twice.
    pub fn flows<A: Tabled>(&self) -> impl Iterator<Item = Result<(FlowKey<A>, Flow)>> + '_
    where
        FlowKey<A>: Pod,
    {
        A::table(self).iter().map(|entry| entry.with_context(|| format!("read {}", A::TABLE)))
    }

    /// Removes one flow; for tests: its node stays in the timing wheel.
    pub fn remove_flow<A: Tabled>(&mut self, key: &FlowKey<A>) -> Result<()>
    where
        FlowKey<A>: Pod,
    {
        gone(A::table_mut(self).remove(key)).with_context(|| format!("remove a flow from {}", A::TABLE))
    }

    /// Writes one flow; for tests: the timing wheel does not know of it.
    pub fn set_flow<A: Tabled>(&mut self, key: &FlowKey<A>, flow: &Flow) -> Result<()>
    where
        FlowKey<A>: Pod,
    {
        A::table_mut(self).insert(key, flow, 0).with_context(|| format!("write a flow to {}", A::TABLE))
    }

    /// What a customer has taken of its quota.
    pub fn usage(&self, customer: u32) -> Result<Usage> {
        self.usage.get(&customer, 0).context("read USAGE")
    }

    /// Writes what a customer has taken; for tests.
    pub fn set_usage(&mut self, customer: u32, usage: &Usage) -> Result<()> {
        self.usage.set(customer, usage, 0).context("write USAGE")
    }

    /// How the removal of flows that have ended goes.
    pub fn expiry(&self) -> Result<Expiry> {
        self.expiry.get(&0, 0).context("read EXPIRY")
    }

    /// The highest customer id there is room for.
    pub fn customer_limit(&self) -> u32 {
        self.counters.len().saturating_sub(1)
    }

    /// What was counted for a customer; number 0 is for packets that are nobody's.
    pub fn counted(&self, customer: u32) -> Result<Counted> {
        let cpus = self.counters.get(&customer, 0).context("read COUNTERS")?;
        let mut sum = Counted::default();
        let mut dropped = [0u64; REASON_SLOTS];
        for cpu in cpus.iter() {
            for direction in [0, 1] {
                sum.passed[direction] += cpu.passed[direction];
                sum.passed_bytes[direction] += cpu.passed_bytes[direction];
            }
            sum.unknown_spi += cpu.unknown_spi;
            sum.opened += cpu.opened;
            sum.events_lost += cpu.events_lost;
            for (sum, cpu) in dropped.iter_mut().zip(cpu.dropped) {
                *sum += cpu;
            }
        }
        sum.dropped = Reason::ALL
            .iter()
            .map(|reason| (*reason, dropped[*reason as usize]))
            .filter(|(_, packets)| *packets != 0)
            .collect();
        Ok(sum)
    }
}

/// The ring of drop events.
pub fn events(pins: &Pins) -> Result<RingBuf<MapData>> {
    RingBuf::try_from(open(pins, "EVENTS")?).context("map EVENTS")
}

/// How many entries a pinned map has room for; None if there is no such pin.
pub fn pinned_size(pins: &Pins, name: &str) -> Option<u32> {
    let map = MapData::from_pin(pins.map(name)).ok()?;
    Some(map.info().ok()?.max_entries())
}

/// Bytes of kernel memory that all pinned maps take, as the kernel counts them.
pub fn memory_bytes(pins: &Pins) -> Result<u64> {
    let mut sum = 0;
    for name in pins::MAPS {
        let path = pins.map(name);
        let map = MapData::from_pin(&path).with_context(|| format!("open {}", path.display()))?;
        let path = format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd());
        let info = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        let bytes = info.lines().find_map(|line| line.strip_prefix("memlock:"));
        sum += bytes.and_then(|bytes| bytes.trim().parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(sum)
}

fn open(pins: &Pins, name: &str) -> Result<Map> {
    let path = pins.map(name);
    let data = MapData::from_pin(&path)
        .with_context(|| format!("open {} (is the gateway attached, and is this root?)", path.display()))?;
    Map::from_map_data(data).with_context(|| format!("map {name}"))
}

fn array<V: Pod>(pins: &Pins, name: &str) -> Result<Array<MapData, V>> {
    Array::try_from(open(pins, name)?).with_context(|| format!("map {name}"))
}

fn mapped<V: Pod + Default>(pins: &Pins, name: &str) -> Result<Mapped<V>> {
    let path = pins.map(name);
    let map = MapData::from_pin(&path).with_context(|| format!("open {}", path.display()))?;
    Mapped::new(&map).with_context(|| format!("map {name}"))
}

fn bulk<K: Pod + Default, V: Pod + Default>(pins: &Pins, name: &str) -> Result<Bulk<K, V>> {
    let path = pins.map(name);
    let map = MapData::from_pin(&path).with_context(|| format!("open {}", path.display()))?;
    Bulk::new(map).with_context(|| format!("map {name}"))
}

fn hash<K: Pod, V: Pod>(pins: &Pins, name: &str) -> Result<HashMap<MapData, K, V>> {
    HashMap::try_from(open(pins, name)?).with_context(|| format!("map {name}"))
}

/// What is not there need not be removed.
fn gone(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other,
    }
}
