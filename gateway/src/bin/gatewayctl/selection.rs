//! The flows that `gatewayctl flows` is asked for.
use std::{collections::BTreeSet, net::IpAddr};

use anyhow::{Context, Result, ensure};
use clap::Args;
use ipnet::IpNet;

use crate::names::Names;

/// Filters of flows. A flow has to pass all of them.
#[derive(Args, Default)]
pub struct Filters {
    /// Only this customer's flows
    #[arg(long, value_name = "NAME")]
    pub customer: Option<String>,
    /// Only flows of this site: `CUSTOMER.SITE`, or `SITE` of each customer that has one of this name
    #[arg(long, value_name = "NAME")]
    pub site: Option<String>,
    /// Only flows of this device or server: an address, or a prefix such as 192.168.0.0/16
    #[arg(long, value_name = "ADDRESS", value_parser = prefix)]
    pub address: Option<IpNet>,
}

/// The same by number, as the tables have it.
#[derive(Default)]
pub struct Selection {
    customer: Option<u32>,
    sites: Option<BTreeSet<u32>>,
    address: Option<IpNet>,
    /// Customers whose server has that address.
    servers: BTreeSet<u32>,
}

impl Selection {
    /// Finds the numbers, once. `customers_at` returns the customers whose server is in a prefix.
    pub fn new(
        filters: &Filters,
        names: &Names,
        customers_at: impl FnOnce(IpNet) -> Result<BTreeSet<u32>>,
    ) -> Result<Self> {
        let number = |name: &str| {
            names.customer_number(name).with_context(|| format!("no customer is named {name:?}"))
        };
        let (in_site, site) = match filters.site.as_deref().map(|site| (site, site.split_once('.'))) {
            Some((_, Some((customer, site)))) => (Some(customer), Some(site)),
            Some((site, None)) => (None, Some(site)),
            None => (None, None),
        };
        let customers = [filters.customer.as_deref(), in_site]
            .into_iter()
            .flatten()
            .map(number)
            .collect::<Result<Vec<_>>>()?;
        let mut selection = Self { customer: customers.first().copied(), ..Self::default() };
        if let Some(site) = site {
            let of_customers = |customer: &u32| customers.iter().all(|other| other == customer);
            let sites: BTreeSet<u32> = names
                .site_numbers(site)
                .filter(|(_, customer)| of_customers(customer))
                .map(|(number, _)| number)
                .collect();
            ensure!(!sites.is_empty(), "no site is named {:?}", filters.site.as_deref().unwrap_or_default());
            selection.sites = Some(sites);
        }
        if let Some(net) = filters.address {
            (selection.address, selection.servers) = (Some(net), customers_at(net)?);
        }
        Ok(selection)
    }

    /// Returns true if a flow is asked for.
    pub fn has(&self, customer: u32, site: u32, device: IpAddr) -> bool {
        self.customer.is_none_or(|wanted| wanted == customer)
            && self.sites.as_ref().is_none_or(|sites| sites.contains(&site))
            && self.address.is_none_or(|net| net.contains(&device) || self.servers.contains(&customer))
    }
}

/// Parses a prefix, or an address as the prefix of it alone.
fn prefix(text: &str) -> Result<IpNet, String> {
    let address = || text.parse::<IpAddr>().map(IpNet::from);
    text.parse().or_else(|_| address()).map_err(|_| "expected an address or a prefix".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICE: &str = "192.168.1.2";

    fn select(customer: Option<&str>, site: Option<&str>, address: Option<&str>) -> Result<Selection> {
        let filters = Filters {
            customer: customer.map(str::to_owned),
            site: site.map(str::to_owned),
            address: address.map(|text| prefix(text).unwrap()),
        };
        let names = Names::of(&["acme", "globex"]);
        // globex's server.
        let server: IpAddr = "10.200.0.12".parse()?;
        Selection::new(&filters, &names, |net| Ok(net.contains(&server).then_some(2).into_iter().collect()))
    }

    /// Returns the sites of those flows that are asked for, of one in each site.
    fn sites(customer: Option<&str>, site: Option<&str>, address: Option<&str>) -> Vec<u32> {
        let selection = select(customer, site, address).unwrap();
        let flows = [(1, 10), (1, 11), (2, 20), (2, 21)];
        let asked = flows
            .into_iter()
            .filter(|(customer, site)| selection.has(*customer, *site, DEVICE.parse().unwrap()));
        asked.map(|(_, site)| site).collect()
    }

    #[test]
    fn flows_are_selected_by_customer_and_site() {
        assert_eq!(sites(None, None, None), [10, 11, 20, 21]);
        assert_eq!(sites(Some("globex"), None, None), [20, 21]);
        assert_eq!(sites(None, Some("berlin"), None), [10, 20]);
        assert_eq!(sites(None, Some("acme.berlin"), None), [10]);
        assert_eq!(sites(Some("globex"), Some("berlin"), None), [20]);
    }

    #[test]
    fn flows_are_selected_by_the_address_of_device_or_server() {
        assert_eq!(sites(None, None, Some(DEVICE)), [10, 11, 20, 21]);
        assert_eq!(sites(None, None, Some("192.168.0.0/16")), [10, 11, 20, 21]);
        assert_eq!(sites(None, None, Some("192.168.1.3")), [0; 0]);
        assert_eq!(sites(None, None, Some("10.200.0.0/24")), [20, 21]);
        assert_eq!(sites(Some("acme"), None, Some("10.200.0.12")), [0; 0]);
        assert_eq!(sites(None, None, Some("::/0")), [0; 0]);
    }

    #[test]
    fn unknown_names_are_errors() {
        let error = |customer, site| match select(customer, site, None) {
            Err(error) => error.to_string(),
            Ok(_) => "none".to_owned(),
        };
        assert_eq!(error(Some("nobody"), None), "no customer is named \"nobody\"");
        assert_eq!(error(None, Some("nobody.berlin")), "no customer is named \"nobody\"");
        assert_eq!(error(None, Some("acme.rome")), "no site is named \"acme.rome\"");
        assert_eq!(error(Some("acme"), Some("globex.berlin")), "no site is named \"globex.berlin\"");
        assert!(prefix("berlin").is_err() && prefix("10.0.0.0/33").is_err());
    }
}
