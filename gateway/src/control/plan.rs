//! What to do so that the observed state becomes the desired one: data, printable, empty when there
//! is nothing to do.
use std::{collections::BTreeMap, fmt, net::Ipv4Addr};

use gateway_common::{
    ids::TunnelId,
    layout::{Customer, OutboundSpi, Settings, Tunnel},
};

use ipnet::IpNet;

use crate::{
    control::{desired::Desired, follow::Live, observed::Observed},
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
    RemoveCustomer(Ipv4Addr),
    /// A tunnel's map entry; all zero if it goes.
    SetTunnel(TunnelId, Tunnel),
    /// An inbound SPI's map entry; None if it goes.
    SetInboundSpi(u32, Option<TunnelId>),
    /// An outbound SPI's map entry; None if it goes.
    SetOutboundSpi(OutboundSpi, Option<TunnelId>),
    /// A customer's map entry.
    SetCustomer(Ipv4Addr, Customer),
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
}

/// The changes, in the order in which they are safe: what is taken away first, what packets need
/// before what brings packets. Without charon, tunnels stay as they are.
pub fn plan(desired: &Desired, observed: &Observed, charon: Option<&Charon>) -> Vec<Action> {
    let mut actions = Vec::new();
    if let Some(charon) = charon {
        plan_removals(desired, charon, &mut actions);
    }
    for (server, _) in observed.customers.iter().filter(|(server, _)| !desired.customers.contains_key(server))
    {
        actions.push(Action::RemoveCustomer(*server));
    }
    let generations = generations(desired, observed);
    plan_tunnels(desired, observed, charon, &generations, &mut actions);
    if let Some(charon) = charon {
        plan_spis(&charon.live, observed, &mut actions);
    }
    for (server, customer) in &desired.customers {
        let customer = Customer { generation: generations[&customer.id], ..*customer };
        if observed.customers.get(server) != Some(&customer) {
            actions.push(Action::SetCustomer(*server, customer));
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

fn plan_removals(desired: &Desired, charon: &Charon, actions: &mut Vec<Action>) {
    for name in charon.listed.iter().filter(|name| !desired.connections.contains_key(*name)) {
        actions.push(Action::Unload(name.clone()));
    }
    for stranger in &charon.live.strangers {
        let why = format!("a stranger on tunnel {}: {}", stranger.tunnel, stranger.what);
        actions.push(Action::Terminate { unique_id: stranger.unique_id, why });
    }
    for (unique_id, name) in &charon.ike_sas {
        let stranger = charon.live.strangers.iter().any(|stranger| stranger.unique_id == *unique_id);
        let ours = parse_connection_name(name).is_some();
        if !stranger && ours && !desired.connections.contains_key(name) {
            let why = format!("the policy has no site {name}");
            actions.push(Action::Terminate { unique_id: *unique_id, why });
        }
    }
}

/// charon keeps SAs as they were negotiated when their connection changes, and rekeys them so: one that
/// lacks what the connection selects now has to be made anew. One that selects more may stay.
fn plan_loads(desired: &Desired, charon: &Charon, actions: &mut Vec<Action>) {
    for connection in desired.connections.values() {
        let loaded = charon.loaded.get(&connection.name);
        if loaded == Some(connection) {
            continue;
        }
        actions.push(Action::Load(Box::new(connection.clone())));
        if loaded.is_some_and(|loaded| !selects_all_of(loaded, connection)) {
            let sas = charon.ike_sas.iter().filter(|(_, name)| *name == connection.name);
            actions.extend(sas.map(|(unique_id, name)| Action::Terminate {
                unique_id: *unique_id,
                why: format!("the policy of {name} changed"),
            }));
        }
    }
    for stale in &charon.live.stale {
        let why = format!("tunnel {}: {}", stale.tunnel, stale.what);
        actions.push(Action::Terminate { unique_id: stale.unique_id, why });
    }
}

/// Whether all that one connection's children select, the other's did too.
fn selects_all_of(old: &Connection, new: &Connection) -> bool {
    let within = |new: &[IpNet], old: &[IpNet]| new.iter().all(|new| old.iter().any(|old| old.contains(new)));
    new.children
        .iter()
        .zip(&old.children)
        .all(|(new, old)| within(&new.local_ts, &old.local_ts) && within(&new.remote_ts, &old.remote_ts))
}

fn plan_tunnels(
    desired: &Desired,
    observed: &Observed,
    charon: Option<&Charon>,
    generations: &BTreeMap<u32, u32>,
    actions: &mut Vec<Action>,
) {
    for id in observed.tunnels.keys().filter(|id| !desired.tunnels.contains_key(id)) {
        actions.push(Action::SetTunnel(*id, Tunnel::default()));
    }
    for (id, tunnel) in &desired.tunnels {
        let now = observed.tunnels.get(id);
        let up = match charon {
            Some(charon) => charon.live.up.contains(id),
            // Of the same site only: an id that went to another one starts down.
            None => now.is_some_and(|now| now.up == 1 && now.customer == tunnel.entry.customer),
        };
        let generation = generations[&tunnel.entry.customer];
        let entry = Tunnel { up: u8::from(up), generation, ..tunnel.entry };
        if now != Some(&entry) {
            actions.push(Action::SetTunnel(*id, entry));
        }
    }
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

/// The generation of each customer's policy, by customer number: one higher than the maps say if
/// anything that decides about its packets is not as the maps say.
fn generations(desired: &Desired, observed: &Observed) -> BTreeMap<u32, u32> {
    let mut generations = BTreeMap::new();
    for (server, customer) in &desired.customers {
        let is = |other: u32| other == customer.id;
        let wanted: Vec<_> = desired.tunnels.iter().filter(|(_, t)| is(t.entry.customer)).collect();
        let there: Vec<_> = observed.tunnels.iter().filter(|(_, t)| is(t.customer)).collect();
        let newest = there.iter().map(|(_, tunnel)| tunnel.generation);
        let newest =
            newest.chain(observed.customers.values().filter(|c| is(c.id)).map(|c| c.generation)).max();
        let same_server = observed.customers.get(server).is_some_and(|now| {
            *now == Customer { generation: now.generation, ..*customer } && Some(now.generation) == newest
        });
        let same_tunnels = wanted.len() == there.len()
            && wanted.iter().zip(&there).all(|((id, tunnel), (other, now))| {
                id == other
                    && **now == Tunnel { up: now.up, generation: now.generation, ..tunnel.entry }
                    && Some(now.generation) == newest
            });
        let generation = match newest {
            Some(newest) if same_server && same_tunnels => newest,
            Some(newest) => newest.wrapping_add(1).max(1),
            None => 1,
        };
        generations.insert(customer.id, generation);
    }
    generations
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unload(name) => write!(f, "charon: unload connection {name}"),
            Self::Terminate { unique_id, why } => write!(f, "charon: terminate IKE_SA {unique_id}: {why}"),
            Self::Load(connection) => write!(f, "charon: load connection {}", connection.name),
            Self::RemoveCustomer(server) => write!(f, "map: remove the customer of server {server}"),
            Self::SetCustomer(server, customer) => write!(
                f,
                "map: customer {} with server {server} port {}, generation {}",
                customer.id, customer.port, customer.generation
            ),
            Self::SetTunnel(id, tunnel) if tunnel.customer == 0 => write!(f, "map: remove tunnel {id}"),
            Self::SetTunnel(id, tunnel) => write!(
                f,
                "map: tunnel {id} of customer {} {}, generation {}",
                tunnel.customer,
                if tunnel.up == 1 { "up" } else { "down" },
                tunnel.generation
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
