//! What to do so that the observed state becomes the desired one: data, printable, empty when there
//! is nothing to do.
use std::{collections::BTreeMap, fmt, net::IpAddr};

use gateway_common::{
    ids::TunnelId,
    layout::{Customer, OutboundSpi, Settings, Tunnel},
    wire::{Ipv4, Ipv6},
};

use crate::{
    control::{
        desired::{Desired, by_names},
        follow::Live,
        mss::{Encapsulation, Mss},
        observed::Observed,
    },
    policy::parse_connection_name,
    strongswan::Connection,
};

/// One change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// charon forgets a connection.
    Unload(String),
    /// charon ends an IKE_SA.
    Terminate {
        /// charon's number of it.
        unique_id: u32,
        /// Why, for people.
        why: String,
    },
    /// A customer's map entry goes.
    RemoveCustomer(IpAddr),
    /// A tunnel's map entry; all zero if it goes.
    SetTunnel(TunnelId, Box<Tunnel>),
    /// An inbound SPI's map entry; None if it goes.
    SetInboundSpi(u32, Option<TunnelId>),
    /// An outbound SPI's map entry; None if it goes.
    SetOutboundSpi(OutboundSpi, Option<TunnelId>),
    /// A peer's map entry goes, and its budgets with it.
    RemovePeer(Ipv6),
    /// A peer's map entry is added.
    AddPeer(Ipv6),
    /// A customer's map entry.
    SetCustomer(IpAddr, Customer),
    /// The settings' map entry.
    SetSettings(Box<Settings>),
    /// charon learns a connection.
    Load(Box<Connection>),
}

/// What charon knows, as far as we know.
#[derive(Clone, Default, Debug)]
pub struct Charon {
    /// Connections that we loaded into this charon.
    pub loaded: BTreeMap<String, Connection>,
    /// Names of all its connections.
    pub listed: Vec<String>,
    /// IKE_SAs by charon's number, with their connections' names.
    pub ike_sas: Vec<(u32, String)>,
    /// What its SAs say about the tunnels.
    pub live: Live,
    /// The largest TCP segments of tunnels that have an SA.
    pub mss: BTreeMap<TunnelId, Mss>,
}

/// The changes, in the order in which they are safe: what is taken away first, what packets need
/// before what brings packets. Without charon, tunnels stay as they are.
pub fn plan(desired: &Desired, observed: &Observed, charon: Option<&Charon>) -> Vec<Action> {
    // As many as at a first start.
    let mut actions = Vec::with_capacity(desired.tunnels.len() + desired.customers.len() + 1);
    if let Some(charon) = charon {
        plan_removals(desired, charon, &mut actions);
    }
    for (server, _) in observed.customers.iter().filter(|(server, _)| !desired.customers.contains_key(server))
    {
        actions.push(Action::RemoveCustomer(*server));
    }
    plan_tunnels(desired, observed, charon, &mut actions);
    if let Some(charon) = charon {
        plan_spis(&charon.live, observed, &mut actions);
        plan_peers(&charon.live, observed, &mut actions);
    }
    for (server, customer) in &desired.customers {
        if observed.customers.get(server) != Some(customer) {
            actions.push(Action::SetCustomer(*server, *customer));
        }
    }
    if observed.settings != desired.settings {
        actions.push(Action::SetSettings(Box::new(desired.settings)));
    }
    if let Some(charon) = charon {
        plan_loads(desired, charon, &mut actions);
    }
    actions
}

/// The changes to maps that some customers' policies ask for, as observed where their entries belong; None
/// if another customer's stand there, which have to go first: then only a plan of the whole is safe.
pub fn plan_some(desired: &Desired, observed: &Observed) -> Option<Vec<Action>> {
    let own_servers =
        observed.customers.iter().all(|(server, customer)| desired.customers.get(server) == Some(customer));
    let own_tunnels = observed.tunnels.iter().all(|(id, tunnel)| {
        desired.tunnels.get(id).is_some_and(|desired| desired.customer_id.get() == tunnel.customer)
    });
    (own_servers && own_tunnels).then(|| plan(desired, observed, None))
}

fn plan_removals(desired: &Desired, charon: &Charon, actions: &mut Vec<Action>) {
    let sites = by_names(&desired.tunnels);
    let is_site = |name: &str| name.split_once('.').is_some_and(|names| sites.contains_key(&names));
    for name in charon.listed.iter().filter(|name| !is_site(name)) {
        actions.push(Action::Unload(name.clone()));
    }
    for stranger in &charon.live.strangers {
        let why = format!("a stranger on tunnel {}: {}", stranger.tunnel, stranger.what);
        actions.push(Action::Terminate { unique_id: stranger.unique_id, why });
    }
    for (unique_id, name) in &charon.ike_sas {
        let stranger = charon.live.strangers.iter().any(|stranger| stranger.unique_id == *unique_id);
        let ours = parse_connection_name(name).is_some();
        if !stranger && ours && !is_site(name) {
            let why = format!("the policy has no site {name}");
            actions.push(Action::Terminate { unique_id: *unique_id, why });
        }
    }
}

