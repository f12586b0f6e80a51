//! Maps that hold entries of former owners, when gatewayd starts or gets another policy.
use std::path::Path;

use anyhow::{Result, ensure};
use gateway_common::layout::{Binding, Tunnel, map_list};

use crate::{
    kernel::{
        maps::{self, Maps},
        pins::Pins,
    },
    policy::Policy,
    registry::{Assignment, Planned, Registry},
};

/// Assigns ids at start. Maps that an earlier gatewayd has pinned hold SAs by these ids.
pub fn adopt_ids(pins: &Pins, state: &Path, registry: &mut Registry, policy: &Policy) -> Result<Assignment> {
    let pinned = if pins.exist() { Maps::open(pins).ok() } else { None };
    if let Some(maps) = &pinned {
        ensure!(
            !registry.is_empty() || (maps.tunnels()?.is_empty() && maps.bindings()?.is_empty()),
            "{} is missing, but the pinned maps in {} hold tunnels by its ids: restore it from a backup, or run \
             `gatewayctl detach` and start again, which gives every customer and site a new id",
            state.join("ids.toml").display(),
            pins.directory().display()
        );
    }
    let planned = registry.plan(policy)?;
    if let Some(mut maps) = pinned {
        release(&mut maps, &planned)?;
    }
    Ok(registry.commit(planned)?)
}

/// Removes from the maps what a former owner of an id had: its bindings first.
pub fn release(maps: &mut Maps, planned: &Planned) -> Result<()> {
    if planned.taken_over.is_empty() {
        return Ok(());
    }
    let is_taken = |binding: &Binding| planned.taken_over.iter().any(|id| id.get() == binding.site);
    for (reqid, _) in maps.bindings()?.iter().filter(|(_, binding)| is_taken(binding)) {
        maps.set_binding(*reqid, &Binding::default())?;
    }
    planned.taken_over.iter().try_for_each(|id| maps.set_tunnel(*id, &Tunnel::default()))
}

/// Returns the size of the IPv6 flow table. If the policy gives none, an existing table keeps its size as long
/// as it holds the quotas: a restart must not fail because IPv6 servers were added or removed before.
pub fn flows6_size(policy: &Policy, pins: &Pins) -> u32 {
    let (_, quotas) = policy.quotas();
    let existing = maps::pinned_size(pins, &map_list::FLOWS6).filter(|size| u64::from(*size) >= quotas);
    match (policy.gateway.limits.flows6, existing) {
        (None, Some(size)) => size,
        _ => policy.flows6(),
    }
}
