//! Chooses the version of each customer that is in force: the new one, or the last good one where the new one
//! conflicts with others.
//!
//! A customer that yields to a conflict takes back what it had, and another may have to yield to that in turn.
//! Such chains can be as long as the number of customers, so each step looks only at what was taken back.
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use super::conflicts::{Conflict, limit_conflicts, own_conflicts};
use super::customer::Customer;
use super::document::{CustomerDocument, GatewayDocument};
use super::fault::Faults;
use super::identity::Identity;
use super::names::CustomerName;

/// Checks of the limits after which all new versions are refused. Each check looks at every customer.
const MAX_LIMIT_CHECKS: usize = 8;

/// The versions of one customer.
pub(super) struct Candidate<'d> {
    /// The file's version, if it is valid and not the one in force.
    pub new: Option<&'d CustomerDocument>,
    /// The version in force, if there is one.
    pub kept: Option<&'d CustomerDocument>,
}

/// A property that only one site or customer may have.
#[derive(PartialEq, Eq, Hash)]
enum Claim<'d> {
    Server(IpAddr),
    Identity(&'d Identity),
}

/// Reverts new versions until no conflict is left, and adds the faults of those conflicts. Returns `None` if a
/// conflict remains that no new version takes part in: the gateway part caused it.
pub(super) fn resolve<'d>(
    gateway: &'d GatewayDocument,
    candidates: BTreeMap<&'d CustomerName, Candidate<'d>>,
    faults: &mut Faults,
) -> Option<BTreeMap<CustomerName, Customer>> {
    let mut resolution = Resolution { gateway, candidates, faults };
    let yielding = resolution.yielding(own_conflicts(gateway, &resolution.ordered()))?;
    resolution.revert(yielding)?;
    // All other conflicts are gone: the versions in force have none with one another. Before that, versions that yield
    // anyway would have left no room for others.
    for check in 1.. {
        let conflicts = resolution.limit_conflicts();
        if conflicts.is_empty() {
            break;
        }
        let mut yielding = resolution.yielding(conflicts)?;
        if check >= MAX_LIMIT_CHECKS {
            yielding.extend(resolution.new_versions().map(|(name, _)| name));
        }
        resolution.revert(yielding)?;
    }
    let chosen = resolution.candidates.into_values().filter_map(|candidate| candidate.document());
    let values = chosen.filter_map(|document| document.value.clone());
    Some(values.map(|customer| (customer.name.clone(), customer)).collect())
}

impl<'d> Candidate<'d> {
    fn document(&self) -> Option<&'d CustomerDocument> {
        self.new.or(self.kept)
    }
}

/// The state of [`resolve`].
struct Resolution<'d, 'f> {
    gateway: &'d GatewayDocument,
    candidates: BTreeMap<&'d CustomerName, Candidate<'d>>,
    faults: &'f mut Faults,
}

impl<'d> Resolution<'d, '_> {
    fn new_versions(&self) -> impl Iterator<Item = (&'d CustomerName, &'d CustomerDocument)> {
        self.candidates.iter().filter_map(|(name, candidate)| Some((*name, candidate.new?)))
    }

    /// Returns the chosen documents, unchanged customers first and added ones last: the later party of a
    /// conflict gets the fault.
    fn ordered(&self) -> Vec<&'d CustomerDocument> {
        let mut candidates: Vec<&Candidate> = self.candidates.values().collect();
        candidates.sort_by_key(|candidate| (candidate.new.is_some(), candidate.kept.is_none()));
        candidates.into_iter().filter_map(Candidate::document).collect()
    }

    fn limit_conflicts(&self) -> Vec<Conflict<'d>> {
        let in_force = |name: &CustomerName| self.candidates.get(name)?.kept;
        limit_conflicts(self.gateway, &self.ordered(), &in_force)
    }

    /// Adds the conflicts' faults and returns the new versions that take part. Returns `None` if there is a
    /// conflict without one.
    fn yielding(&mut self, conflicts: Vec<Conflict<'d>>) -> Option<BTreeSet<&'d CustomerName>> {
        let mut yielding = BTreeSet::new();
        let mut without = false;
        for conflict in conflicts {
            let parties = conflict.parties.iter().filter_map(|party| self.candidates.get(party)?.new);
            let parties: Vec<_> = parties.map(|document| &document.name).collect();
            without |= parties.is_empty();
            yielding.extend(parties);
            // A file with faults of its own is refused anyway.
            if !self.faults.has_fault_in(&conflict.source.path) {
                self.faults.insert(conflict.fault());
            }
        }
        (!without).then_some(yielding)
    }

    /// Reverts these customers, and every other one whose new version claims what they take back. Returns
    /// `None` if a version in force conflicts with the gateway part.
    fn revert(&mut self, yielding: BTreeSet<&'d CustomerName>) -> Option<()> {
        let mut reverted: Vec<&CustomerDocument> =
            yielding.into_iter().filter_map(|name| self.take_back(name)).collect();
        // No two new versions that are left claim the same.
        let rivals: HashMap<Claim, &CustomerDocument> = self
            .new_versions()
            .flat_map(|(_, document)| claims(document).map(move |claim| (claim, document)))
            .collect();
        while let Some(kept) = reverted.pop() {
            self.yielding(own_conflicts(self.gateway, &[kept]))?;
            for rival in claims(kept).filter_map(|claim| rivals.get(&claim).copied()) {
                if self.candidates.get(&rival.name).is_some_and(|candidate| candidate.new.is_some()) {
                    self.yielding(own_conflicts(self.gateway, &[kept, rival]))?;
                    reverted.extend(self.take_back(&rival.name));
                }
            }
        }
        Some(())
    }

    /// Chooses the version in force and returns it.
    fn take_back(&mut self, name: &CustomerName) -> Option<&'d CustomerDocument> {
        let candidate = self.candidates.get_mut(name)?;
        candidate.new = None;
        candidate.kept
    }
}

fn claims(document: &CustomerDocument) -> impl Iterator<Item = Claim<'_>> {
    let identities = document.sites.iter().filter_map(|site| site.identity.as_ref());
    let identities = identities.map(|identity| Claim::Identity(identity.get_ref()));
    document.server.iter().copied().map(Claim::Server).chain(identities)
}
