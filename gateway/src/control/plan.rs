//! Plans the actions that turn the observed maps into the desired ones. A plan is printable data, and empty if
//! the states agree.
use std::{collections::BTreeMap, fmt, net::IpAddr};

use gateway_common::{
    ids::{Mark, Reqid, TunnelId},
    layout::{Binding, Customer, OutboundSpi, Settings, Tunnel},
    wire::{Ipv4, Ipv6},
};

use crate::control::{
    desired::{Desired, DesiredTunnel},
    live::{Live, Touched},
    observed::Observed,
};

/// One change of the maps.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Removes a customer's map entry.
    RemoveCustomer(IpAddr),
    /// Writes a site's map entry; all zero removes the site.
    SetTunnel(TunnelId, Box<Tunnel>),
    /// Writes a reqid's binding; all zero unbinds it.
    SetBinding(Reqid, Binding),
    /// Writes the mark of an inbound SPI; None removes the SPI.
    SetInboundSpi(u32, Option<Mark>),
    /// Writes the mark of an outbound SPI; None removes the SPI.
    SetOutboundSpi(OutboundSpi, Option<Mark>),
    /// Removes a peer's map entry and the budgets in it.
    RemovePeer(Ipv6),
    /// Adds a peer's map entry.
    AddPeer(Ipv6),
    /// Writes a customer's map entry.
    SetCustomer(IpAddr, Customer),
    /// Writes the settings.
    SetSettings(Box<Settings>),
}

/// The knowledge of charon's SAs.
#[derive(Clone, Copy, Debug)]
pub struct Followed<'a> {
    /// The contents of the maps that follow from the SAs.
    pub live: &'a Live,
    /// The path MTUs that the kernel has learnt, in bytes, by peer.
    pub learnt: &'a BTreeMap<IpAddr, u32>,
}

/// Returns the actions in a safe order: removals first, and a binding after the entries that its packets need. Before
/// anything is known of charon's SAs, bindings in the maps stay as far as the policy still has their sites.
pub fn plan(desired: &Desired, observed: &Observed, followed: Option<Followed>) -> Vec<Action> {
    // Enough for the maps at a first start.
    let mut actions = Vec::with_capacity(desired.tunnels.len() + desired.customers.len() + 1);
    for (server, _) in observed.customers.iter().filter(|(server, _)| !desired.customers.contains_key(server))
    {
        actions.push(Action::RemoveCustomer(*server));
    }
    let bindings = bindings(desired, observed, followed);
    plan_unbinding(&bindings, observed, &mut actions);
    plan_tunnels(desired, observed, followed, &mut actions);
    if let Some(Followed { live, .. }) = followed {
        plan_spis(live, observed, &mut actions);
        plan_peers(live, observed, &mut actions);
    }
    plan_binding(&bindings, observed, &mut actions);
    for (server, customer) in &desired.customers {
        if observed.customers.get(server) != Some(customer) {
            actions.push(Action::SetCustomer(*server, *customer));
        }
    }
    if observed.settings != desired.settings {
        actions.push(Action::SetSettings(Box::new(desired.settings)));
    }
    actions
}

/// Returns the actions on the maps for some customers only. `observed` holds the entries under the keys of
/// `desired`. Returns None if one of these entries belongs to another customer: it has to be removed first, and
/// only a plan of the whole policy does that safely.
pub fn plan_some(desired: &Desired, observed: &Observed, followed: Option<Followed>) -> Option<Vec<Action>> {
    let own_servers =
        observed.customers.iter().all(|(server, customer)| desired.customers.get(server) == Some(customer));
    let own_tunnels = observed.tunnels.iter().all(|(id, tunnel)| {
        desired.tunnels.get(id).is_some_and(|desired| desired.customer_id.get() == tunnel.customer)
    });
    // Bindings, SPIs and peers depend on charon's SAs and not on these customers.
    let keys = Touched { sites: desired.tunnels.keys().copied().collect(), ..Touched::default() };
    let sites = followed.map(|followed| followed.live.part(&keys));
    let followed = followed.zip(sites.as_ref()).map(|(followed, live)| Followed { live, ..followed });
    (own_servers && own_tunnels).then(|| plan(desired, observed, followed))
}

