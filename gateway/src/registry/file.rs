//! The registry file: TOML, replaced atomically.
use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::ids::{Ids, TunnelName};
use super::pool::Entry;
use crate::policy::{CustomerName, Identity, SiteName};

const VERSION: u32 = 2;
/// The version before tunnels had identities.
const WITHOUT_IDENTITIES: u32 = 1;
const HEADER: &str = "# Ids of customers and tunnels, written by gatewayd. Live tunnels and pinned maps depend on this\n\
                      # file: do not change or remove it while the gateway is attached.\n";

/// The content of the file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u32,
    #[serde(default)]
    customer: Vec<CustomerRow>,
    #[serde(default)]
    tunnel: Vec<TunnelRow>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CustomerRow {
    id: u32,
    customer: CustomerName,
    #[serde(skip_serializing_if = "Option::is_none")]
    retired: Option<u32>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TunnelRow {
    id: u32,
    customer: CustomerName,
    site: SiteName,
    #[serde(skip_serializing_if = "Option::is_none")]
    identity: Option<Identity>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retired: Option<u32>,
}

impl Ids {
    /// Parses the file's content. The error describes the fault.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let document: Document =
            toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())?;
        if ![VERSION, WITHOUT_IDENTITIES].contains(&document.version) {
            return Err(format!("version is {}, expected {VERSION}", document.version));
        }
        let mut ids = Self::default();
        let entry = |id, retired| Entry { id, retired };
        ids.customers
            .restore(document.customer.into_iter().map(|row| (row.customer, entry(row.id, row.retired))))?;
        let tunnels = document.tunnel.into_iter();
        ids.tunnels.restore(
            tunnels.map(|row| (TunnelName(row.customer, row.site, row.identity), entry(row.id, row.retired))),
        )?;
        let mut sites = BTreeSet::new();
        if let Some((tunnel, _)) =
            ids.tunnels.in_use().find(|(tunnel, _)| !sites.insert((&tunnel.0, &tunnel.1)))
        {
            return Err(format!("tunnel {tunnel} has two ids"));
        }
        if let Some((tunnel, _)) =
            ids.tunnels.in_use().find(|(tunnel, _)| !ids.customers.is_in_use(&tunnel.0))
        {
            return Err(format!("tunnel {tunnel} is in use, but its customer is not"));
        }
        Ok(ids)
    }

    /// Returns the content of the file, rows in order of id.
    pub(super) fn to_text(&self) -> String {
        let mut document = Document { version: VERSION, customer: Vec::new(), tunnel: Vec::new() };
        for (customer, &Entry { id, retired }) in &self.customers.entries {
            document.customer.push(CustomerRow { id, customer: customer.clone(), retired });
        }
        for (TunnelName(customer, site, identity), &Entry { id, retired }) in &self.tunnels.entries {
            let (customer, site, identity) = (customer.clone(), site.clone(), identity.clone());
            document.tunnel.push(TunnelRow { id, customer, site, identity, retired });
        }
        document.customer.sort_by_key(|row| row.id);
        document.tunnel.sort_by_key(|row| row.id);
        let text = toml::to_string(&document).expect("numbers and names are TOML");
        format!("{HEADER}{text}")
    }
}
