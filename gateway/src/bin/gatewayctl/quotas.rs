//! `gatewayctl quotas`: use of the customers' quotas and of their sites' shares.
use std::path::Path;

use anyhow::Result;
use gateway::{kernel::maps::Maps, registry::Registry};
use gateway_common::layout::{Quota, Share, Tunnel, Usage};
use serde_json::json;

use crate::{report::Report, table::Table};

/// The use of a customer's quota, or of a site's share of it.
#[derive(PartialEq, Eq, Debug)]
struct Use {
    customer: String,
    /// The site's name; `None` for the customer's quota.
    site: Option<String>,
    flows: Taken,
    half_open: Taken,
}

/// An amount taken, and the most that may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Taken {
    now: u32,
    most: u32,
}

/// Reports the quotas of all customers in the maps, and the shares of their sites.
pub fn report(maps: &Maps, state: &Path) -> Result<Report> {
    let ids = Registry::open(state.join("ids.toml"))?.assignment();
    let mut uses = Vec::new();
    for (customer, ids) in ids.iter() {
        let mut sites = Vec::new();
        for (site, id) in &ids.tunnels {
            let tunnel = maps.tunnel(*id)?;
            if tunnel.customer == ids.id.get() {
                sites.push(Use::of_site(
                    customer.to_string(),
                    site.to_string(),
                    &tunnel,
                    maps.share(id.get())?,
                ));
                // All sites of a customer hold the same quota.
                if sites.len() == 1 {
                    uses.push(Use::of_customer(
                        customer.to_string(),
                        tunnel.quota,
                        maps.usage(ids.id.get())?,
                    ));
                }
            }
        }
        uses.append(&mut sites);
    }
    Ok(table(&uses))
}

impl Use {
    fn of_customer(customer: String, quota: Quota, usage: Usage) -> Self {
        let flows = Taken { now: usage.flows, most: quota.flows };
        Self { customer, site: None, flows, half_open: Taken { now: usage.half_open, most: quota.half_open } }
    }

    fn of_site(customer: String, site: String, tunnel: &Tunnel, usage: Usage) -> Self {
        let Tunnel { share: Share { flows, half_open }, quota, .. } = tunnel;
        // The site's number may have been another customer's, and the site has opened nothing since.
        let own = |taken| if usage.customer == tunnel.customer { taken } else { 0 };
        Self {
            customer,
            site: Some(site),
            flows: Taken { now: own(usage.flows), most: *flows.min(&quota.flows) },
            half_open: Taken { now: own(usage.half_open), most: *half_open.min(&quota.half_open) },
        }
    }
}

fn table(uses: &[Use]) -> Report {
    let mut rows = Vec::new();
    let mut table = Table::new(["customer", "site", "flows", "half-open"]);
    for Use { customer, site, flows, half_open } in uses {
        rows.push(json!({
            "customer": customer, "site": site,
            "flows": flows.now, "max_flows": flows.most,
            "half_open": half_open.now, "max_half_open": half_open.most,
        }));
        let taken = |Taken { now, most }: &Taken| format!("{now} of {most}");
        let site = site.clone().unwrap_or_else(|| "all".to_owned());
        table.add_row([customer.clone(), site, taken(flows), taken(half_open)]);
    }
    Report::table(rows, table)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Format;

    fn berlin(customer: u32, usage: Usage) -> Use {
        let quota = Quota { flows: 100, half_open: 50, ..Quota::default() };
        let tunnel =
            Tunnel { customer, quota, share: Share { flows: 40, ..Share::WHOLE }, ..Tunnel::default() };
        Use::of_site("acme".into(), "berlin".into(), &tunnel, usage)
    }

    #[test]
    fn share_is_at_most_the_quota() {
        let usage = Usage { customer: 1, flows: 7, half_open: 3, ..Usage::default() };
        let Use { flows, half_open, .. } = berlin(1, usage);
        assert_eq!((flows, half_open), (Taken { now: 7, most: 40 }, Taken { now: 3, most: 50 }));
    }

    #[test]
    fn use_of_the_numbers_former_customer_is_not_shown() {
        let usage = Usage { customer: 2, flows: 7, half_open: 3, ..Usage::default() };
        let Use { flows, half_open, .. } = berlin(1, usage);
        assert_eq!((flows.now, half_open.now), (0, 0));
    }

    #[test]
    fn table_fits_60_columns() {
        let most = Taken { now: 16_777_215, most: 16_777_215 };
        let (customer, site) = ("c".repeat(32), Some("s".repeat(32)));
        let longest = Use { customer, site, flows: most, half_open: most };
        let all = Use::of_customer("acme".into(), Quota::default(), Usage::default());
        let text = table(&[all, longest]).render(Format::Text(Some(60))).unwrap();
        assert!(text.lines().all(|line| line.chars().count() <= 60), "{text}");
        assert!(text.contains("all") && text.contains("0 of 0"), "{text}");
    }
}
