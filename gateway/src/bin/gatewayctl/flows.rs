//! `gatewayctl flows`: the connections in the flow tables.
use std::{collections::BTreeMap, net::SocketAddr};

use anyhow::Result;
use gateway::kernel::{clock::monotonic_ns, maps::Maps};
use gateway_common::{
    family::Family,
    tcp::{Flow, FlowKey, State, status},
    time::Ticks,
    wire::{Ipv4, Ipv6},
};
use serde_json::{Value, json};

use crate::{names::Names, report::Report, table::Table};

/// Reports the flows of both address families.
pub fn report(maps: &Maps, names: Names) -> Result<Report> {
    let generations = maps.tunnels()?.into_iter().map(|(id, tunnel)| (id.get(), tunnel.generation)).collect();
    let mut list = FlowList::new(names, generations, Ticks::from_ns(monotonic_ns()));
    maps.flows::<Ipv4>().try_for_each(|flow| flow.map(|(key, flow)| list.add(&key, &flow)))?;
    maps.flows::<Ipv6>().try_for_each(|flow| flow.map(|(key, flow)| list.add(&key, &flow)))?;
    Ok(Report::table(list.rows, list.table))
}

/// Flows on their way to the output.
struct FlowList {
    names: Names,
    /// Policy generations by tunnel number.
    generations: BTreeMap<u32, u16>,
    now: Ticks,
    rows: Vec<Value>,
    table: Table,
}

impl FlowList {
    fn new(names: Names, generations: BTreeMap<u32, u16>, now: Ticks) -> Self {
        let table = Table::new(["customer", "tunnel", "device", "state", "ends in", "handshake"])
            .droppable(["handshake", "tunnel", "ends in"]);
        Self { names, generations, now, rows: Vec::new(), table }
    }

    fn add<A: Family>(&mut self, key: &FlowKey<A>, flow: &Flow) {
        let state = State::from_number(flow.state()).map_or("ending", State::name);
        let device = SocketAddr::new(key.lan_address.mapped().into(), key.lan_port);
        let customer = self.names.customer(key.customer);
        let left_seconds = flow.expires.since(self.now).as_ns() / 1_000_000_000;
        let of_this_policy = self.generations.get(&flow.tunnel) == Some(&flow.generation);
        let over = flow.is_over(self.now) || !of_this_policy;
        let handshake = match (flow.has(status::HALF_OPEN), flow.has(status::ASSURED)) {
            (true, _) => "half-open",
            (false, true) => "complete",
            (false, false) => "not seen",
        };
        self.table.add_row([
            customer.clone().unwrap_or_default(),
            flow.tunnel.to_string(),
            device.to_string(),
            state.to_owned(),
            if over { "over".to_owned() } else { format!("{left_seconds} s") },
            handshake.to_owned(),
        ]);
        self.rows.push(json!({
            "customer": customer, "tunnel": flow.tunnel,
            "lan_address": device.ip(), "lan_port": key.lan_port,
            "state": state, "over": over, "ends_in_seconds": left_seconds, "handshake": handshake,
            "generation": flow.generation, "retransmissions": flow.retransmissions(),
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Format;

    #[test]
    fn table_fits_60_columns() {
        let names = Names::of(&["acme", &"c".repeat(32)]);
        let mut list = FlowList::new(names, BTreeMap::new(), Ticks::from_ns(0));
        let flow = Flow { tunnel: 1_000_000, ..Flow::default() };
        for customer in [1, 2] {
            let lan_address = Ipv6::from(std::net::Ipv6Addr::from([0xfdab; 8]));
            list.add(&FlowKey { customer, lan_address, lan_port: 65_535, ..FlowKey::default() }, &flow);
        }
        let text = Report::table(list.rows, list.table).render(Format::Text(Some(60))).unwrap();
        assert!(text.lines().all(|line| line.chars().count() <= 60), "{text}");
    }
}
