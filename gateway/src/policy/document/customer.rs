//! A customer's file: what each key says and where, with the rules that concern this file alone.
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;
use toml::Spanned;
use toml::de::DeValue;

use super::{Families, kept, read_port};
use crate::policy::fault::{Fault, Invalid, Source, bounded};
use crate::policy::keys::{Reader, Table, Value};
use crate::policy::prefix::{family, is_v4, parse_address, parse_prefix};
use crate::policy::{
    Customer, CustomerName, DEFAULT_SERVER_PORT, Identity, Limits, MAX_LAN_PREFIXES, Quota, Site, SiteName,
};

/// RFC 791: every host takes a packet of 576 bytes. Jumbo frames have 9000.
const PATH_MTU_BYTES: std::ops::RangeInclusive<u32> = 576..=9000;

/// One of `customers/*.toml`. What is `None` is missing or has a fault.
#[derive(Clone, Debug)]
pub(in crate::policy) struct CustomerDocument {
    pub source: Source,
    pub name: CustomerName,
    pub server: Families<IpAddr>,
    /// What stands in the file; of a number with a fault nothing does.
    pub quota: Quota,
    pub sites: Vec<SiteDocument>,
    /// `None` if the file has any fault.
    pub value: Option<Customer>,
}

/// One `[[site]]`.
#[derive(Clone, Debug)]
pub(in crate::policy) struct SiteDocument {
    pub name: Option<Spanned<SiteName>>,
    pub identity: Option<Spanned<Identity>>,
    pub lan: Vec<Spanned<IpNet>>,
    pub path_mtu: Option<u16>,
}

impl CustomerDocument {
    /// Reads the file and reports all its faults.
    pub fn read(source: Source, name: CustomerName) -> (Self, Vec<Fault>) {
        let text = source.text.clone().unwrap_or_default();
        let mut reader = Reader::new(&source);
        let root = reader.parse(&text);
        let known = ["server", "port", "max_flows", "max_half_open", "new_flows_per_second", "site"];
        let root = reader.root(&root, &known);
        let server = reader.required(&root, "server", "server = \"10.200.0.11\"");
        let server = server.map_or_else(Families::missing, |value| {
            Families::read(&mut reader, value, "address", parse_address, IpAddr::is_ipv4)
        });
        let port = reader.optional(&root, "port").map(|value| read_port(&mut reader, value));
        let port = port.unwrap_or(Some(DEFAULT_SERVER_PORT));
        let quota = read_quota(&mut reader, &root);
        let sites = reader.required(&root, "site", "[[site]]");
        let sites: Vec<SiteDocument> = match sites {
            Some(sites) => read_sites(&mut reader, sites),
            None => Vec::new(),
        };
        check_site_names(&mut reader, &sites);
        check_lans(&mut reader, &sites);
        check_families(&mut reader, &server, &sites);
        let faults = bounded(&source, reader.faults);

        let value = || {
            Some(Customer {
                name: name.clone(),
                server: server.whole.then(|| server.iter().copied().collect())?,
                port: port?,
                quota,
                sites: sites.iter().map(SiteDocument::value).collect::<Option<_>>()?,
            })
        };
        let value = if faults.is_empty() { value() } else { None };
        (Self { name, server, quota, sites, value, source }, faults)
    }

    /// The last good version.
    pub fn keep(customer: &Customer, path: &Path) -> Self {
        let site = |site: &Site| SiteDocument {
            name: Some(kept(site.name.clone())),
            identity: Some(kept(site.identity.clone())),
            lan: site.lan.iter().copied().map(kept).collect(),
            path_mtu: site.path_mtu,
        };
        Self {
            source: Source { path: path.to_owned(), text: None },
            name: customer.name.clone(),
            server: Families::keep(customer.server.addresses()),
            quota: customer.quota,
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
            path_mtu: self.path_mtu,
        })
    }
}