/// Returns the actions that follow from events: on the entries under these keys only, which `observed` holds. `site`
/// derives a site's desired state. A site whose entry is not that of the policy is left to the next whole plan.
pub fn plan_live<'p>(
    keys: &Touched,
    observed: &Observed,
    followed: Followed,
    site: impl Fn(TunnelId) -> Option<DesiredTunnel<'p>>,
) -> Vec<Action> {
    let part = followed.live.part(keys);
    let mut actions = Vec::new();
    plan_unbinding(&part.bindings, observed, &mut actions);
    let mut steps = Default::default();
    for (id, now) in &observed.tunnels {
        let Some(tunnel) = site(*id) else { continue };
        let down = tunnel.entry();
        if (down.customer, service(&down)) != (now.customer, service(now)) {
            continue;
        }
        let entry = part.sites.get(id).map_or(down, |live| tunnel.entry_with(live, followed.learnt));
        let entry = Tunnel { generation: now.generation, ..entry };
        if *now != entry {
            plan_tunnel(*id, now, entry, &mut steps);
        }
    }
    steps.into_iter().for_each(|mut step| actions.append(&mut step));
    plan_spis(&part, observed, &mut actions);
    plan_peers(&part, observed, &mut actions);
    plan_binding(&part.bindings, observed, &mut actions);
    actions
}

/// Returns the bindings that the maps should hold.
fn bindings(desired: &Desired, observed: &Observed, followed: Option<Followed>) -> BTreeMap<Reqid, Binding> {
    let is_site =
        |binding: &Binding| TunnelId::new(binding.site).filter(|id| desired.tunnels.contains_key(id));
    let is_known = |binding: &Binding| match followed {
        Some(_) => is_site(binding).is_some(),
        // A site's number may have gone to another customer since.
        None => is_site(binding).is_some_and(|id| {
            let owner = desired.tunnels.get(&id).map(|tunnel| tunnel.customer_id.get());
            observed.tunnels.get(&id).map(|tunnel| tunnel.customer) == owner
        }),
    };
    let known = followed.map_or(&observed.bindings, |followed| &followed.live.bindings);
    known.iter().filter(|(_, binding)| is_known(binding)).map(|(reqid, binding)| (*reqid, *binding)).collect()
}

fn plan_unbinding(bindings: &BTreeMap<Reqid, Binding>, observed: &Observed, actions: &mut Vec<Action>) {
    let gone = observed.bindings.keys().filter(|reqid| !bindings.contains_key(reqid));
    actions.extend(gone.map(|reqid| Action::SetBinding(*reqid, Binding::default())));
}

fn plan_binding(bindings: &BTreeMap<Reqid, Binding>, observed: &Observed, actions: &mut Vec<Action>) {
    let changed = bindings.iter().filter(|(reqid, binding)| observed.bindings.get(reqid) != Some(binding));
    actions.extend(changed.map(|(reqid, binding)| Action::SetBinding(*reqid, *binding)));
}

fn plan_tunnels(
    desired: &Desired,
    observed: &Observed,
    followed: Option<Followed>,
    actions: &mut Vec<Action>,
) {
    let mut steps = Default::default();
    for (id, gone) in observed.tunnels.iter().filter(|(id, _)| !desired.tunnels.contains_key(id)) {
        plan_tunnel(*id, gone, Tunnel::default(), &mut steps);
    }
    let generations = generations(observed);
    for (id, tunnel) in &desired.tunnels {
        let now = observed.tunnels.get(id).copied().unwrap_or_default();
        let mut entry = match followed {
            Some(Followed { live, learnt }) => {
                live.sites.get(id).map_or_else(|| tunnel.entry(), |live| tunnel.entry_with(live, learnt))
            }
            None => tunnel.entry_after(&now),
        };
        let known = generations.get(&entry.customer).map_or(&[][..], |known| known);
        entry.generation = generation(service(&entry), known);
        if now != entry {
            plan_tunnel(*id, &now, entry, &mut steps);
        }
    }
    steps.into_iter().for_each(|mut step| actions.append(&mut step));
}

