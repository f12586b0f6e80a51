//! The maps that follow from charon's SAs: bindings, SPIs and peers.
use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use aya::maps::MapError;
use gateway_common::{
    ids::{Mark, Reqid},
    layout::{Binding, OutboundSpi},
    outer::PeerBudgets,
    wire::Ipv6,
};

use super::{Maps, found, ignore_absent};

impl Maps {
    /// Returns the highest reqid that fits.
    pub fn reqid_limit(&self) -> u32 {
        self.bindings.len().saturating_sub(1)
    }

    /// Returns all bindings.
    pub fn bindings(&self) -> Result<BTreeMap<Reqid, Binding>> {
        let reqids = (1..self.bindings.len()).filter_map(Reqid::new);
        let all = reqids.filter_map(|reqid| Some((reqid, self.bindings.get(reqid.get())?)));
        Ok(all.filter(|(_, binding)| binding.site != 0).collect())
    }

    /// Returns one binding; all zero if there is none.
    pub fn binding(&self, reqid: Reqid) -> Result<Binding> {
        self.bindings.get(reqid.get()).with_context(|| format!("BINDINGS has no room for reqid {reqid}"))
    }

    /// Writes one binding: site and mark in one step, then the SPIs. All zero unbinds the reqid.
    pub fn set_binding(&mut self, reqid: Reqid, binding: &Binding) -> Result<()> {
        self.bindings
            .set(reqid.get(), binding)
            .with_context(|| format!("BINDINGS has no room for reqid {reqid}"))
    }

    /// Returns inbound SPIs and their marks.
    pub fn inbound_spis(&self) -> Result<BTreeMap<u32, u32>> {
        Ok(self.bulk.inbound_spis.entries().context("read INBOUND_SPIS")?.into_iter().collect())
    }

    /// Returns outbound SPIs and their marks.
    pub fn outbound_spis(&self) -> Result<BTreeMap<OutboundSpi, u32>> {
        Ok(self.bulk.outbound_spis.entries().context("read OUTBOUND_SPIS")?.into_iter().collect())
    }

    /// Returns the mark of an inbound SPI, if it is known.
    pub fn inbound_spi(&self, spi: u32) -> Result<Option<u32>> {
        found(self.inbound_spis.get(&spi, 0)).with_context(|| format!("read SPI {spi:08x} from INBOUND_SPIS"))
    }

    /// Returns the mark of an outbound SPI, if it is known.
    pub fn outbound_spi(&self, spi: OutboundSpi) -> Result<Option<u32>> {
        found(self.outbound_spis.get(&spi, 0))
            .with_context(|| format!("read SPI {:08x} from OUTBOUND_SPIS", spi.spi))
    }

    /// Returns true if this outer address is a peer's.
    pub fn has_peer(&self, peer: Ipv6) -> Result<bool> {
        Ok(found(self.peers.get(&peer, 0)).with_context(|| format!("read {peer:?} from PEERS"))?.is_some())
    }

    /// Writes the marks of inbound SPIs.
    pub fn set_inbound_spis(&mut self, spis: &[(u32, Mark)]) -> Result<()> {
        let (keys, marks): (Vec<_>, Vec<_>) = spis.iter().map(|(spi, mark)| (*spi, mark.get())).unzip();
        self.bulk.inbound_spis.update(&keys, &marks).context("write INBOUND_SPIS")
    }

    /// Writes the marks of outbound SPIs.
    pub fn set_outbound_spis(&mut self, spis: &[(OutboundSpi, Mark)]) -> Result<()> {
        let (keys, marks): (Vec<_>, Vec<_>) = spis.iter().map(|(spi, mark)| (*spi, mark.get())).unzip();
        self.bulk.outbound_spis.update(&keys, &marks).context("write OUTBOUND_SPIS")
    }

    /// Writes the mark of an inbound SPI, or removes the SPI if it is None.
    pub fn set_inbound_spi(&mut self, spi: u32, mark: Option<Mark>) -> Result<()> {
        match mark {
            Some(mark) => self.inbound_spis.insert(&spi, &mark.get(), 0),
            None => ignore_absent(self.inbound_spis.remove(&spi)),
        }
        .with_context(|| format!("write SPI {spi:08x} to INBOUND_SPIS"))
    }

    /// Writes the mark of an outbound SPI, or removes the SPI if it is None.
    pub fn set_outbound_spi(&mut self, spi: OutboundSpi, mark: Option<Mark>) -> Result<()> {
        match mark {
            Some(mark) => self.outbound_spis.insert(&spi, &mark.get(), 0),
            None => ignore_absent(self.outbound_spis.remove(&spi)),
        }
        .with_context(|| format!("write SPI {:08x} to OUTBOUND_SPIS", spi.spi))
    }

    /// Returns the outer addresses of peers, IPv4 mapped into IPv6.
    pub fn peers(&self) -> Result<BTreeSet<Ipv6>> {
        let entries = self.bulk.peers.entries().context("read PEERS")?;
        Ok(entries.into_iter().map(|(peer, _)| peer).collect())
    }

    /// Adds a peer with full budgets. An existing peer keeps what is left of its budgets.
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
        ignore_absent(self.peers.remove(&peer)).with_context(|| format!("remove {peer:?} from PEERS"))
    }
}
