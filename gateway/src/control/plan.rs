//! Plans the actions that turn the observed state into the desired one. A plan is printable data, and empty if
//! the states agree.
use std::{collections::BTreeMap, fmt, net::IpAddr};

use gateway_common::{
    ids::{Mark, Reqid, TunnelId},
    layout::{Binding, Customer, OutboundSpi, Settings, Tunnel},
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

/// One change of the maps or charon.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Unloads a connection from charon.
    Unload(String),
    /// Terminates an IKE_SA in charon.
    Terminate {
        /// charon's unique id of the IKE_SA.
        unique_id: u32,
        /// The reason, for the log.
        reason: String,
    },
    /// Removes a customer's map entry.
    RemoveCustomer(IpAddr),
    /// Writes a reqid's binding; all zero removes it.
    SetBinding(Reqid, Binding),
    /// Writes a tunnel's map entry; all zero removes the tunnel.
    SetTunnel(TunnelId, Box<Tunnel>),
    /// Writes an inbound SPI's map entry; None removes it.
    SetInboundSpi(u32, Option<Mark>),
    /// Writes an outbound SPI's map entry; None removes it.
    SetOutboundSpi(OutboundSpi, Option<Mark>),
    /// Removes a peer's map entry and the budgets in it.
    RemovePeer(Ipv6),
    /// Adds a peer's map entry.
    AddPeer(Ipv6),
    /// Writes a customer's map entry.
    SetCustomer(IpAddr, Customer),
    /// Writes the settings.
    SetSettings(Box<Settings>),
    /// Loads a connection into charon.
    Load(Box<Connection>),
}

/// The state of charon as far as the daemon knows it.
#[derive(Clone, Default, Debug)]
pub struct Charon {
    /// Connections that the daemon loaded into this charon process.
    pub loaded: BTreeMap<String, Connection>,
    /// Names of all connections in charon.
    pub listed: Vec<String>,
    /// Unique ids of the IKE_SAs, with their connections' names.
    pub ike_sas: Vec<(u32, String)>,
    /// The state of the tunnels according to charon's SAs.
    pub live: Live,
    /// The MSS of each tunnel that has an SA.
    pub mss: BTreeMap<TunnelId, Mss>,
}

/// Returns the actions in a safe order: removals first, and the entries that packets need before the
/// connections that bring packets. Without charon, tunnels keep their state.
pub fn plan(desired: &Desired, observed: &Observed, charon: Option<&Charon>) -> Vec<Action> {
    // Enough for the maps at a first start.
    let mut actions = Vec::with_capacity(desired.tunnels.len() + desired.customers.len() + 1);
    if let Some(charon) = charon {
        plan_removals(desired, charon, &mut actions);
    }
    for (server, _) in observed.customers.iter().filter(|(server, _)| !desired.customers.contains_key(server))
    {
        actions.push(Action::RemoveCustomer(*server));
    }
    plan_bindings(desired, observed, charon, &mut actions);
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

/// Returns the actions on the maps for some customers only. `observed` holds the entries under the keys of
/// `desired`. Returns None if one of these entries belongs to another customer: it has to be removed first, and
/// only a plan of the whole policy does that safely.
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
        let reason = format!("stranger on tunnel {}: {}", stranger.tunnel, stranger.reason);
        actions.push(Action::Terminate { unique_id: stranger.unique_id, reason });
    }
    for (unique_id, name) in &charon.ike_sas {
        let stranger = charon.live.strangers.iter().any(|stranger| stranger.unique_id == *unique_id);
        let ours = parse_connection_name(name).is_some();
        if !stranger && ours && !is_site(name) {
            let reason = format!("the policy has no site {name}");
            actions.push(Action::Terminate { unique_id: *unique_id, reason });
        }
    }
}

/// Loads new and changed connections, then terminates stale SAs. When a connection changes, charon keeps
/// its SAs and rekeys them with their old traffic selectors; an SA that no longer overlaps the policy has
/// to be negotiated again.
fn plan_loads(desired: &Desired, charon: &Charon, actions: &mut Vec<Action>) {
    let connections = desired.tunnels.iter().map(|(id, tunnel)| desired.connection(*id, tunnel));
    let missing = connections.filter(|connection| charon.loaded.get(&connection.name) != Some(connection));
    actions.extend(missing.map(|connection| Action::Load(Box::new(connection))));
    for stale in &charon.live.stale {
        let reason = format!("tunnel {}: {}", stale.tunnel, stale.reason);
        actions.push(Action::Terminate { unique_id: stale.unique_id, reason });
    }
}

