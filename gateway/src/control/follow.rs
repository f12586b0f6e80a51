//! Derives the tunnels' state from charon's list of SAs. Events are only hints; the list is authoritative.
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use gateway_common::{ids::TunnelId, layout::OutboundSpi, limits::MIN_PATH_MTU_BYTES, wire::Ipv6};
use ipnet::IpNet;

use crate::{
    control::{
        desired::{DesiredTunnel, Tunnels, by_names},
        mss::{Encapsulation, Mss, Mtus},
    },
    kernel::programs::PEERS_PER_TUNNEL,
    strongswan::{ChildSa, IkeSa, IkeState, TrafficSelector},
};

/// The state of the tunnels according to charon's SAs.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Live {
    /// Tunnels that are up: the site's identity is authenticated, and no other SA uses the tunnel's reqid.
    pub up: BTreeSet<TunnelId>,
    /// Tunnels by inbound SPI.
    pub inbound: BTreeMap<u32, TunnelId>,
    /// Tunnels by outbound SPI.
    pub outbound: BTreeMap<OutboundSpi, TunnelId>,
    /// Outer addresses of sites with an IKE_SA, IPv4 mapped into IPv6.
    pub peers: BTreeSet<Ipv6>,
    /// SAs that use a tunnel's reqid without belonging to the tunnel.
    pub strangers: Vec<Stranger>,
    /// SAs of a tunnel whose traffic selectors do not overlap the policy.
    pub stale: Vec<Stranger>,
}

impl Live {
    /// Returns true if one of these tunnels is no longer up although no stranger keeps it down: the list may be
    /// incomplete.
    pub fn lost_any(&self, were_up: impl IntoIterator<Item = TunnelId>) -> bool {
        let kept_down = |id: TunnelId| self.strangers.iter().any(|stranger| stranger.tunnel == id);
        were_up.into_iter().any(|id| !self.up.contains(&id) && !kept_down(id))
    }
}

/// An SA to terminate. A stranger uses a tunnel's reqid without belonging to the tunnel, and the tunnel counts
/// as down. A stale SA belongs to the tunnel, but its traffic selectors do not overlap the policy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stranger {
    /// The tunnel whose reqid the SA uses.
    pub tunnel: TunnelId,
    /// charon's unique id of the IKE_SA.
    pub unique_id: u32,
    /// The reason, for log and status.
    pub reason: String,
}

/// Compares charon's SAs with the desired tunnels.
pub fn follow(tunnels: &Tunnels, sas: &[IkeSa]) -> Live {
    let mut live = Live::default();
    let mut shared = Shared::default();
    live.peers = peers(tunnels, sas);
    // The identity of an unauthenticated IKE_SA is only a claim.
    for ike in sas.iter().filter(|ike| ike.state.is_authenticated()) {
        for child in &ike.children {
            let Some(id) = TunnelId::new(child.reqid) else { continue };
            let Some(tunnel) = tunnels.get(&id) else { continue };
            if child.spi_in.is_none() && !child.state.is_up() {
                continue;
            }
            match mismatch(id, tunnel, ike, child) {
                Some(reason) => {
                    live.strangers.push(Stranger { tunnel: id, unique_id: ike.unique_id, reason })
                }
                None if child.state.is_up() && !selectors_overlap(tunnel, child) => {
                    let reason = "the traffic selectors do not overlap the policy".to_owned();
                    live.stale.push(Stranger { tunnel: id, unique_id: ike.unique_id, reason });
                }
                None => {
                    if matches!(ike.state, IkeState::Established | IkeState::Rekeying) && child.state.is_up()
                    {
                        live.up.insert(id);
                    }
                    record_spis(&mut live, &mut shared, id, ike, child);
                }
            }
        }
    }
    for stranger in &live.strangers {
        live.up.remove(&stranger.tunnel);
    }
    // An SPI shared by two tunnels identifies neither: two peers behind one NAT may choose the same SPI.
    live.inbound.retain(|spi, _| !shared.inbound.contains(spi));
    live.outbound.retain(|spi, _| !shared.outbound.contains(spi));
    live
}

/// Returns true if an IKE_SA has the tunnel's connection name and the site's identity. The IKE_SA must be
/// authenticated, because before that the identity is only a claim.
fn belongs_to(tunnel: &DesiredTunnel, ike: &IkeSa) -> bool {
    ike.state.is_authenticated() && has_name_of(tunnel, &ike.name) && has_identity_of(tunnel, &ike.remote_id)
}

fn has_name_of(tunnel: &DesiredTunnel, connection: &str) -> bool {
    connection.split_once('.') == Some(tunnel.names())
}