/// Plans the steps that replace a site's entry: take the site down, rewrite it, bring it up. A program may
/// read the entry during a write, so fields that must be consistent with each other change only while the
/// site is down. `up`, MSS, quota, share and each mark are read independently and change in a single step.
fn plan_tunnel(id: TunnelId, now: &Tunnel, entry: Tunnel, [down, change, up]: &mut [Vec<Action>; 3]) {
    let set = |tunnel| Action::SetTunnel(id, Box::new(tunnel));
    let mut patched = Tunnel { up: entry.up, quota: entry.quota, share: entry.share, ..*now };
    (patched.v4.mss, patched.v6.mss) = (entry.v4.mss, entry.v6.mss);
    (patched.v4.marks, patched.v6.marks) = (entry.v4.marks, entry.v6.marks);
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

/// Adds missing and removes obsolete peers. Never rewrites an existing entry: that would refill its budgets.
fn plan_peers(live: &Live, observed: &Observed, actions: &mut Vec<Action>) {
    actions.extend(observed.peers.difference(&live.peers).copied().map(Action::RemovePeer));
    actions.extend(live.peers.difference(&observed.peers).copied().map(Action::AddPeer));
}

fn plan_spis(live: &Live, observed: &Observed, actions: &mut Vec<Action>) {
    for spi in observed.inbound.keys().filter(|spi| !live.inbound.contains_key(spi)) {
        actions.push(Action::SetInboundSpi(*spi, None));
    }
    let is_new = |(spi, mark): &(&u32, &Mark)| observed.inbound.get(spi) != Some(&mark.get());
    for (spi, mark) in live.inbound.iter().filter(is_new) {
        actions.push(Action::SetInboundSpi(*spi, Some(*mark)));
    }
    for spi in observed.outbound.keys().filter(|spi| !live.outbound.contains_key(spi)) {
        actions.push(Action::SetOutboundSpi(*spi, None));
    }
    let is_new = |(spi, mark): &(&OutboundSpi, &Mark)| observed.outbound.get(spi) != Some(&mark.get());
    for (spi, mark) in live.outbound.iter().filter(is_new) {
        actions.push(Action::SetOutboundSpi(*spi, Some(*mark)));
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
            Self::RemoveCustomer(server) => write!(f, "map: remove the customer of server {server}"),
            Self::SetCustomer(server, customer) => {
                write!(f, "map: set customer {} for server {server}", customer.id)
            }
            Self::RemovePeer(peer) => write!(f, "map: remove peer {peer:?}"),
            Self::AddPeer(peer) => write!(f, "map: add peer {peer:?}"),
            Self::SetTunnel(id, tunnel) if tunnel.customer == 0 => write!(f, "map: remove site {id}"),
            Self::SetTunnel(id, tunnel) => write!(
                f,
                "map: set site {id} of customer {} {}, port {}, generation {}, MSS {} and {}",
                tunnel.customer,
                if tunnel.up == 1 { "up" } else { "down" },
                tunnel.port,
                tunnel.generation,
                tunnel.v4.mss,
                tunnel.v6.mss
            ),
            Self::SetBinding(reqid, binding) if *binding == Binding::default() => {
                write!(f, "map: unbind reqid {reqid}")
            }
            Self::SetBinding(reqid, Binding { site, mark, inbound_spis: [one, other] }) => {
                write!(
                    f,
                    "map: bind reqid {reqid} with mark {mark} to site {site}, SPIs {one:08x} {other:08x}"
                )
            }
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
