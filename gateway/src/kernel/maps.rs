//! The pinned maps, with types.
use std::{collections::BTreeMap, net::Ipv4Addr};

use anyhow::{Context, Result};
use aya::{
    Pod,
    maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, RingBuf},
};
use gateway_common::{
    ids::TunnelId,
    layout::{Counters, Customer, Flow, FlowKey, OutboundSpi, Settings, Tunnel},
    reason::{REASON_SLOTS, Reason},
    wire::Ipv4,
};

use crate::kernel::pins::Pins;

/// All maps of a gateway, opened from their pins.
pub struct Maps {
    settings: Array<MapData, Settings>,
    tunnels: Array<MapData, Tunnel>,
    customers: HashMap<MapData, Ipv4, Customer>,
    inbound_spis: HashMap<MapData, u32, u32>,
    outbound_spis: HashMap<MapData, OutboundSpi, u32>,
    flows: HashMap<MapData, FlowKey, Flow>,
    counters: PerCpuArray<MapData, Counters>,
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
            tunnels: array(pins, "TUNNELS")?,
            customers: hash(pins, "CUSTOMERS")?,
            inbound_spis: hash(pins, "INBOUND_SPIS")?,
            outbound_spis: hash(pins, "OUTBOUND_SPIS")?,
            flows: hash(pins, "FLOWS")?,
            counters: PerCpuArray::try_from(open(pins, "COUNTERS")?).context("map COUNTERS")?,
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
        (1..self.tunnels.len())
            .filter_map(TunnelId::new)
            .map(|id| Ok((id, self.tunnels.get(&id.get(), 0)?)))
            .filter(|entry: &Result<_, MapError>| {
                entry.as_ref().map_or(true, |(_, tunnel)| tunnel.customer != 0)
            })
            .collect::<Result<_, _>>()
            .context("read TUNNELS")
    }

    /// Writes one tunnel. A program may be reading the entry while it changes, so anything but
    /// `up` changes while the tunnel is down.
    pub fn set_tunnel(&mut self, id: TunnelId, tunnel: &Tunnel) -> Result<()> {
        let context = || format!("write tunnel {id} to TUNNELS");
        let old = self.tunnels.get(&id.get(), 0).with_context(context)?;
        if (Tunnel { up: tunnel.up, ..old }) != *tunnel {
            self.tunnels.set(id.get(), &Tunnel { up: 0, ..old }, 0).with_context(context)?;
            self.tunnels.set(id.get(), &Tunnel { up: 0, ..*tunnel }, 0).with_context(context)?;
        }
        self.tunnels.set(id.get(), tunnel, 0).with_context(context)
    }

    /// All customers by their servers' addresses.
    pub fn customers(&self) -> Result<BTreeMap<Ipv4Addr, Customer>> {
        self.customers
            .iter()
            .map(|entry| entry.map(|(server, customer)| (server.into(), customer)))
            .collect::<Result<_, _>>()
            .context("read CUSTOMERS")
    }

    /// Writes one customer.
    pub fn set_customer(&mut self, server: Ipv4Addr, customer: &Customer) -> Result<()> {
        self.customers
            .insert(&server.into(), customer, 0)
            .with_context(|| format!("write {server} to CUSTOMERS"))
    }

    /// Removes one customer.
    pub fn remove_customer(&mut self, server: Ipv4Addr) -> Result<()> {
        gone(self.customers.remove(&server.into())).with_context(|| format!("remove {server} from CUSTOMERS"))
    }

    /// Inbound SPIs and the tunnels they belong to.
    pub fn inbound_spis(&self) -> Result<BTreeMap<u32, u32>> {
        self.inbound_spis.iter().collect::<Result<_, _>>().context("read INBOUND_SPIS")
    }

    /// Outbound SPIs and the tunnels they belong to.
    pub fn outbound_spis(&self) -> Result<BTreeMap<OutboundSpi, u32>> {
        self.outbound_spis.iter().collect::<Result<_, _>>().context("read OUTBOUND_SPIS")
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

    /// Runs through the flows. The table changes meanwhile: one may be missed or come twice.
    pub fn flows(&self) -> impl Iterator<Item = Result<(FlowKey, Flow)>> + '_ {
        self.flows.iter().map(|entry| entry.context("read FLOWS"))
    }

    /// Removes one flow.
    pub fn remove_flow(&mut self, key: &FlowKey) -> Result<()> {
        gone(self.flows.remove(key)).context("remove a flow from FLOWS")
    }

    /// Writes one flow; for tests.
    pub fn set_flow(&mut self, key: &FlowKey, flow: &Flow) -> Result<()> {
        self.flows.insert(key, flow, 0).context("write a flow to FLOWS")
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

fn open(pins: &Pins, name: &str) -> Result<Map> {
    let path = pins.map(name);
    let data = MapData::from_pin(&path)
        .with_context(|| format!("open {} (is the gateway attached, and is this root?)", path.display()))?;
    Map::from_map_data(data).with_context(|| format!("map {name}"))
}

fn array<V: Pod>(pins: &Pins, name: &str) -> Result<Array<MapData, V>> {
    Array::try_from(open(pins, name)?).with_context(|| format!("map {name}"))
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