/// charon keeps SAs as they were negotiated when their connection changes, and rekeys them so: one that
/// selects nothing of what the policy has now is made anew.
fn plan_loads(desired: &Desired, charon: &Charon, actions: &mut Vec<Action>) {
    let connections = desired.tunnels.iter().map(|(id, tunnel)| desired.connection(*id, tunnel));
    let missing = connections.filter(|connection| charon.loaded.get(&connection.name) != Some(connection));
    actions.extend(missing.map(|connection| Action::Load(Box::new(connection))));
    for stale in &charon.live.stale {
        let why = format!("tunnel {}: {}", stale.tunnel, stale.what);
        actions.push(Action::Terminate { unique_id: stale.unique_id, why });
    }
}

fn plan_tunnels(desired: &Desired, observed: &Observed, charon: Option<&Charon>, actions: &mut Vec<Action>) {
    let mut steps = Default::default();
    for (id, gone) in observed.tunnels.iter().filter(|(id, _)| !desired.tunnels.contains_key(id)) {
        plan_tunnel(*id, gone, Tunnel::default(), &mut steps);
    }
    let generations = generations(observed);
    let spis = charon.map(|charon| inbound_spis(&charon.live)).unwrap_or_default();
    for (id, tunnel) in &desired.tunnels {
        let now = observed.tunnels.get(id);
        let mut entry = tunnel.entry();
        // Of the same site only: an id that went to another one starts down.
        let same = now.filter(|now| now.customer == entry.customer);
        let there = generations.get(&entry.customer).map_or(&[][..], |there| there);
        entry.generation = generation(service(&entry), there);
        match charon {
            Some(charon) => {
                entry.up = u8::from(charon.live.up.contains(id));
                entry.inbound_spis = spis.get(id).copied().unwrap_or_default();
                if let Some(mss) = charon.mss.get(id) {
                    (entry.v4.mss, entry.v6.mss) = (mss.v4, mss.v6);
                }
            }
            None => {
                entry.inbound_spis = same.map_or([0; 2], |same| same.inbound_spis);
                if let Some(same) = same.filter(|same| same.up == 1) {
                    entry.up = 1;
                    // What its SA leaves is not known any more, but never more than this.
                    let most = Encapsulation::BEST.mss(tunnel.mtus);
                    entry.v4.mss = same.v4.mss.min(most.v4);
                    entry.v6.mss = same.v6.mss.min(most.v6);
                }
            }
        }
        let now = now.copied().unwrap_or_default();
        if now != entry {
            plan_tunnel(*id, &now, entry, &mut steps);
        }
    }
    steps.into_iter().for_each(|mut step| actions.append(&mut step));
}

/// A program may be reading an entry while it changes, so what must fit together changes while the tunnel is
/// down; `up`, MSS, quota and each SPI are read by themselves. So what changes goes down, then it changes, then it
/// comes up.
fn plan_tunnel(id: TunnelId, now: &Tunnel, entry: Tunnel, [down, change, up]: &mut [Vec<Action>; 3]) {
    let set = |tunnel| Action::SetTunnel(id, Box::new(tunnel));
    let mut similar = Tunnel { up: entry.up, quota: entry.quota, inbound_spis: entry.inbound_spis, ..*now };
    (similar.v4.mss, similar.v6.mss) = (entry.v4.mss, entry.v6.mss);
    if similar == entry {
        change.push(set(entry));
        return;
    }
    if now.up != 0 {
        down.push(set(Tunnel { up: 0, ..*now }));
    }
    change.push(set(Tunnel { up: 0, ..entry }));
    if entry.up != 0 {
        up.push(set(entry));
    }
}

/// Two SPIs of each tunnel, of as many SAs as there are during a rekeying.
fn inbound_spis(live: &Live) -> BTreeMap<TunnelId, [u32; 2]> {
    let mut spis = BTreeMap::<TunnelId, [u32; 2]>::new();
    for (spi, tunnel) in &live.inbound {
        if let Some(free) = spis.entry(*tunnel).or_default().iter_mut().find(|slot| **slot == 0) {
            *free = *spi;
        }
    }
    spis
}

/// Budgets that a peer has used up stay so: what is there is not written again.
fn plan_peers(live: &Live, observed: &Observed, actions: &mut Vec<Action>) {
    actions.extend(observed.peers.difference(&live.peers).copied().map(Action::RemovePeer));
    actions.extend(live.peers.difference(&observed.peers).copied().map(Action::AddPeer));
}

