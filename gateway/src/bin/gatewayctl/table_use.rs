//! Use of the flow tables, and of what removes flows from them, in `gatewayctl status`.
use std::collections::BTreeMap;

use anyhow::Result;
use gateway::kernel::{clock::monotonic_ns, maps::Maps};
use gateway_common::{
    layout::{Quota, Usage},
    time::Ticks,
    wheel::{SLOT_NS, SLOTS, Wheel},
};
use serde_json::{Value, json};

use crate::{names::Names, table::Table};

/// A customer's flows and quota.
pub struct CustomerUse {
    pub customer: String,
    pub usage: Usage,
    pub quota: Quota,
}

/// The state of the timing wheel that is worst off.
#[derive(Clone, Copy, Default)]
pub struct ExpiryState {
    /// Age of the last expiry run.
    pub silent_seconds: u64,
    /// How late ended flows are removed.
    pub behind_seconds: u64,
}

impl CustomerUse {
    /// Reads the use of each customer that has a site.
    pub fn read(maps: &Maps, names: &Names) -> Result<Vec<Self>> {
        // All tunnels of a customer hold the same quota.
        let quotas: BTreeMap<u32, Quota> =
            maps.tunnels()?.values().map(|tunnel| (tunnel.customer, tunnel.quota)).collect();
        let customers = quotas.into_iter().map(|(number, quota)| {
            let customer = names.customer(number).unwrap_or_default();
            Ok(Self { customer, usage: maps.usage(number)?, quota })
        });
        customers.collect()
    }

    pub fn json(&self) -> Value {
        json!({
            "customer": self.customer,
            "flows": self.usage.flows, "max_flows": self.quota.flows,
            "half_open": self.usage.half_open, "max_half_open": self.quota.half_open,
        })
    }

    pub fn table(all: &[Self]) -> Table {
        let mut table = Table::new(["customer", "flows", "half-open"]);
        for Self { customer, usage, quota } in all {
            table.add_row([
                customer.clone(),
                format!("{} of {}", usage.flows, quota.flows),
                format!("{} of {}", usage.half_open, quota.half_open),
            ]);
        }
        table
    }
}

impl ExpiryState {
    /// Age from which an expiry run is overdue. The timers fire about once a second.
    const OVERDUE_SECONDS: u64 = 10;
    /// A wheel that stays so far behind has more flows than it can visit in a turn.
    const LATE_SECONDS: u64 = 30;

    pub fn read(maps: &Maps) -> Result<Self> {
        Ok(Self::of(&maps.wheels()?, Ticks::from_ns(monotonic_ns())))
    }

    fn of(wheels: &[Wheel], now: Ticks) -> Self {
        let worst = |value: fn(&Wheel, Ticks) -> u64| wheels.iter().map(|wheel| value(wheel, now)).max();
        let silent_ns = worst(|wheel, now| now.since(wheel.ran).as_ns());
        // A hand that is further behind skips what lies more than a turn back.
        let behind_ns = worst(|wheel, now| u64::from(wheel.behind(now).min(SLOTS as u32)) * SLOT_NS);
        let seconds = |ns: Option<u64>| ns.unwrap_or_default() / 1_000_000_000;
        Self { silent_seconds: seconds(silent_ns), behind_seconds: seconds(behind_ns) }
    }

    /// Returns why the tables fill.
    pub fn fault(self) -> Option<String> {
        let Self { silent_seconds, behind_seconds } = self;
        if silent_seconds > Self::OVERDUE_SECONDS {
            return Some(format!(
                "no flow that has ended was removed for {silent_seconds} s on some CPU, so the tables fill: restart \
                 gatewayd"
            ));
        }
        (behind_seconds > Self::LATE_SECONDS).then(|| {
            format!(
                "flows that have ended are removed {behind_seconds} s late on some CPU, which has too many"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use gateway_common::wheel::slot_at;

    use super::*;

    /// Returns a wheel that ran, and whose hand is, this many seconds before a time.
    fn wheel(now: Ticks, silent: u32, behind: u32) -> Wheel {
        let before = |seconds| Ticks { ticks: now.ticks.wrapping_sub(Ticks::from_seconds(seconds).ticks) };
        // SAFETY: a wheel holds integers only.
        let zero: Wheel = unsafe { std::mem::zeroed() };
        Wheel { ran: before(silent), hand: slot_at(before(behind)), ..zero }
    }

    #[test]
    fn wheel_that_is_silent_or_late_is_a_fault() {
        for now in [Ticks { ticks: 1 << 20 }, Ticks { ticks: 100 }] {
            let state = |wheels: &[(u32, u32)]| {
                let wheels: Vec<Wheel> =
                    wheels.iter().map(|(silent, behind)| wheel(now, *silent, *behind)).collect();
                ExpiryState::of(&wheels, now)
            };
            assert_eq!(state(&[(1, 1), (2, 20)]).fault(), None);
            assert!(state(&[(1, 1), (12, 1)]).fault().is_some_and(|text| text.contains("removed for 1")));
            assert!(
                state(&[(1, 40), (1, 1)]).fault().is_some_and(|text| text.contains("s late on some CPU"))
            );
            assert_eq!(state(&[(1, 1), (12, 1)]).silent_seconds, 11, "ticks are rounded down");
        }
    }
}
