//! A customer's file: what each key says and where, with the rules that concern this file alone.
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;

use ipnet::Ipv4Net;
use toml::Spanned;
use toml::de::DeValue;

use super::{kept, read_port};
use crate::policy::fault::{Fault, Invalid, Source, bounded};
use crate::policy::keys::{Reader, Value};
use crate::policy::prefix::{parse_address, parse_prefix};
use crate::policy::{
    Customer, CustomerName, DEFAULT_SERVER_PORT, Identity, MAX_LAN_PREFIXES, Site, SiteName,
};

/// One of `customers/*.toml`. What is `None` is missing or has a fault.
#[derive(Clone, Debug)]
pub(in crate::policy) struct CustomerDocument {
    pub source: Source,
    pub name: CustomerName,
    pub server: Option<Spanned<Ipv4Addr>>,
    pub sites: Vec<SiteDocument>,
    /// `None` if the file has any fault.
    pub value: Option<Customer>,
}

/// One `[[site]]`.
#[derive(Clone, Debug)]
pub(in crate::policy) struct SiteDocument {
    pub name: Option<Spanned<SiteName>>,
    pub identity: Option<Spanned<Identity>>,
    pub lan: Vec<Spanned<Ipv4Net>>,
}

impl CustomerDocument {
    /// Reads the file and reports all its faults.
    pub fn read(source: Source, name: CustomerName) -> (Self, Vec<Fault>) {
        let text = source.text.clone().unwrap_or_default();
        let mut reader = Reader::new(&source);
        let root = reader.parse(&text);
        let root = reader.root(&root, &["server", "port", "site"]);
        let server = reader.required(&root, "server", "server = \"10.200.0.11\"");
        let server = server.and_then(|value| reader.text(value, parse_address));
        let port = reader.optional(&root, "port").map(|value| read_port(&mut reader, value));
        let port = port.unwrap_or(Some(DEFAULT_SERVER_PORT));
        let sites = reader.required(&root, "site", "[[site]]");
        let sites: Vec<SiteDocument> = match sites {
            Some(sites) => read_sites(&mut reader, sites),
            None => Vec::new(),
        };
        check_site_names(&mut reader, &sites);
        check_lans(&mut reader, &sites);
        let faults = bounded(&source, reader.faults);

        let value = || {
            Some(Customer {
                name: name.clone(),
                server: *server.as_ref()?.get_ref(),
                port: port?,
                sites: sites.iter().map(SiteDocument::value).collect::<Option<_>>()?,
            })
        };
        let value = if faults.is_empty() { value() } else { None };
        (Self { name, server, sites, value, source }, faults)
    }

    /// The last good version.
    pub fn keep(customer: &Customer, path: &Path) -> Self {
        let site = |site: &Site| SiteDocument {
            name: Some(kept(site.name.clone())),
            identity: Some(kept(site.identity.clone())),
            lan: site.lan.iter().copied().map(kept).collect(),
        };
        Self {
            source: Source { path: path.to_owned(), text: None },
            name: customer.name.clone(),
            server: Some(kept(customer.server)),
            sites: customer.sites.iter().map(site).collect(),
            value: Some(customer.clone()),
        }
    }
}

impl SiteDocument {
    fn value(&self) -> Option<Site> {
        Some(Site {
            name: self.name.as_ref()?.get_ref().clone(),
            identity: self.identity.as_ref()?.get_ref().clone(),
            lan: self.lan.iter().map(|prefix| *prefix.get_ref()).collect(),
        })
    }
}

fn read_sites(reader: &mut Reader, value: Value) -> Vec<SiteDocument> {
    if matches!(value.get_ref(), DeValue::Table(_)) {
        reader.fault(
            value.span(),
            Invalid::new("`site` is one table, but a customer may have many", "`[[site]]`"),
        );
        return Vec::new();
    }
    let sites = reader.array(value, "tables, each headed by `[[site]]`");
    if sites.is_empty() && matches!(value.get_ref(), DeValue::Array(_)) {
        reader.fault(value.span(), Invalid::new("the customer has no site", "at least one `[[site]]`"));
    }
    sites.into_iter().filter_map(|site| read_site(reader, site)).collect()
}

fn read_site(reader: &mut Reader, site: Value) -> Option<SiteDocument> {
    let table = reader.table(site, "this site", &["name", "identity", "lan"])?;
    let name = reader.required(&table, "name", "name = \"berlin\"");
    let name = name.and_then(|value| reader.text(value, str::parse));
    let identity = reader.required(&table, "identity", "identity = \"berlin.acme.example\"");
    let identity = identity.and_then(|value| reader.text(value, str::parse));
    let lan = reader.required(&table, "lan", "lan = [\"192.168.0.0/16\"]");
    let lan = lan.map_or_else(Vec::new, |lan| read_lan(reader, lan));
    Some(SiteDocument { name, identity, lan })
}

fn read_lan(reader: &mut Reader, value: Value) -> Vec<Spanned<Ipv4Net>> {
    let prefixes = reader.array(value, "an array of prefixes, such as `[\"192.168.0.0/16\"]`");
    if matches!(value.get_ref(), DeValue::Array(_)) && !(1..=MAX_LAN_PREFIXES).contains(&prefixes.len()) {
        let message = format!("a site with {} prefixes", prefixes.len());
        reader.fault(value.span(), Invalid::new(message, format!("1 to {MAX_LAN_PREFIXES} prefixes")));
        return Vec::new();
    }
    prefixes.into_iter().filter_map(|prefix| reader.text(prefix, parse_prefix)).collect()
}

fn check_site_names(reader: &mut Reader, sites: &[SiteDocument]) {
    let mut first = BTreeMap::new();
    for name in sites.iter().filter_map(|site| site.name.as_ref()) {
        if let Some(span) = first.get(name.get_ref()).cloned() {
            let message = format!("a second site `{}`, see {}", name.get_ref(), reader.source.place(span));
            reader
                .fault(name.span(), Invalid::new(message, "a name that no other site of this customer has"));
        } else {
            first.insert(name.get_ref(), name.span());
        }
    }
}

/// Sorted by address and then by length, a prefix comes after all those that contain it, and with
/// only other such prefixes in between.
fn check_lans(reader: &mut Reader, sites: &[SiteDocument]) {
    let mut lans: Vec<&Spanned<Ipv4Net>> = sites.iter().flat_map(|site| &site.lan).collect();
    lans.sort_by_key(|lan| (lan.get_ref().network(), lan.get_ref().prefix_len(), lan.span().start));
    let mut widest: Option<&Spanned<Ipv4Net>> = None;
    for lan in lans {
        match widest {
            Some(wide) if wide.get_ref().contains(lan.get_ref()) => {
                // The one further down in the file is the one to be changed.
                let (at, other) =
                    if lan.span().start > wide.span().start { (lan, wide) } else { (wide, lan) };
                let place = reader.source.place(other.span());
                let message = format!("`{}` overlaps `{}`, see {place}", at.get_ref(), other.get_ref());
                reader.fault(
                    at.span(),
                    Invalid::new(message, "prefixes that do not overlap within one customer"),
                );
            }
            _ => widest = Some(lan),
        }
    }
}
