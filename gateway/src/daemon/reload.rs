//! Puts changed policies into force.
use std::{mem, sync::Arc};

use anyhow::{Result, ensure};
use time::OffsetDateTime;
use tracing::{error, info, warn};

use super::{Daemon, followed};
use crate::{
    adoption::release,
    control::{
        apply::apply_all,
        desired::{Credentials, Links, desired_of},
        observed::observe_of,
        plan::plan_some,
        sites::Sites,
    },
    events::Names,
    inputs::{Inputs, loadable},
    kernel::{interface::Interface, programs::XdpState},
    policy::{self, Faults, Policy},
};

impl Daemon {
    /// Reads the policies again. Documents with faults keep their last valid state.
    pub(super) fn reload(&mut self) {
        let reload = policy::reload(&self.options.policy, Some(&self.inputs.policy));
        self.status.faults = reload.faults.lines();
        if !reload.faults.is_empty() {
            error!("policies have faults:\n{}", reload.faults);
        }
        let Some(mut policy) = reload.policy else { return };
        let max_percent = policy.gateway.max_removed_percent;
        if let Err(removals) = policy::check_removals(&self.inputs.policy, &policy, max_percent) {
            error!("{removals}");
            self.status.faults.push(removals.to_string());
            return;
        }
        let running = self.inputs.policy.gateway.limits;
        if policy.gateway.limits != running {
            let message = "[limits] changed: run `gatewayctl detach` and restart gatewayd to apply them";
            warn!("{message}");
            self.status.faults.push(message.to_owned());
            policy.gateway.limits = running;
        }
        if let Err(error) = self.adopt_policy(policy) {
            error!("reload failed, the previous policies stay in force: {error:#}");
            self.status.faults.push(format!("{error:#}"));
        }
    }

    /// Puts a policy into force, or fails and keeps the previous one.
    fn adopt_policy(&mut self, mut policy: Policy) -> Result<()> {
        let gateway = &self.inputs.policy.gateway;
        ensure!(
            (&policy.gateway.internet, &policy.gateway.lan) == (&gateway.internet, &gateway.lan),
            "[interfaces] changed: restart gatewayd to apply them"
        );
        let (v4, v6) = policy.quotas();
        let capacity = (u64::from(self.sizes.flows), u64::from(self.sizes.flows6));
        ensure!(
            v4 <= capacity.0 && v6 <= capacity.1,
            "the customers' quotas need {v4} IPv4 and {v6} IPv6 flows, but the tables hold {} and {}: \
             run `gatewayctl detach` and restart gatewayd to create larger tables",
            capacity.0,
            capacity.1
        );
        let credentials = self.read_credentials(&mut policy)?;
        let planned = self.registry.plan(&policy)?;
        release(&mut self.maps, &planned)?;
        self.ids = self.registry.commit(planned)?;
        self.names = Names::new(&self.ids);
        info!("policies reloaded: {} customers with {} sites", policy.customers.len(), policy.site_count());
        let inputs = Inputs { policy, credentials, faults: Faults::default() };
        let previous = mem::replace(&mut self.inputs, Arc::new(inputs));
        let orders = self.follower.bindings_mut().set_sites(Sites::new(&self.inputs.policy, &self.ids));
        self.order(orders);
        self.session.set_up(self.inputs.setup());
        if let Err(error) = self.apply_additions(&previous.policy) {
            warn!("cannot apply the changes at once, reconciling everything instead: {error:#}");
        }
        Ok(())
    }

    /// Reads the credentials that the policy names. If they have faults, the previous ones stay in force, and
    /// the policy keeps naming them.
    fn read_credentials(&mut self, policy: &mut Policy) -> Result<Credentials> {
        let previous = &self.inputs.policy.gateway.ipsec;
        let check = policy::read_credentials(&policy.gateway, OffsetDateTime::now_utc());
        match check.credentials {
            Some(read) if check.faults.is_empty() => return Ok(loadable(read)),
            _ => error!("the previous credentials stay in force:\n{}", check.faults),
        }
        self.status.faults.extend(check.faults.lines());
        ensure!(
            policy.gateway.ipsec.identity == previous.identity,
            "the gateway's identity changed, but there are no credentials for it"
        );
        policy.gateway.ipsec = previous.clone();
        Ok(self.inputs.credentials.clone())
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