fn plan_spis(live: &Live, observed: &Observed, actions: &mut Vec<Action>) {
    for spi in observed.inbound.keys().filter(|spi| !live.inbound.contains_key(spi)) {
        actions.push(Action::SetInboundSpi(*spi, None));
    }
    for (spi, tunnel) in &live.inbound {
        if observed.inbound.get(spi) != Some(&tunnel.get()) {
            actions.push(Action::SetInboundSpi(*spi, Some(*tunnel)));
        }
    }
    for spi in observed.outbound.keys().filter(|spi| !live.outbound.contains_key(spi)) {
        actions.push(Action::SetOutboundSpi(*spi, None));
    }
    for (spi, tunnel) in &live.outbound {
        if observed.outbound.get(spi) != Some(&tunnel.get()) {
            actions.push(Action::SetOutboundSpi(*spi, Some(*tunnel)));
        }
    }
}

/// What a flow was opened for.
type Service = (Ipv4, Ipv6, u16);

fn service(tunnel: &Tunnel) -> Service {
    (tunnel.v4.server, tunnel.v6.server, tunnel.port)
}

/// The generations in the maps, by customer number, and which service each is of.
fn generations(observed: &Observed) -> BTreeMap<u32, Vec<(u16, Service)>> {
    let mut there: BTreeMap<u32, Vec<(u16, Service)>> = BTreeMap::new();
    for tunnel in observed.tunnels.values() {
        let (known, one) = (there.entry(tunnel.customer).or_default(), (tunnel.generation, service(tunnel)));
        if !known.contains(&one) {
            known.push(one);
        }
    }
    there
}

/// The generation of a customer's service: that of its tunnels in the maps which have this very service, another
/// one if none has.
///
/// `there` has several entries if somebody changed only some of a customer's tunnels before dying: then
/// a generation counts as this service's if it is no other's as well.
fn generation(wanted: Service, there: &[(u16, Service)]) -> u16 {
    let of_another = |generation: u16| there.iter().any(|(g, s)| *g == generation && *s != wanted);
    let mut ours = there.iter().filter(|(g, s)| *s == wanted && !of_another(*g)).map(|(g, _)| *g);
    if let Some(generation) = ours.next() {
        return generation;
    }
    let Some(newest) = there.iter().map(|(generation, _)| *generation).max() else {
        return first_generation(wanted);
    };
    let mut next = newest.wrapping_add(1);
    while there.iter().any(|(generation, _)| *generation == next) {
        next = next.wrapping_add(1);
    }
    next
}

/// Where a customer begins that has no tunnel in the maps. It may have had some before, and flows of
/// those may be left: so it is the same number for the same service, and most likely another for another
/// one. FNV-1a, folded.
fn first_generation((v4, v6, port): Service) -> u16 {
    let bytes = v4.octets.into_iter().chain(v6.octets).chain(port.to_be_bytes());
    let hash = bytes.fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    (hash >> 16) as u16 ^ hash as u16
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unload(name) => write!(f, "charon: unload connection {name}"),
            Self::Terminate { unique_id, why } => write!(f, "charon: terminate IKE_SA {unique_id}: {why}"),
            Self::Load(connection) => write!(f, "charon: load connection {}", connection.name),
            Self::RemoveCustomer(server) => write!(f, "map: remove the customer of server {server}"),
            Self::SetCustomer(server, customer) => {
                write!(f, "map: customer {} with server {server}", customer.id)
            }
            Self::RemovePeer(peer) => write!(f, "map: forget peer {peer:?}"),
            Self::AddPeer(peer) => write!(f, "map: peer {peer:?}"),
            Self::SetTunnel(id, tunnel) if tunnel.customer == 0 => write!(f, "map: remove tunnel {id}"),
            Self::SetTunnel(id, tunnel) => write!(
                f,
                "map: tunnel {id} of customer {} {}, port {}, generation {}, MSS {} and {}",
                tunnel.customer,
                if tunnel.up == 1 { "up" } else { "down" },
                tunnel.port,
                tunnel.generation,
                tunnel.v4.mss,
                tunnel.v6.mss
            ),
            Self::SetInboundSpi(spi, Some(id)) => write!(f, "map: inbound SPI {spi:08x} is tunnel {id}"),
            Self::SetInboundSpi(spi, None) => write!(f, "map: forget inbound SPI {spi:08x}"),
            Self::SetOutboundSpi(spi, Some(id)) => {
                write!(f, "map: outbound SPI {:08x} to {:?} is tunnel {id}", spi.spi, spi.peer)
            }
            Self::SetOutboundSpi(spi, None) => write!(f, "map: forget outbound SPI {:08x}", spi.spi),
            Self::SetSettings(_) => write!(f, "map: settings"),
        }
    }
}
