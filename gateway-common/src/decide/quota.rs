//! Charging flows to their site's share and their customer's quota.
use super::{
    identity::Site,
    tables::{Tables, UsageCell},
};
use crate::{
    layout::{
        tunnel::Tunnel,
        usage::{Quota, Share},
    },
    reason::Reason,
};

/// The cost of a flow.
#[derive(Clone, Copy)]
pub struct Charge {
    /// Flows.
    pub flows: u32,
    /// Half-open flows.
    pub half_open: u32,
}

/// The cost of a new flow.
#[derive(Clone, Copy)]
pub struct Charges {
    /// Out of the customer's quota.
    pub customer: Charge,
    /// Out of the site's share: more if the new flow takes the place of another site's.
    pub site: Charge,
}

/// Charges the site's share and the customer's quota, or neither if one of them has no room. The share comes
/// first: a site that exceeds it spends nothing of the customer's budget for new flows.
#[inline(always)]
pub fn take<T: Tables>(tables: &T, site: &Site, charges: Charges, now_ns: u64) -> Result<(), Reason> {
    let (tunnel, number) = (site.tunnel, site.id.get());
    take_share(tables, number, tunnel, charges.site, now_ns)?;
    let taken = take_quota(tables, tunnel, charges.customer, now_ns);
    if taken.is_err() {
        give_back_share(tables, tunnel.customer, number, charges.site);
    }
    taken
}

/// Charges the site's share, or fails if it has no room. Out of line: keeps its locals off the caller's 512-byte
/// stack.
#[inline(never)]
fn take_share<T: Tables>(
    tables: &T,
    number: u32,
    tunnel: &Tunnel,
    charge: Charge,
    now_ns: u64,
) -> Result<(), Reason> {
    let Share { flows, half_open } = tunnel.share;
    let limits_flows = flows < tunnel.quota.flows;
    let limits_half_open = half_open < tunnel.quota.half_open;
    // Outside of the lock, which is held as briefly as possible.
    let interval_ns = interval_ns(&tunnel.quota, half_open);
    let cell = tables.share(number).ok_or(Reason::SiteFlowQuotaExceeded)?;
    cell.locked(|usage| {
        usage.adopt(tunnel.customer);
        if limits_flows && usage.flows + charge.flows > flows {
            return Err(Reason::SiteFlowQuotaExceeded);
        }
        if limits_half_open {
            if usage.half_open + charge.half_open > half_open {
                return Err(Reason::SiteHalfOpenQuotaExceeded);
            }
            if !usage.new_flows.take(interval_ns, half_open, now_ns) {
                return Err(Reason::SiteNewFlowsOverBudget);
            }
        }
        usage.flows += charge.flows;
        usage.half_open += charge.half_open;
        Ok(())
    })
}

/// Returns the nanoseconds between a site's new flows at the sustained rate: the customer's rate in proportion
/// to the site's share of half-open flows.
#[inline(always)]
fn interval_ns(quota: &Quota, half_open: u32) -> u64 {
    let share = if half_open == 0 { 1 } else { half_open };
    u64::from(quota.new_flow_interval_ns) * u64::from(quota.half_open) / u64::from(share)
}

/// Charges the customer's quota, or fails if it has no room. Out of line, as [`take_share`].
#[inline(never)]
fn take_quota<T: Tables>(tables: &T, tunnel: &Tunnel, charge: Charge, now_ns: u64) -> Result<(), Reason> {
    let Quota { flows, half_open, new_flow_interval_ns, new_flow_burst } = tunnel.quota;
    let cell = tables.usage(tunnel.customer).ok_or(Reason::FlowQuotaExceeded)?;
    cell.locked(|usage| {
        if usage.flows + charge.flows > flows {
            return Err(Reason::FlowQuotaExceeded);
        }
        if usage.half_open + charge.half_open > half_open {
            return Err(Reason::HalfOpenQuotaExceeded);
        }
        if !usage.new_flows.take(u64::from(new_flow_interval_ns), new_flow_burst, now_ns) {
            return Err(Reason::NewFlowsOverBudget);
        }
        usage.flows += charge.flows;
        usage.half_open += charge.half_open;
        Ok(())
    })
}

/// Undoes a charge.
#[inline(always)]
pub fn give_back<T: Tables>(tables: &T, customer: u32, site: u32, charges: Charges) {
    if let Some(cell) = tables.usage(customer) {
        let Charge { flows, half_open } = charges.customer;
        cell.locked(|usage| usage.give_back(flows, half_open));
    }
    give_back_share(tables, customer, site, charges.site);
}

/// Returns a customer's flows to the share of the site that they were charged to. Returns nothing if the site's
/// number is another customer's now: its count starts anew with it.
#[inline(always)]
pub fn give_back_share<T: Tables>(tables: &T, customer: u32, site: u32, charge: Charge) {
    if let Some(cell) = tables.share(site) {
        cell.locked(|usage| usage.give_back_share(customer, charge.flows, charge.half_open));
    }
}

/// Releases the half-open charge of a flow whose handshake is complete.
#[inline(always)]
pub fn confirm<T: Tables>(tables: &T, customer: u32, site: u32) {
    let charge = Charge { flows: 0, half_open: 1 };
    give_back(tables, customer, site, Charges { customer: charge, site: charge });
}
