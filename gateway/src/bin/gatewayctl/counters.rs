//! `gatewayctl drops` and `gatewayctl counters`: packet counters by customer.
use anyhow::Result;
use gateway::kernel::{counted::Counted, maps::Maps};
use serde_json::json;

use crate::{
    names::{NOBODY, Names},
    report::Report,
    table::Table,
};

/// The counters of one customer; no name for packets that belong to no customer.
type CustomerCounters = (Option<String>, Counted);

/// Reports dropped packets by customer and reason.
pub fn drops(maps: &Maps, names: &Names) -> Result<Report> {
    Ok(drops_report(&read(maps, names)?))
}

/// Reports passed packets, opened connections and lost events by customer.
pub fn counters(maps: &Maps, names: &Names) -> Result<Report> {
    Ok(counters_report(&read(maps, names)?))
}

/// Reads the counters of all customers that have any.
fn read(maps: &Maps, names: &Names) -> Result<Vec<CustomerCounters>> {
    let all = (0..=maps.customer_limit()).map(|number| Ok((names.customer(number), maps.counted(number)?)));
    all.filter(|row| !matches!(row, Ok((_, counted)) if *counted == Counted::default())).collect()
}

fn drops_report(customers: &[CustomerCounters]) -> Report {
    let mut rows = Vec::new();
    let mut table = Table::new(["customer", "reason", "packets", "meaning"]).droppable(["meaning"]);
    for (customer, counted) in customers {
        for (reason, packets) in &counted.dropped {
            rows.push(json!({ "customer": customer, "reason": reason.name(), "packets": packets }));
            let customer = customer.as_deref().unwrap_or(NOBODY);
            let cells = [customer, reason.name(), &packets.to_string(), reason.sentence()];
            table.add_row(cells.map(str::to_owned));
        }
    }
    Report::table(rows, table)
}

fn counters_report(customers: &[CustomerCounters]) -> Report {
    let mut rows = Vec::new();
    let headings =
        ["customer", "to server", "to sites", "opened", "unknown SPI", "events lost", "drops counted as -"];
    let mut table = Table::new(headings).droppable(["drops counted as -", "events lost", "unknown SPI"]);
    for (customer, counted) in customers {
        let [to_server, to_sites] = counted.passed;
        let [bytes_to_server, bytes_to_sites] = counted.passed_bytes;
        rows.push(json!({
            "customer": customer, "to_server": to_server, "to_sites": to_sites,
            "bytes_to_server": bytes_to_server, "bytes_to_sites": bytes_to_sites, "opened": counted.opened,
            "unknown_spi": counted.unknown_spi, "events_lost": counted.events_lost,
            "drops_unattributed": counted.unattributed,
        }));
        table.add_row([
            customer.as_deref().unwrap_or(NOBODY).to_owned(),
            to_server.to_string(),
            to_sites.to_string(),
            counted.opened.to_string(),
            counted.unknown_spi.to_string(),
            counted.events_lost.to_string(),
            counted.unattributed.to_string(),
        ]);
    }
    Report::table(rows, table)
}

#[cfg(test)]
mod tests {
    use gateway_common::reason::Reason;

    use super::*;
    use crate::report::Format;

    /// Returns a customer with the longest possible name and the largest possible counters.
    fn extreme() -> Vec<CustomerCounters> {
        let counted = Counted {
            passed: [u64::MAX; 2],
            passed_bytes: [u64::MAX; 2],
            unknown_spi: u64::MAX,
            opened: u64::MAX,
            events_lost: u64::MAX,
            unattributed: u64::MAX,
            dropped: Reason::ALL.iter().map(|reason| (*reason, u64::MAX)).collect(),
        };
        vec![(None, counted.clone()), (Some("c".repeat(32)), counted)]
    }

    #[test]
    fn tables_fit_60_columns() {
        for report in [drops_report(&extreme()), counters_report(&extreme())] {
            let text = report.render(Format::Text(Some(60))).unwrap();
            assert!(text.lines().all(|line| line.chars().count() <= 60), "{text}");
        }
    }

    #[test]
    fn drops_at_80_columns_keep_the_meaning() {
        let counted = Counted { dropped: [(Reason::TunnelDown, 7)].into(), ..Counted::default() };
        let text =
            drops_report(&[(Some("acme".to_owned()), counted)]).render(Format::Text(Some(80))).unwrap();
        assert!(text.contains("meaning") && !text.contains("Not shown"), "{text}");
    }
}
