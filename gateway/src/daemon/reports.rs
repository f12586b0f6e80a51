//! Handles what charon's session reports.
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
    failures::Attempt,
    kernel::{clock::monotonic_ns, programs::XdpState},
    session::Report,
    strongswan::IkeSa,
};
use anyhow::Result;

/// Message while charon is connected but hangs.
const SILENT: &str = "charon does not answer: tunnels keep their state, and no site can connect";

impl Daemon {
    /// Handles a report of the session, in a time independent of the number of sites unless it is a list of all SAs.
    pub(super) fn handle_report(&mut self, report: Report) {
        let orders = match report {
            Report::Connected(version, orders) => {
                self.logs.charon(&format!("charon {version} is connected"));
                (self.version, self.orders) = (Some(version), Some(orders));
                return self.status.set_charon(None, None);
            }
            Report::Lost(reason) => {
                self.logs.charon(&format!("charon is not connected, tunnels keep their state: {reason}"));
                (self.version, self.orders) = (None, None);
                self.status.set_charon(None, Some(reason));
                return self.follower.lose_sight();
            }
            Report::Answering(answering) => {
                self.logs.charon(if answering { "charon answers again" } else { SILENT });
                let version = self.status.charon.clone();
                return self.status.set_charon(version, (!answering).then(|| SILENT.to_owned()));
            }
            Report::Restored(_) => {
                self.status.restored += 1;
                return;
            }
            Report::Failed(reason) => {
                let attempt = reason.map(|reason| Attempt::from(format!("charon: {reason}")));
                let lines = self.setup_failures.take(attempt.unwrap_or_default());
                return self.logs.failures(&lines);
            }
            Report::Anew(cleared) => {
                self.logs.forget_orders();
                self.follower.start_anew();
                self.try_reconcile();
                // The session goes on once every binding is gone from the maps.
                if self.maps.bindings().is_ok_and(|bindings| bindings.is_empty()) {
                    let _ = cleared.send(());
                } else {
                    self.logs.failures(&["bindings of an earlier charon are left: trying again".to_owned()]);
                }
                return;
            }
            Report::Listing => {
                self.listing_since_ns = monotonic_ns();
                return self.follower.begin_audit();
            }
            Report::Listed(list) => {
                let now_ns = monotonic_ns();
                self.status.audited_ns = Some(now_ns);
                self.status.audit_took_ms = now_ns.saturating_sub(self.listing_since_ns) / 1_000_000;
                for fault in &list.faults {
                    self.logs.refusal(&format!("ignoring charon's SA {:?}: {}", fault.name, fault.reason));
                }
                return self.audit(&list.sas);
            }
            Report::Looked(unique_id, list) => self.follower.bindings_mut().look(unique_id, &list.sas),
            Report::Event(event) => self.follower.event(event),
        };
        self.order(orders);
        if let Err(error) = self.apply_live() {
            // A reconciliation tries again, and the status tells of it if that fails, too.
            self.unapplied = true;
            self.logs.failures(&[format!("{error:#}")]);
        }
    }

    /// Takes the list of all SAs, or asks for another one if it may be incomplete.
    fn audit(&mut self, list: &[IkeSa]) {
        match self.follower.end_audit(list) {
            Audit::Again => self.session.resync(),
            Audit::Done(orders) => {
                // From now on charon has its connection, and its SAs are followed.
                let fault = self.status.charon_fault.clone();
                self.status.set_charon(self.version.clone(), fault);
                self.order(orders);
                self.sites_file.all();
                self.try_reconcile();
            }
        }
    }

    /// Hands orders to charon. If it does not take them, the next list of all SAs leads to them again.
    pub(super) fn order(&mut self, orders: Vec<Order>) {
        for order in orders {
            let Some(charon) = &self.orders else { return };
            if charon.try_send(order.clone()).is_err() {
                // The list that follows leads to the rest of them.
                self.logs
                    .refusal("charon has too many orders to carry out: listing its SAs once they are done");
                self.session.resync();
                return;
            }
            self.logs.order(&order);
        }
    }

    /// Brings the entries that events have touched in line, in a time independent of the number of sites.
    fn apply_live(&mut self) -> Result<()> {
        let keys = self.follower.bindings_mut().take_touched();
        if keys.is_empty() || !self.follower.has_begun() {
            return Ok(());
        }
        self.sites_file.changed(keys.sites.iter().copied());
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
            Ok(()) => self.logs.change(action),
            Err(error) => failed = Some(error),
        });
        failed.map_or(Ok(()), Err)
    }
}
