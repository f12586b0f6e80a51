//! Which tunnels are up, by charon's list of SAs. Events are hints; this list is the truth.
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use gateway_common::{ids::TunnelId, layout::OutboundSpi, wire::Ipv6};
use ipnet::IpNet;

use crate::{
    control::{
        desired::{DesiredTunnel, Tunnels, by_names},
        mss::{Encapsulation, Mss, Mtus},
    },
    kernel::programs::PEERS_PER_TUNNEL,
    strongswan::{ChildSa, IkeSa, IkeState, TrafficSelector},
};

/// What charon's SAs say about the tunnels.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Live {
    /// Tunnels that are up with the site's authenticated identity and nobody else on their reqid.
    pub up: BTreeSet<TunnelId>,
    /// Whose an inbound SPI is.
    pub inbound: BTreeMap<u32, TunnelId>,
    /// Whose an outbound SPI is.
    pub outbound: BTreeMap<OutboundSpi, TunnelId>,
    /// Outer addresses of sites with an IKE_SA, IPv4 mapped into IPv6.
    pub peers: BTreeSet<Ipv6>,
    /// SAs with a tunnel's reqid that are not the tunnel's.
    pub strangers: Vec<Stranger>,
    /// SAs of a tunnel whose selectors have nothing in common with the policy.
    pub stale: Vec<Stranger>,
}

impl Live {
    /// True if one of these tunnels is not up any more and no stranger is why: then the list may be wrong.
    pub fn lacks(&self, were_up: impl IntoIterator<Item = TunnelId>) -> bool {
        let kept_down = |id: TunnelId| self.strangers.iter().any(|stranger| stranger.tunnel == id);
        were_up.into_iter().any(|id| !self.up.contains(&id) && !kept_down(id))
    }
}

/// An SA with a tunnel's reqid that is not the tunnel's: the tunnel counts as down, and the
/// stranger is to be terminated.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stranger {
    /// The tunnel whose reqid it has.
    pub tunnel: TunnelId,
    /// charon's number of the IKE_SA.
    pub unique_id: u32,
    /// What is wrong, for people.
    pub what: String,
}

/// Compares the SAs with the tunnels there should be.
pub fn follow(tunnels: &Tunnels, sas: &[IkeSa]) -> Live {
    let mut live = Live::default();
    let mut shared = Shared::default();
    live.peers = peers(tunnels, sas);
    // Before it is authenticated, an IKE_SA is nobody's.
    for ike in sas.iter().filter(|ike| ike.state.is_authenticated()) {
        for child in &ike.children {
            let Some(id) = TunnelId::new(child.reqid) else { continue };
            let Some(tunnel) = tunnels.get(&id) else { continue };
            if child.spi_in.is_none() && !child.state.is_up() {
                continue;
            }
            match stranger(id, tunnel, ike, child) {
                Some(what) => live.strangers.push(Stranger { tunnel: id, unique_id: ike.unique_id, what }),
                None if child.state.is_up() && !serves(tunnel, child) => {
                    let what = "its traffic selectors are not the policy's".to_owned();
                    live.stale.push(Stranger { tunnel: id, unique_id: ike.unique_id, what });
                }
                None => {
                    if matches!(ike.state, IkeState::Established | IkeState::Rekeying) && child.state.is_up()
                    {
                        live.up.insert(id);
                    }
                    note_spis(&mut live, &mut shared, id, ike, child);
                }
            }
        }
    }
    for stranger in &live.strangers {
        live.up.remove(&stranger.tunnel);
    }
    // Two tunnels with one SPI (two peers behind one NAT may choose the same): it names neither.
    live.inbound.retain(|spi, _| !shared.inbound.contains(spi));
    live.outbound.retain(|spi, _| !shared.outbound.contains(spi));
    live
}

/// Whether an IKE_SA is of the tunnel's connection and site. Only of an authenticated one the identity
/// is more than a claim.
fn is_ours(tunnel: &DesiredTunnel, ike: &IkeSa) -> bool {
    ike.state.is_authenticated() && is_named(tunnel, &ike.name) && is_identified(tunnel, &ike.remote_id)
}

fn is_named(tunnel: &DesiredTunnel, connection: &str) -> bool {
    connection.split_once('.') == Some(tunnel.names())
}

/// Without case, as strongSwan compares.
fn is_identified(tunnel: &DesiredTunnel, identity: &str) -> bool {
    identity.eq_ignore_ascii_case(tunnel.site.identity.as_str())
}

