//! Puts changed policies into force.
use std::{mem, sync::Arc};

use anyhow::Result;
use tracing::{error, info, warn};

use super::{Daemon, followed};
use crate::{
    adoption::release,
    approval,
    control::{
        apply::apply_all,
        desired::{Links, desired_of},
        observed::observe_of,
        plan::plan_some,
        sites::Sites,
    },
    events::Names,
    held_back::HeldBack,
    inputs::Inputs,
    kernel::{interface::Interface, programs::XdpState},
    policy::{Limits, Policy},
    registry::Assignment,
};

/// Begin of the fault that new customers and sites have no numbers.
const UNNUMBERED: &str = "new customers and sites are not in force";

impl Daemon {
    /// Reads the policies again. Each part that has faults or cannot come into force keeps its last valid state, and no
    /// other part waits for it.
    pub(super) fn reload(&mut self) {
        // The folder may have less now than those.
        self.unnumbered = None;
        let approval = approval::take(&self.options.state);
        let approved = self.held_back.as_ref().filter(|held| approval == Some(held.since_ns));
        let tables = Limits {
            tunnels: self.sizes.tunnels,
            customers: self.sizes.customers,
            flows: self.sizes.flows,
            flows6: Some(self.sizes.flows6),
        };
        let reading = self.inputs.reload(&self.options.policy, tables, approved.map(|held| &held.removals));
        reading.log();
        self.status.faults = reading.lines();
        self.held_back = HeldBack::of(&reading);
        self.status.held_back_ns = self.held_back.as_ref().map(|held| held.since_ns);
        let Some(inputs) = reading.inputs else { return };
        if let Err(error) = self.put_into_force(inputs) {
            let error = format!("{UNNUMBERED}: {error:#}");
            error!("{error}");
            self.status.faults.push(error);
        }
    }

    /// Puts inputs into force. If customers and sites get no numbers, those that have some, and keeps the inputs for
    /// [`number`](Self::number).
    fn put_into_force(&mut self, inputs: Inputs) -> Result<()> {
        if !inputs.has_files_of(&self.inputs) {
            // Before the maps: a crash in between must not bring back what these inputs no longer allow.
            self.save(&inputs);
        }
        match self.assign(&inputs.policy) {
            Ok(ids) => {
                self.enforce(ids, inputs);
                Ok(())
            }
            Err(error) => {
                self.enforce(self.ids.clone(), self.inputs.numbered(&inputs));
                self.unnumbered = Some(inputs);
                Err(error)
            }
        }
    }

    /// Puts inputs into force whose new customers and sites got no numbers, if they get them now.
    pub(super) fn number(&mut self) {
        let Some(inputs) = self.unnumbered.take() else { return };
        match self.assign(&inputs.policy) {
            Ok(ids) => {
                self.status.faults.retain(|line| !line.starts_with(UNNUMBERED));
                self.enforce(ids, inputs);
                self.publish_policy();
                self.try_reconcile();
            }
            Err(_) => self.unnumbered = Some(inputs),
        }
    }

    fn enforce(&mut self, ids: Assignment, inputs: Inputs) {
        self.ids = ids;
        self.names = Names::new(&self.ids);
        info!("policies reloaded: {}", inputs.describe());
        let previous = mem::replace(&mut self.inputs, Arc::new(inputs));
        let orders = self.follower.bindings_mut().set_sites(Sites::new(&self.inputs.policy, &self.ids));
        self.order(orders);
        if let Some(setup) = self.inputs.setup() {
            self.session.set_up(setup);
        }
        if let Err(error) = self.apply_additions(&previous.policy) {
            warn!("cannot apply the changes at once, reconciling everything instead: {error:#}");
        }
    }

    /// Gives customers and sites their numbers, on disk too.
    fn assign(&mut self, policy: &Policy) -> Result<Assignment> {
        let planned = self.registry.plan(policy)?;
        release(&mut self.maps, &planned)?;
        Ok(self.registry.commit(planned)?)
    }

    /// Keeps inputs on disk for the next start. A failure is shown until it is overcome.
    pub(super) fn save(&mut self, inputs: &Inputs) {
        let failed = inputs.last_good().write(&self.options.state).err();
        let failed = failed.map(|error| format!("the policies are not kept for the next start: {error:#}"));
        if let Some(error) = failed.as_ref().filter(|error| self.unsaved.as_ref() != Some(*error)) {
            error!("{error}");
        }
        self.unsaved = failed;
    }

    /// Writes new and changed customers to the maps, in a time independent of the total number of customers.
    /// The next reconciliation does the rest. It also does everything if the policy lost a customer or site,
    /// because removals have to come first.
    fn apply_additions(&mut self, previous: &Policy) -> Result<()> {
        let policy = &self.inputs.policy;
        let Some(changed) = policy.changes(previous).filter(|changed| !changed.is_empty()) else {
            return Ok(());
        };
        let internet = Interface::look(policy.gateway.internet.as_str())?;
        let lan = Interface::look(policy.gateway.lan.as_str())?;
        let links = Links { internet: &internet, lan: &lan, xdp: self.plane.xdp() == XdpState::Native };
        let desired = desired_of(policy, changed.into_iter(), &self.ids, links)?;
        let followed = followed(&self.follower, &self.learnt);
        let Some(actions) = plan_some(&desired, &observe_of(&self.maps, &desired)?, followed) else {
            return Ok(());
        };
        let mut result = Ok(());
        apply_all(&actions, &mut self.maps, |action, applied| match applied {
            Ok(()) => info!("{action}"),
            Err(error) => result = Err(error),
        });
        result
    }
}
