//! Keeps the file of all sites in line with the maps and charon's SAs.
use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    net::IpAddr,
    path::Path,
    time::Duration,
};

use anyhow::Result;
use gateway_common::ids::TunnelId;
use tokio::time::Instant;

use crate::{
    control::{bindings::Bindings, sites::Sites},
    kernel::maps::Maps,
    policy::{CustomerName, Policy, SiteName},
    snapshot::{SiteState, is_crowded, names},
    status::TunnelsFile,
};

/// Interval of attempts to make the file anew after a failure.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// Crowded sites that the status names.
const NAMED_CROWDED: usize = 16;

/// The file, and what it lacks.
#[derive(Default)]
pub(super) struct SitesFile {
    /// None if the file is to be made anew.
    file: Option<TunnelsFile>,
    /// The time of the next attempt after one that failed.
    retry: Option<Instant>,
    written: BTreeMap<TunnelId, (CustomerName, SiteName, SiteState)>,
    changed: Changed,
    /// Sites that have negotiated more prefixes than their map entry holds.
    crowded: BTreeSet<TunnelId>,
}

/// Sites whose state may differ from that in the file.
enum Changed {
    These(BTreeSet<TunnelId>),
    All,
}

/// The knowledge that the file is written from.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub policy: &'a Policy,
    pub bindings: &'a Bindings,
    /// Path MTUs in bytes by peer.
    pub learnt: &'a BTreeMap<IpAddr, u32>,
    pub maps: &'a Maps,
}

impl Default for Changed {
    fn default() -> Self {
        Self::These(BTreeSet::new())
    }
}

impl SitesFile {
    /// Has these sites written if they differ.
    pub(super) fn changed(&mut self, sites: impl IntoIterator<Item = TunnelId>) {
        if let Changed::These(changed) = &mut self.changed {
            changed.extend(sites);
        }
    }

    /// Has all sites written that differ: after a list of all SAs, another policy, and whatever else concerns all of them.
    pub(super) fn all(&mut self) {
        self.changed = Changed::All;
    }

    /// Returns the names of the first sites that have negotiated more prefixes than their map entry holds.
    pub(super) fn crowded(&self, sites: &Sites) -> Vec<String> {
        let crowded = self.crowded.iter().filter_map(|id| sites.rule(*id));
        crowded.take(NAMED_CROWDED).map(|rule| rule.name.clone()).collect()
    }

    /// Writes the records of sites that have changed. Takes no time that grows with the number of sites, unless all were to
    /// be looked at.
    pub(super) fn write(&mut self, state: &Path, view: View) -> Result<()> {
        let now = Instant::now();
        if self.retry.is_some_and(|retry| now < retry) {
            return Ok(());
        }
        let result = self.try_write(state, view);
        self.retry = None;
        if result.is_err() {
            // Nobody knows what the file holds.
            self.file = None;
            self.retry = Some(now + RETRY_INTERVAL);
        }
        result
    }

    fn try_write(&mut self, state: &Path, view: View) -> Result<()> {
        let (file, is_new) = match self.file.take() {
            Some(file) => (file, false),
            None => {
                self.written.clear();
                self.all();
                (TunnelsFile::create(state)?, true)
            }
        };
        match mem::take(&mut self.changed) {
            Changed::These(changed) => changed.into_iter().try_for_each(|id| self.update(&file, id, view))?,
            Changed::All => {
                let gone = |id: &TunnelId| view.bindings.sites().rule(*id).is_none();
                let gone: Vec<TunnelId> = self.written.keys().copied().filter(gone).collect();
                let all = view.bindings.sites().numbers().chain(gone);
                all.into_iter().try_for_each(|id| self.update(&file, id, view))?;
            }
        }
        if is_new {
            file.publish(state)?;
        }
        self.file = Some(file);
        Ok(())
    }

    /// Writes the record of one site if it has changed.
    fn update(&mut self, file: &TunnelsFile, id: TunnelId, view: View) -> Result<()> {
        match view.bindings.live().sites.get(&id).is_some_and(is_crowded) {
            true => self.crowded.insert(id),
            false => self.crowded.remove(&id),
        };
        let Some((customer, site)) = names(view.policy, view.bindings.sites(), id) else {
            return match self.written.remove(&id) {
                Some(_) => file.remove(id.get()),
                None => Ok(()),
            };
        };
        let entry = view.maps.tunnel(id).unwrap_or_default();
        let state = SiteState::of(id, view.bindings, view.learnt, &entry);
        let is_same = |(written_customer, written_site, written): &(CustomerName, SiteName, SiteState)| {
            (written_customer, written_site, written) == (customer, site, &state)
        };
        if self.written.get(&id).is_some_and(is_same) {
            return Ok(());
        }
        file.set(&state.status(id, (customer, site)))?;
        self.written.insert(id, (customer.clone(), site.clone(), state));
        Ok(())
    }
}
