//! The contents of the maps that follow from charon's SAs.
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use gateway_common::{
    ids::{Mark, Reqid, TunnelId},
    layout::{Binding, OutboundSpi},
    limits::MIN_PATH_MTU_BYTES,
    wire::Ipv6,
};
use ipnet::IpNet;

use crate::control::mss::{Encapsulation, Mss, Mtus};

/// The contents of the maps that follow from charon's SAs.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Live {
    /// Bindings by reqid.
    pub bindings: BTreeMap<Reqid, Binding>,
    /// Sites with a bound CHILD_SA.
    pub sites: BTreeMap<TunnelId, LiveSite>,
    /// Marks by inbound SPI.
    pub inbound: BTreeMap<u32, Mark>,
    /// Marks by outbound SPI.
    pub outbound: BTreeMap<OutboundSpi, Mark>,
    /// Outer addresses of sites with an IKE_SA, IPv4 mapped into IPv6.
    pub peers: BTreeSet<Ipv6>,
}

/// A site with a bound CHILD_SA.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct LiveSite {
    /// The negotiated parts of the site's LAN, each with the mark of the CHILD_SA that answers to it take. The first one
    /// that holds an address counts.
    pub prefixes: Vec<(IpNet, Mark)>,
    /// Outer address and encapsulation of each SA in use.
    pub paths: Vec<(IpAddr, Encapsulation)>,
    /// The newest CHILD_SA, for the status.
    pub shown: Shown,
}

/// A CHILD_SA as the status shows it.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Shown {
    /// The peer's outer address and port.
    pub peer: Option<SocketAddr>,
    /// The negotiated algorithms.
    pub cipher: String,
    /// True for ESP in UDP.
    pub encapsulated: bool,
}

impl LiveSite {
    /// Returns the smallest path MTU in bytes among those learnt to the site's peers.
    pub fn path_mtu_bytes(&self, learnt: &BTreeMap<IpAddr, u32>) -> Option<u32> {
        self.paths.iter().filter_map(|(peer, _)| learnt.get(peer).copied()).min()
    }

    /// Returns the MSS that fits every SA in use. `learnt` holds the path MTUs that the kernel has learnt, in bytes, by
    /// peer.
    pub fn mss(&self, mtus: Mtus, learnt: &BTreeMap<IpAddr, u32>) -> Mss {
        let of_path = |(peer, encapsulation): &(IpAddr, Encapsulation)| {
            // The programs drop messages that announce less; an older one may have lowered the path MTU.
            let learnt = learnt.get(peer).map_or(u32::MAX, |mtu| (*mtu).max(MIN_PATH_MTU_BYTES));
            encapsulation.mss(Mtus { path: learnt.min(mtus.path), ..mtus })
        };
        let smallest = self
            .paths
            .iter()
            .map(of_path)
            .reduce(|one, other| Mss { v4: one.v4.min(other.v4), v6: one.v6.min(other.v6) });
        smallest.unwrap_or_else(|| Encapsulation::WORST.mss(mtus))
    }
}

/// Keys of [`Live`] whose entries may have changed.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Touched {
    /// Reqids.
    pub reqids: BTreeSet<Reqid>,
    /// Sites.
    pub sites: BTreeSet<TunnelId>,
    /// Inbound SPIs.
    pub inbound: BTreeSet<u32>,
    /// Outbound SPIs.
    pub outbound: BTreeSet<OutboundSpi>,
    /// Outer addresses.
    pub peers: BTreeSet<Ipv6>,
}

impl Touched {
    /// Returns true if nothing has changed.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Live {
    /// Returns the entries under these keys only.
    pub fn part(&self, keys: &Touched) -> Self {
        fn entries<K: Ord + Clone, V: Clone>(all: &BTreeMap<K, V>, keys: &BTreeSet<K>) -> BTreeMap<K, V> {
            keys.iter().filter_map(|key| Some((key.clone(), all.get(key)?.clone()))).collect()
        }
        Self {
            bindings: entries(&self.bindings, &keys.reqids),
            sites: entries(&self.sites, &keys.sites),
            inbound: entries(&self.inbound, &keys.inbound),
            outbound: entries(&self.outbound, &keys.outbound),
            peers: keys.peers.iter().filter(|peer| self.peers.contains(peer)).copied().collect(),
        }
    }
}
