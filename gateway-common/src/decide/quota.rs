//! Charging flows to their customer's quota.
use super::tables::{Tables, UsageCell};
use crate::{
    layout::{tunnel::Tunnel, usage::Quota},
    reason::Reason,
};

/// The cost of a new flow, out of its customer's quota.
#[derive(Clone, Copy)]
pub struct Charge {
    /// Flows.
    pub flows: u32,
    /// Half-open flows.
    pub half_open: u32,
}

/// Charges the quota, or fails if it has no room.
#[inline(always)]
pub fn take<T: Tables>(tables: &T, tunnel: &Tunnel, charge: Charge, now_ns: u64) -> Result<(), Reason> {
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
pub fn give_back<T: Tables>(tables: &T, customer: u32, charge: Charge) {
    if let Some(cell) = tables.usage(customer) {
        cell.locked(|usage| usage.give_back(charge.flows, charge.half_open));
    }
}

/// Releases the half-open charge of a flow whose handshake is complete.
#[inline(always)]
pub fn confirm<T: Tables>(tables: &T, customer: u32) {
    give_back(tables, customer, Charge { flows: 0, half_open: 1 });
}