/// The sites' outer addresses. Of each site only as many as there is room for, the newest: its own
/// certificate must not let it take others' places.
fn peers(tunnels: &Tunnels, sas: &[IkeSa]) -> BTreeSet<Ipv6> {
    let sites = by_names(tunnels);
    let mut peers: BTreeMap<&str, BTreeMap<u32, Ipv6>> = BTreeMap::new();
    for ike in sas.iter().filter(|ike| matches!(ike.state, IkeState::Established | IkeState::Rekeying)) {
        let site = ike.name.split_once('.').and_then(|names| sites.get(&names));
        if site.is_some_and(|tunnel| is_ours(tunnel, ike)) {
            peers.entry(&ike.name).or_default().insert(ike.unique_id, ike.remote_host.into());
        }
    }
    peers.into_values().flat_map(|site| site.into_values().rev().take(PEERS_PER_TUNNEL as usize)).collect()
}

/// SPIs that more than one tunnel has.
#[derive(Default)]
struct Shared {
    inbound: BTreeSet<u32>,
    outbound: BTreeSet<OutboundSpi>,
}

/// What keeps the SA from being the tunnel's.
fn stranger(id: TunnelId, tunnel: &DesiredTunnel, ike: &IkeSa, child: &ChildSa) -> Option<String> {
    if !is_named(tunnel, &ike.name) {
        let ours = tunnel.connection();
        return Some(format!("it belongs to the connection {:?} and not to {ours}", ike.name));
    }
    if !is_identified(tunnel, &ike.remote_id) {
        return Some(format!("its peer is {:?} and not {}", ike.remote_id, tunnel.site.identity));
    }
    // Rekeyed and deleted ones may be listed without marks; they encrypt nothing any more.
    if child.state.is_up() && (child.mark_in != id.get() || child.mark_out != id.get()) {
        return Some(format!("its marks are {:#x} in and {:#x} out", child.mark_in, child.mark_out));
    }
    None
}

/// Whether anything the policy allows fits the SA's selectors. It may select less, as the site asked,
/// or more, from before a change of policy: what passes is the maps' to say.
fn serves(tunnel: &DesiredTunnel, child: &ChildSa) -> bool {
    let fit = |selectors: &[TrafficSelector], wanted: &[IpNet]| {
        selectors.is_empty()
            || selectors.iter().any(|selector| match selector {
                TrafficSelector::Net(net) => wanted.iter().any(|w| w.contains(net) || net.contains(w)),
                // A protocol, a port or a range.
                TrafficSelector::Other(_) => true,
            })
    };
    fit(&child.local_ts, &tunnel.local().collect::<Vec<_>>()) && fit(&child.remote_ts, &tunnel.site.lan)
}

fn note_spis(live: &mut Live, shared: &mut Shared, id: TunnelId, ike: &IkeSa, child: &ChildSa) {
    if let Some(spi) = child.spi_in
        && live.inbound.insert(spi, id).is_some_and(|other| other != id)
    {
        shared.inbound.insert(spi);
    }
    if let Some(spi) = child.spi_out {
        let spi = OutboundSpi { peer: ike.remote_host.into(), spi };
        if live.outbound.insert(spi, id).is_some_and(|other| other != id) {
            shared.outbound.insert(spi);
        }
    }
}

/// Returns the MSS of every tunnel that is up, the smallest if a tunnel has several SAs, as during a rekey.
/// `learnt` holds the path MTUs that the kernel has learnt, in bytes by peer.
pub fn mss_of_sas(
    tunnels: &Tunnels,
    sas: &[IkeSa],
    learnt: &BTreeMap<IpAddr, u32>,
) -> BTreeMap<TunnelId, Mss> {
    let mut all = BTreeMap::new();
    for ike in sas {
        for child in ike.children.iter().filter(|child| child.state.is_up()) {
            let Some(id) = TunnelId::new(child.reqid) else { continue };
            let Some(tunnel) = tunnels.get(&id).filter(|tunnel| is_ours(tunnel, ike)) else { continue };
            let path = learnt.get(&ike.remote_host).copied().unwrap_or(u32::MAX).min(tunnel.mtus.path);
            let mss = Encapsulation::of(ike.remote_host, child).mss(Mtus { path, ..tunnel.mtus });
            let least = all.entry(id).or_insert(mss);
            *least = (*least).min(mss);
        }
    }
    all
}
