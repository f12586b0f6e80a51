//! The daemon's state as the status file shows it.
use std::{collections::BTreeMap, net::IpAddr};

use gateway_common::{
    ids::{Mark, TunnelId},
    layout::Tunnel,
};

use crate::{
    control::{bindings::Bindings, sites::Sites},
    policy::Policy,
    registry::Assignment,
    status::TunnelStatus,
};

/// Returns one entry for each site of the policy. `learnt` holds path MTUs in bytes by peer; `entry` returns a site's map
/// entry.
pub fn tunnel_statuses(
    policy: &Policy,
    ids: &Assignment,
    bindings: &Bindings,
    learnt: &BTreeMap<IpAddr, u32>,
    entry: impl Fn(TunnelId) -> Option<Tunnel>,
) -> Vec<TunnelStatus> {
    let mut tunnels = Vec::new();
    for (customer, site) in policy.customers.values().flat_map(|c| c.sites.iter().map(move |s| (c, s))) {
        let Some(id) = ids.tunnel(&customer.name, &site.name) else { continue };
        let live = bindings.live().sites.get(&id);
        let entry = entry(id).unwrap_or_default();
        tunnels.push(TunnelStatus {
            customer: customer.name.to_string(),
            site: site.name.to_string(),
            id: id.get(),
            up: entry.up == 1,
            peer: live.and_then(|live| live.shown.peer).map(|peer| peer.to_string()),
            cipher: live.map(|live| live.shown.cipher.clone()),
            encapsulated: live.is_some_and(|live| live.shown.encapsulated),
            mss: (entry.v4.mss, entry.v6.mss),
            path_mtu_bytes: live.and_then(|live| live.path_mtu_bytes(learnt)),
        });
    }
    tunnels
}

/// Returns the names of sites whose CHILD_SAs negotiated more prefixes of one family than a map entry holds.
pub fn crowded(bindings: &Bindings, sites: &Sites) -> Vec<String> {
    use gateway_common::limits::PREFIXES_PER_SITE;
    let is_crowded = |prefixes: &[(ipnet::IpNet, Mark)]| {
        let v4 = prefixes.iter().filter(|(net, _)| net.addr().is_ipv4()).count();
        v4.max(prefixes.len() - v4) > PREFIXES_PER_SITE
    };
    let crowded = bindings.live().sites.iter().filter(|(_, live)| is_crowded(&live.prefixes));
    crowded.filter_map(|(id, _)| Some(sites.rule(*id)?.name.clone())).collect()
}
