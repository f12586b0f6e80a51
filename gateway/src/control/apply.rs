//! Applies actions: the only code that changes maps.
use std::mem;

use anyhow::{Context, Result};

use crate::{control::plan::Action, kernel::maps::Maps};

/// Applies all actions in order and calls `done` with the result of each.
pub fn apply_all(actions: &[Action], maps: &mut Maps, mut done: impl FnMut(&Action, Result<()>)) {
    /// Few enough that the copies made for a batch stay in the processor's cache.
    const BATCH_ACTIONS: usize = 4096;
    let runs = actions.chunk_by(|one, next| mem::discriminant(one) == mem::discriminant(next));
    for run in runs.flat_map(|run| run.chunks(BATCH_ACTIONS)) {
        // After a failed batch, applying the actions one by one shows which of them fails.
        if run.len() > 1 && apply_run(run, maps).is_ok_and(|applied| applied) {
            run.iter().for_each(|action| done(action, Ok(())));
            continue;
        }
        for action in run {
            done(action, apply(action, maps));
        }
    }
}

/// Writes a run of map entries of one kind in one batch. Returns false if the kind cannot be batched.
fn apply_run(run: &[Action], maps: &mut Maps) -> Result<bool> {
    /// Returns the entry of every action, or None if one of them has no such entry.
    fn entries<'a, T>(run: &'a [Action], entry: impl Fn(&'a Action) -> Option<T>) -> Option<Vec<T>> {
        run.iter().map(entry).collect()
    }
    if let Some(tunnels) = entries(run, |action| match action {
        Action::SetTunnel(id, tunnel) => Some((*id, &**tunnel)),
        _ => None,
    }) {
        maps.set_tunnels(&tunnels)?;
    } else if let Some(customers) = entries(run, |action| match action {
        Action::SetCustomer(server, customer) => Some((*server, *customer)),
        _ => None,
    }) {
        maps.set_customers(&customers)?;
    } else if let Some(spis) = entries(run, |action| match action {
        Action::SetInboundSpi(spi, Some(mark)) => Some((*spi, *mark)),
        _ => None,
    }) {
        maps.set_inbound_spis(&spis)?;
    } else if let Some(spis) = entries(run, |action| match action {
        Action::SetOutboundSpi(spi, Some(mark)) => Some((*spi, *mark)),
        _ => None,
    }) {
        maps.set_outbound_spis(&spis)?;
    } else {
        return Ok(false);
    }
    Ok(true)
}

/// Applies one action. A failed action needs no retry here: the next plan contains it again.
pub fn apply(action: &Action, maps: &mut Maps) -> Result<()> {
    match action {
        Action::RemoveCustomer(server) => maps.remove_customer(*server),
        Action::SetCustomer(server, customer) => maps.set_customer(*server, customer),
        Action::SetTunnel(id, tunnel) => maps.set_tunnel(*id, tunnel),
        Action::SetBinding(reqid, binding) => maps.set_binding(*reqid, binding),
        Action::SetInboundSpi(spi, mark) => maps.set_inbound_spi(*spi, *mark),
        Action::SetOutboundSpi(spi, mark) => maps.set_outbound_spi(*spi, *mark),
        Action::RemovePeer(peer) => maps.remove_peer(*peer),
        Action::AddPeer(peer) => maps.add_peer(*peer),
        Action::SetSettings(settings) => maps.set_settings(settings),
    }
    .with_context(|| action.to_string())
}
