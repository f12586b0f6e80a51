//! Maps that hold entries of former owners, when gatewayd starts or gets another policy.
use std::path::Path;

use anyhow::{Result, ensure};
use gateway_common::layout::{Binding, Tunnel, map_list};

use crate::{
    kernel::{
        maps::{self, Maps},
        pins::Pins,
    },
    policy::{Limits, Policy},
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

/// Returns the sizes of the tables that an earlier gatewayd has pinned, or `None` if they are not all there.
pub fn pinned_limits(pins: &Pins) -> Option<Limits> {
    Some(Limits {
        // The id 0 has an entry, too.
        tunnels: maps::pinned_size(pins, &map_list::TUNNELS)?.checked_sub(1)?,
        customers: maps::pinned_size(pins, &map_list::CUSTOMERS)?,
        flows: maps::pinned_size(pins, &map_list::FLOWS)?,
        flows6: Some(maps::pinned_size(pins, &map_list::FLOWS6)?),
    })
}
