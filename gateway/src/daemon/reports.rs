//! Handles what charon's session reports.
use anyhow::Result;
use tracing::{error, info, warn};

use super::Daemon;
use crate::{
    control::{
        apply::apply_all,
        bindings::Order,
        desired::{Links, desired_site},
        follow::Audit,
        observed::observe_live,
        plan::{Followed, plan_live},
    },
    kernel::programs::XdpState,
    session::Report,
    strongswan::IkeSa,
};

/// Message while charon is connected but hangs.
const SILENT: &str = "charon does not answer: tunnels keep their state, and no site can connect";

impl Daemon {
    /// Handles a report of the session, in a time independent of the number of sites unless it is a list of all SAs.
    pub(super) fn handle_report(&mut self, report: Report) {
        let orders = match report {
            Report::Connected(version, orders) => {
                info!(version, "charon is connected");
                (self.version, self.status.charon_fault, self.orders) = (Some(version), None, Some(orders));
                return;
            }
            Report::Lost(reason) => {
                warn!("charon is not connected, tunnels keep their state: {reason}");
                (self.version, self.status.charon, self.orders) = (None, None, None);
                self.status.charon_fault = Some(reason);
                return self.follower.lose_sight();
            }
            Report::Answering(answering) => {
                if !answering {
                    warn!("{SILENT}");
                }
                self.status.charon_fault = (!answering).then(|| SILENT.to_owned());
                return;
            }
            Report::Restored(_) => {
                self.status.restored += 1;
                return;
            }
            Report::Failed(reason) => {
                if let Some(reason) =
                    reason.as_ref().filter(|reason| self.setup_failed.as_ref() != Some(*reason))
                {
                    error!("charon: {reason}");
                }
                self.setup_failed = reason;
                return;
            }
            Report::Anew(cleared) => {
                self.follower.start_anew();
                match self.reconcile() {
                    // The session goes on once every binding is gone from the maps.
                    Ok(()) if self.maps.bindings().is_ok_and(|bindings| bindings.is_empty()) => {
                        let _ = cleared.send(());
                    }
                    Ok(()) => error!("bindings of an earlier charon are left: trying again"),
                    Err(error) => error!("reconcile: {error:#}"),
                }
                return;
            }
            Report::Listing => return self.follower.begin_audit(),
            Report::Listed(list) => {
                for fault in &list.faults {
                    warn!("ignoring charon's SA {}: {}", fault.name, fault.reason);
                }
                return self.audit(&list.sas);
            }
            Report::Looked(unique_id, list) => self.follower.bindings_mut().look(unique_id, &list.sas),
            Report::Event(event) => self.follower.event(event),
        };
        self.order(orders);
        if let Err(error) = self.apply_live() {
            error!("{error:#}");
        }
    }

    /// Takes the list of all SAs, or asks for another one if it may be incomplete.
    fn audit(&mut self, list: &[IkeSa]) {
        match self.follower.end_audit(list) {
            Audit::Again => self.session.resync(),
            Audit::Done(orders) => {
                // From now on charon has its connection, and its SAs are followed.
                self.status.charon = self.version.clone();
                self.order(orders);
                if let Err(error) = self.reconcile() {
                    error!("reconcile: {error:#}");
                }
            }
        }
    }

    /// Hands orders to charon. If it does not take them, the next list of all SAs leads to them again.
    pub(super) fn order(&self, orders: Vec<Order>) {
        for order in orders {
            if let Some(charon) = &self.orders
                && charon.try_send(order).is_err()
            {
                warn!("charon does not take orders");
                return;
            }
        }
    }

    /// Brings the entries that events have touched in line, in a time independent of the number of sites.
    fn apply_live(&mut self) -> Result<()> {
        let keys = self.follower.bindings_mut().take_touched();
        if keys.is_empty() || !self.follower.has_begun() {
            return Ok(());
        }
        let bindings = self.follower.bindings();
        let links = Links {
            internet: &self.interfaces.0,
            lan: &self.interfaces.1,
            xdp: self.plane.xdp() == XdpState::Native,
        };
        let site =
            |id| desired_site(&self.inputs.policy, &self.ids, links, &bindings.sites().rule(id)?.place);
        let followed = Followed { live: bindings.live(), learnt: &self.learnt };
        let observed = observe_live(&self.maps, &keys)?;
        let actions = plan_live(&keys, &observed, followed, site);
        let mut failed = None;
        apply_all(&actions, &mut self.maps, |action, result| match result {
            Ok(()) => info!("{action}"),
            Err(error) => failed = Some(error),
        });
        failed.map_or(Ok(()), Err)
    }
}