fn plan_tunnels(desired: &Desired, observed: &Observed, charon: Option<&Charon>, actions: &mut Vec<Action>) {
    let mut steps = Default::default();
    for (id, gone) in observed.tunnels.iter().filter(|(id, _)| !desired.tunnels.contains_key(id)) {
        plan_tunnel(*id, gone, Tunnel::default(), &mut steps);
    }
    let generations = generations(observed);
    for (id, tunnel) in &desired.tunnels {
        let now = observed.tunnels.get(id);
        let mut entry = tunnel.entry(*id);
        // A tunnel id that was reassigned to another customer starts down.
        let same = now.filter(|now| now.customer == entry.customer);
        let known = generations.get(&entry.customer).map_or(&[][..], |known| known);
        entry.generation = generation(service(&entry), known);
        match charon {
            Some(charon) => {
                entry.up = u8::from(charon.live.up.contains(id));
                if let Some(mss) = charon.mss.get(id) {
                    (entry.v4.mss, entry.v6.mss) = (mss.v4, mss.v6);
                }
            }
            None => {
                if let Some(same) = same.filter(|same| same.up == 1) {
                    entry.up = 1;
                    // Without charon the encapsulation is unknown: keep the MSS, up to the largest possible.
                    let largest = Encapsulation::BEST.mss(tunnel.mtus);
                    entry.v4.mss = same.v4.mss.min(largest.v4);
                    entry.v6.mss = same.v6.mss.min(largest.v6);
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

/// Plans the bindings: each tunnel's id is its reqid and its mark. Without charon they keep their SPIs.
fn plan_bindings(desired: &Desired, observed: &Observed, charon: Option<&Charon>, actions: &mut Vec<Action>) {
    let spis = charon.map(|charon| inbound_spis(&charon.live)).unwrap_or_default();
    for reqid in observed.bindings.keys() {
        if TunnelId::new(reqid.get()).is_none_or(|id| !desired.tunnels.contains_key(&id)) {
            actions.push(Action::SetBinding(*reqid, Binding::default()));
        }
    }
    for id in desired.tunnels.keys() {
        let Some(reqid) = Reqid::new(id.get()) else { continue };
        let now = observed.bindings.get(&reqid).copied().unwrap_or_default();
        let inbound_spis = match charon {
            Some(_) => spis.get(id).copied().unwrap_or_default(),
            None => now.inbound_spis,
        };
        let binding = Binding { site: id.get(), mark: id.get(), inbound_spis };
        if now != binding {
            actions.push(Action::SetBinding(reqid, binding));
        }
    }
}

/// Plans the steps that replace a tunnel's entry: take the tunnel down, rewrite it, bring it up. A program may
/// read the entry during a write, so fields that must be consistent with each other change only while the
/// tunnel is down. `up`, MSS and quota are read independently and change in a single step.
fn plan_tunnel(id: TunnelId, now: &Tunnel, entry: Tunnel, [down, change, up]: &mut [Vec<Action>; 3]) {
    let set = |tunnel| Action::SetTunnel(id, Box::new(tunnel));
    let mut patched = Tunnel { up: entry.up, quota: entry.quota, ..*now };
    (patched.v4.mss, patched.v6.mss) = (entry.v4.mss, entry.v6.mss);
    if patched == entry {
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

/// Returns up to two inbound SPIs for each tunnel: during a rekey a tunnel has two CHILD_SAs.
fn inbound_spis(live: &Live) -> BTreeMap<TunnelId, [u32; 2]> {
    let mut spis = BTreeMap::<TunnelId, [u32; 2]>::new();
    for (spi, tunnel) in &live.inbound {
        if let Some(free) = spis.entry(*tunnel).or_default().iter_mut().find(|slot| **slot == 0) {
            *free = *spi;
        }
    }
    spis
}

/// Adds missing and removes obsolete peers. Never rewrites an existing entry: that would refill its budgets.
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
            actions.push(Action::SetInboundSpi(*spi, Mark::new(tunnel.get())));
        }
    }
    for spi in observed.outbound.keys().filter(|spi| !live.outbound.contains_key(spi)) {
        actions.push(Action::SetOutboundSpi(*spi, None));
    }
    for (spi, tunnel) in &live.outbound {
        if observed.outbound.get(spi) != Some(&tunnel.get()) {
            actions.push(Action::SetOutboundSpi(*spi, Mark::new(tunnel.get())));
        }
    }
}

/// The service that a flow was opened for: server addresses and port.
type Service = (Ipv4, Ipv6, u16);

fn service(tunnel: &Tunnel) -> Service {
    (tunnel.v4.server, tunnel.v6.server, tunnel.port)
}

/// Returns the generations in the maps with their services, by customer number.
fn generations(observed: &Observed) -> BTreeMap<u32, Vec<(u16, Service)>> {
    let mut generations: BTreeMap<u32, Vec<(u16, Service)>> = BTreeMap::new();
    for tunnel in observed.tunnels.values() {
        let known = generations.entry(tunnel.customer).or_default();
        let generation = (tunnel.generation, service(tunnel));
        if !known.contains(&generation) {
            known.push(generation);
        }
    }
    generations
}

/// Returns the generation of a customer's service: the one in the maps if a tunnel has this service already, or
/// else an unused one. `known` holds the customer's generations in the maps.
///
/// `known` has several entries if a daemon died after changing only some of a customer's tunnels. A generation
/// then belongs to this service only if no other service has it too.
fn generation(wanted: Service, known: &[(u16, Service)]) -> u16 {
    let is_of_another = |generation: u16| known.iter().any(|(g, s)| *g == generation && *s != wanted);
    let mut existing = known.iter().filter(|(g, s)| *s == wanted && !is_of_another(*g)).map(|(g, _)| *g);
    if let Some(generation) = existing.next() {
        return generation;
    }
    let Some(newest) = known.iter().map(|(generation, _)| *generation).max() else {
        return first_generation(wanted);
    };
    let mut next = newest.wrapping_add(1);
    while known.iter().any(|(generation, _)| *generation == next) {
        next = next.wrapping_add(1);
    }
    next
}

/// Returns the first generation of a customer without tunnels in the maps. Flows of its earlier tunnels may
/// still exist, so the generation is a hash of the service (FNV-1a, folded to 16 bits): the same service gets
/// the same generation, and another service most likely a different one.
fn first_generation((v4, v6, port): Service) -> u16 {
    let bytes = v4.octets.into_iter().chain(v6.octets).chain(port.to_be_bytes());
    let hash = bytes.fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    (hash >> 16) as u16 ^ hash as u16
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unload(name) => write!(f, "charon: unload connection {name}"),
            Self::Terminate { unique_id, reason } => {
                write!(f, "charon: terminate IKE_SA {unique_id}: {reason}")
            }
            Self::Load(connection) => write!(f, "charon: load connection {}", connection.name),
            Self::RemoveCustomer(server) => write!(f, "map: remove the customer of server {server}"),
            Self::SetCustomer(server, customer) => {
                write!(f, "map: set customer {} for server {server}", customer.id)
            }
            Self::RemovePeer(peer) => write!(f, "map: remove peer {peer:?}"),
            Self::AddPeer(peer) => write!(f, "map: add peer {peer:?}"),
            Self::SetBinding(reqid, Binding { site: 0, .. }) => {
                write!(f, "map: remove the binding of reqid {reqid}")
            }
            Self::SetBinding(reqid, binding) => {
                write!(f, "map: bind reqid {reqid} with mark {} to site {}", binding.mark, binding.site)
            }
            Self::SetTunnel(id, tunnel) if tunnel.customer == 0 => write!(f, "map: remove tunnel {id}"),
            Self::SetTunnel(id, tunnel) => write!(
                f,
                "map: set tunnel {id} of customer {} {}, port {}, generation {}, MSS {} and {}",
                tunnel.customer,
                if tunnel.up == 1 { "up" } else { "down" },
                tunnel.port,
                tunnel.generation,
                tunnel.v4.mss,
                tunnel.v6.mss
            ),
            Self::SetInboundSpi(spi, Some(mark)) => {
                write!(f, "map: set inbound SPI {spi:08x} to mark {mark}")
            }
            Self::SetInboundSpi(spi, None) => write!(f, "map: remove inbound SPI {spi:08x}"),
            Self::SetOutboundSpi(spi, Some(mark)) => {
                write!(f, "map: set outbound SPI {:08x} of peer {:?} to mark {mark}", spi.spi, spi.peer)
            }
            Self::SetOutboundSpi(spi, None) => write!(f, "map: remove outbound SPI {:08x}", spi.spi),
            Self::SetSettings(_) => write!(f, "map: write settings"),
        }
    }
}