fn read_quota(reader: &mut Reader, root: &Table) -> Quota {
    let mut number = |key, max, unit| {
        let value = reader.optional(root, key)?;
        reader.number(value, 1..=max, unit)
    };
    let flows = number("max_flows", Limits::MAX_FLOWS, " flows");
    let half_open = number("max_half_open", Limits::MAX_FLOWS, " flows");
    let per_second = number("new_flows_per_second", Quota::MAX_NEW_FLOWS_PER_SECOND, " flows a second");
    if let (Some(flows), Some(half_open)) = (&flows, &half_open)
        && half_open.get_ref() > flows.get_ref()
    {
        let message = format!("`{}` half-open flows of {} at most", half_open.get_ref(), flows.get_ref());
        reader.fault(half_open.span(), Invalid::new(message, "no more than `max_flows`"));
    }
    let number = |number: Option<Spanned<u32>>| number.map(Spanned::into_inner);
    Quota {
        max_flows: number(flows),
        max_half_open: number(half_open),
        new_flows_per_second: number(per_second),
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
    let table = reader.table(site, "this site", &["name", "identity", "lan", "path_mtu"])?;
    let name = reader.required(&table, "name", "name = \"berlin\"");
    let name = name.and_then(|value| reader.text(value, str::parse));
    let identity = reader.required(&table, "identity", "identity = \"berlin.acme.example\"");
    let identity = identity.and_then(|value| reader.text(value, str::parse));
    let lan = reader.required(&table, "lan", "lan = [\"192.168.0.0/16\"]");
    let lan = lan.map_or_else(Vec::new, |lan| read_lan(reader, lan));
    let path_mtu = reader.optional(&table, "path_mtu");
    let path_mtu = path_mtu.and_then(|value| reader.number(value, PATH_MTU_BYTES, " bytes"));
    let path_mtu = path_mtu.and_then(|bytes| u16::try_from(bytes.into_inner()).ok());
    Some(SiteDocument { name, identity, lan, path_mtu })
}

fn read_lan(reader: &mut Reader, value: Value) -> Vec<Spanned<IpNet>> {
    let expected = format!("1 to {MAX_LAN_PREFIXES} prefixes of each family");
    let prefixes = reader.array(value, "an array of prefixes, such as `[\"192.168.0.0/16\"]`");
    if matches!(value.get_ref(), DeValue::Array(_)) && !(1..=2 * MAX_LAN_PREFIXES).contains(&prefixes.len()) {
        let message = format!("a site with {} prefixes", prefixes.len());
        reader.fault(value.span(), Invalid::new(message, expected));
        return Vec::new();
    }
    let lan: Vec<_> = prefixes.into_iter().filter_map(|prefix| reader.text(prefix, parse_prefix)).collect();
    for v4 in [true, false] {
        let count = lan.iter().filter(|prefix| is_v4(prefix.get_ref()) == v4).count();
        if count > MAX_LAN_PREFIXES {
            let message = format!("a site with {count} {} prefixes", family(v4));
            reader.fault(value.span(), Invalid::new(message, expected.as_str()));
        }
    }
    lan
}

/// A site may only have prefixes of families in which there is a server to reach.
fn check_families(reader: &mut Reader, server: &Families<IpAddr>, sites: &[SiteDocument]) {
    // An address that could not be read may have been of any family.
    if !server.whole {
        return;
    }
    for lan in sites.iter().flat_map(|site| &site.lan) {
        let v4 = is_v4(lan.get_ref());
        if !server.iter().any(|address| address.is_ipv4() == v4) {
            let (name, other) = (family(v4), family(!v4));
            let message = format!("`{}` is {name}, and the customer has no {name} server", lan.get_ref());
            let expected = format!("an {other} prefix, or an {name} address in `server`");
            reader.fault(lan.span(), Invalid::new(message, expected));
        }
    }
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
    let mut lans: Vec<&Spanned<IpNet>> = sites.iter().flat_map(|site| &site.lan).collect();
    lans.sort_by_key(|lan| (lan.get_ref().network(), lan.get_ref().prefix_len(), lan.span().start));
    let mut widest: Option<&Spanned<IpNet>> = None;
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