/// Compares the identity case-insensitively, as strongSwan does.
fn has_identity_of(tunnel: &DesiredTunnel, identity: &str) -> bool {
    identity.eq_ignore_ascii_case(tunnel.site.identity.as_str())
}

/// Returns the sites' outer addresses: for each site at most `PEERS_PER_TUNNEL`, those of its newest IKE_SAs.
/// The limit keeps one site with a valid certificate from taking the map entries of others.
fn peers(tunnels: &Tunnels, sas: &[IkeSa]) -> BTreeSet<Ipv6> {
    let sites = by_names(tunnels);
    let mut peers: BTreeMap<&str, BTreeMap<u32, Ipv6>> = BTreeMap::new();
    for ike in sas.iter().filter(|ike| matches!(ike.state, IkeState::Established | IkeState::Rekeying)) {
        let site = ike.name.split_once('.').and_then(|names| sites.get(&names));
        if site.is_some_and(|tunnel| belongs_to(tunnel, ike)) {
            peers.entry(&ike.name).or_default().insert(ike.unique_id, ike.remote_host.into());
        }
    }
    peers.into_values().flat_map(|site| site.into_values().rev().take(PEERS_PER_TUNNEL as usize)).collect()
}

/// SPIs that several tunnels share.
#[derive(Default)]
struct Shared {
    inbound: BTreeSet<u32>,
    outbound: BTreeSet<OutboundSpi>,
}

/// Returns the reason why the SA does not belong to the tunnel, or None if it does.
fn mismatch(id: TunnelId, tunnel: &DesiredTunnel, ike: &IkeSa, child: &ChildSa) -> Option<String> {
    if !has_name_of(tunnel, &ike.name) {
        let expected = tunnel.connection();
        return Some(format!("the connection is {:?}, expected {expected:?}", ike.name));
    }
    if !has_identity_of(tunnel, &ike.remote_id) {
        return Some(format!(
            "the peer's identity is {:?}, expected \"{}\"",
            ike.remote_id, tunnel.site.identity
        ));
    }
    // charon may list rekeyed and deleted CHILD_SAs without marks; they no longer encrypt anything.
    if child.state.is_up() && (child.mark_in != id.get() || child.mark_out != id.get()) {
        let (mark_in, mark_out) = (child.mark_in, child.mark_out);
        return Some(format!(
            "the marks are {mark_in:#x} in and {mark_out:#x} out, expected {:#x}",
            id.get()
        ));
    }
    None
}

/// Returns true if the SA's traffic selectors overlap the policy. They may be narrower, if the site asked for
/// less, or wider, from before a change of policy: the maps decide which packets pass.
fn selectors_overlap(tunnel: &DesiredTunnel, child: &ChildSa) -> bool {
    let overlap = |selectors: &[TrafficSelector], wanted: &[IpNet]| {
        selectors.is_empty()
            || selectors.iter().any(|selector| match selector {
                TrafficSelector::Net(net) => wanted.iter().any(|w| w.contains(net) || net.contains(w)),
                // A selector with a protocol, a port or an address range.
                TrafficSelector::Other(_) => true,
            })
    };
    overlap(&child.local_ts, &tunnel.local().collect::<Vec<_>>())
        && overlap(&child.remote_ts, &tunnel.site.lan)
}

fn record_spis(live: &mut Live, shared: &mut Shared, id: TunnelId, ike: &IkeSa, child: &ChildSa) {
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

/// Returns the MSS of every tunnel that is up; the smallest if a tunnel has several SAs, as during a rekey.
/// `learnt` holds the path MTUs that the kernel has learnt, in bytes, by peer.
pub fn mss_of_sas(
    tunnels: &Tunnels,
    sas: &[IkeSa],
    learnt: &BTreeMap<IpAddr, u32>,
) -> BTreeMap<TunnelId, Mss> {
    let mut mss_by_tunnel = BTreeMap::new();
    for ike in sas {
        for child in ike.children.iter().filter(|child| child.state.is_up()) {
            let Some(id) = TunnelId::new(child.reqid) else { continue };
            let Some(tunnel) = tunnels.get(&id).filter(|tunnel| belongs_to(tunnel, ike)) else { continue };
            // The programs drop messages that announce less; an older one may have lowered the path MTU.
            let learnt = learnt.get(&ike.remote_host).map_or(u32::MAX, |mtu| (*mtu).max(MIN_PATH_MTU_BYTES));
            let path = learnt.min(tunnel.mtus.path);
            let mss = Encapsulation::of(ike.remote_host, child).mss(Mtus { path, ..tunnel.mtus });
            let smallest = mss_by_tunnel.entry(id).or_insert(mss);
            *smallest = (*smallest).min(mss);
        }
    }
    mss_by_tunnel
}
