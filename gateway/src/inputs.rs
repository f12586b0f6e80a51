//! The policies and credentials that the daemon works with: read, checked, and limited to what can come into force.
use std::path::Path;

use tracing::error;

use crate::{
    control::desired::{Credentials, connection},
    fit::Fit,
    last_good::LastGood,
    policy::{
        CustomerName, Faults, Limits, Policy, Reload, Removals, Site, Texts, check_removals, reload_with,
        restore,
    },
    session::Setup,
};

/// A policy, the texts it was read from, and the credentials it names.
#[derive(Clone)]
pub struct Inputs {
    /// The policy.
    pub policy: Policy,
    /// The texts of its files.
    pub texts: Texts,
    /// The gateway's certificates and key. `None` if there are none without a fault: then charon keeps what it has.
    pub credentials: Option<Credentials>,
}

/// The result of reading the policies' folder.
pub struct Reading {
    /// The inputs that are to come into force. `None`: those in force stay, and a start has none.
    pub inputs: Option<Inputs>,
    /// Every fault of the files.
    pub faults: Faults,
    /// Lines that tell which former versions are in force in place of faulty ones, and who is not served at all.
    pub consequences: Vec<String>,
    /// The removals because of which the policies are held back.
    pub held_back: Option<Removals>,
    /// True if there are no inputs because the customers' folder could not be listed.
    pub is_unlisted: bool,
}

impl Inputs {
    /// Reads policies and secrets at a start, as a reload does after the last good policy, which is kept in the directory
    /// `state`. `tables` are the sizes of tables that exist.
    ///
    /// There are no inputs if nothing of the gateway part can be kept. There are none either if the customers' folder
    /// cannot be listed, whether or not `gateway.toml` is there, and there is no last good policy: a start without customers
    /// would end all of them.
    pub fn start(folder: &Path, last_good: &LastGood, state: &Path, tables: Option<Limits>) -> Reading {
        let LastGood { texts, ipsec } = last_good;
        let dir = state.join(crate::last_good::FILE);
        let mut fit = Fit::new(folder, ipsec.clone());
        fit.tables = tables;
        let mut reload = reload_with(folder, None, &mut |gateway| fit.adopt(gateway));
        // Nothing at all is there: the folder may be mounted later.
        let is_empty = !folder.join("gateway.toml").exists();
        let mut is_unlisted = reload.unlisted && (reload.policy.is_some() || is_empty);
        // Reading the last good policy takes as long as reading the files, and without faults nobody needs it.
        let mut former = None;
        if !reload.faults.is_empty() {
            former = restore(texts, &dir, &mut |_| Vec::new()).policy;
        }
        if let Some(former) = &former {
            reload = reload_with(folder, Some(former), &mut |gateway| fit.adopt(gateway));
            is_unlisted = false;
        }
        let mut reading = Reading::of(&reload);
        if is_unlisted {
            return Reading { is_unlisted, ..reading };
        }
        let removals = reload.policy.as_ref().and_then(|new| match &former {
            Some(former) => exceeding(former.customers.keys(), new),
            None => exceeding(texts.customers.keys(), new),
        });
        if let Some(removals) = removals {
            // Whole, not only the removals, as at a reload: half of a folder that nobody meant is no better.
            let former = restore(texts, &dir, &mut |gateway| fit.adopt(gateway));
            if former.policy.is_some() {
                reading.faults.extend(former.faults.iter().cloned());
                reading.hold_back(removals);
                reload = former;
            }
        }
        reading.inputs = Self::of(reload, texts, fit);
        reading
    }

    /// Reads policies and secrets again. These inputs stay in force in place of parts that have faults or cannot come into
    /// force. `approved` removals are not held back.
    pub fn reload(&self, folder: &Path, tables: Limits, approved: Option<&Removals>) -> Reading {
        let gateway = &self.policy.gateway;
        let mut fit = Fit::new(folder, Some(gateway.ipsec.clone()));
        fit.interfaces = Some((gateway.internet.clone(), gateway.lan.clone()));
        fit.tables = Some(tables);
        fit.loaded = self.credentials.clone();
        let reload = reload_with(folder, Some(&self.policy), &mut |gateway| fit.adopt(gateway));
        let mut reading = Reading::of(&reload);
        let removals = reload.policy.as_ref().and_then(|new| exceeding(self.policy.customers.keys(), new));
        let is_approved =
            |removals: &Removals| approved.is_some_and(|approved| removals.are_within(approved));
        match removals.filter(|removals| !is_approved(removals)) {
            Some(removals) => reading.hold_back(removals),
            None => reading.inputs = Self::of(reload, &self.texts, fit),
        }
        reading
    }

    fn of(reload: Reload, former: &Texts, fit: Fit) -> Option<Self> {
        let texts = reload.texts_after(former);
        Some(Self { policy: reload.policy?, texts, credentials: fit.credentials })
    }

    /// Returns what the next start needs if files have faults then.
    pub fn last_good(&self) -> LastGood {
        LastGood { texts: self.texts.clone(), ipsec: Some(self.policy.gateway.ipsec.clone()) }
    }

    /// Returns true if the next start needs the same of both.
    pub fn has_files_of(&self, other: &Self) -> bool {
        self.texts == other.texts && self.policy.gateway.ipsec == other.policy.gateway.ipsec
    }

    /// Returns the `newer` inputs as far as customers and sites have numbers: without those that these inputs do not have.
    pub fn numbered(&self, newer: &Self) -> Self {
        let mut numbered = newer.clone();
        let older = &self.policy.customers;
        numbered.policy.customers.retain(|name, _| older.contains_key(name));
        for customer in numbered.policy.customers.values_mut() {
            let older = older.get(&customer.name);
            let has = |site: &Site| older.and_then(|older| older.site(&site.name));
            customer.sites.retain(|site| has(site).is_some_and(|older| older.identity == site.identity));
        }
        numbered.policy.customers.retain(|_, customer| !customer.sites.is_empty());
        numbered
    }

    /// Returns the numbers of customers and sites as text.
    pub fn describe(&self) -> String {
        self.policy.describe()
    }

    /// Returns what charon gets, if there are credentials.
    pub fn setup(&self) -> Option<Setup> {
        let credentials = self.credentials.clone()?;
        let connection = connection(&self.policy.gateway, &credentials);
        Some(Setup { credentials, connection })
    }
}

impl Reading {
    fn of(reload: &Reload) -> Self {
        Self {
            inputs: None,
            faults: reload.faults.clone(),
            consequences: reload.consequences(),
            held_back: None,
            is_unlisted: false,
        }
    }

    fn hold_back(&mut self, removals: Removals) {
        self.consequences = vec![removals.to_string()];
        self.held_back = Some(removals);
    }

    /// Returns a line for each fault and each consequence.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = self.faults.lines();
        lines.extend(self.consequences.iter().cloned());
        lines
    }

    /// Logs faults and consequences.
    pub fn log(&self) {
        if !self.faults.is_empty() {
            error!("policies have faults:\n{}", self.faults);
        }
        self.consequences.iter().for_each(|line| error!("{line}"));
    }
}

/// Returns the removals, if they are more than the new policy allows at once.
fn exceeding<'n>(former: impl ExactSizeIterator<Item = &'n CustomerName>, new: &Policy) -> Option<Removals> {
    check_removals(former, new, new.gateway.max_removed_percent).err()
}

#[cfg(test)]
mod tests;
