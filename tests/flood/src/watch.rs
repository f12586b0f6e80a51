//! Observes the gateway during a flood: the attacker's usage, and drop events by customer.
use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::Duration,
};

use anyhow::{Result, ensure};
use gateway_common::{layout::DropEvent, reason::Reason};

use super::{
    firewall::{Gateway, Held},
    party::ATTACKER,
};

/// The observations.
#[derive(Default)]
pub struct Seen {
    /// The attacker's largest usage at any one time.
    pub attacker: Held,
    /// Drop events by customer (0 without a customer) and reason.
    pub events: BTreeMap<(u32, Option<Reason>), u64>,
}

impl Seen {
    /// Returns the number of events of a customer.
    pub fn events_of(&self, customer: u32) -> u64 {
        self.events.iter().filter(|((whose, _), _)| *whose == customer).map(|(_, count)| count).sum()
    }
}

/// Observes until stopped, and once more after that.
pub fn watch(gateway: &Gateway, stop: &AtomicBool) -> Result<Seen> {
    const PAUSE: Duration = Duration::from_millis(10);
    let mut seen = Seen::default();
    let mut ring = gateway.events()?;
    loop {
        let last = stop.load(Relaxed);
        let now = gateway.usage(ATTACKER)?;
        seen.attacker.flows = seen.attacker.flows.max(now.flows);
        seen.attacker.half_open = seen.attacker.half_open.max(now.half_open);
        while let Some(item) = ring.next() {
            ensure!(item.len() == size_of::<DropEvent>(), "an event has {} bytes", item.len());
            // SAFETY: the bytes are as many as a DropEvent has, which is integers only.
            let event = unsafe { item.as_ptr().cast::<DropEvent>().read_unaligned() };
            *seen.events.entry((event.customer, Reason::from_number(event.reason))).or_default() += 1;
        }
        if last {
            return Ok(seen);
        }
        thread::sleep(PAUSE);
    }
}
