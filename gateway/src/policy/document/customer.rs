//! A customer's file: reads each key with its position and checks the rules of this file alone.
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;
use toml::Spanned;
use toml::de::DeValue;

use super::families::{Families, unplaced};
use crate::policy::customer::{Customer, Site};
use crate::policy::fault::{Fault, Invalid, Source};
use crate::policy::identity::Identity;
use crate::policy::keys::{Reader, Table, Value};
use crate::policy::limits::{DEFAULT_SERVER_PORT, Limits, MAX_LAN_PREFIXES, Quota, SiteQuota};
use crate::policy::names::{CustomerName, SiteName};
use crate::policy::prefix::{family, is_v4, parse_address, parse_prefix};

/// Every host accepts a packet of 576 bytes (RFC 791, 3.1); a jumbo frame carries 9000.
const PATH_MTU_BYTES: std::ops::RangeInclusive<u32> = 576..=9000;

/// One of `customers/*.toml`. A value that is missing or invalid is `None`.
#[derive(Clone, Debug)]
pub struct CustomerDocument {
    pub source: Source,
    pub name: CustomerName,
    pub server: Families<IpAddr>,
    /// The quota as written; invalid numbers are `None`.
    pub quota: Quota,
    pub sites: Vec<SiteDocument>,
    /// `None` if the file has any fault.
    pub value: Option<Customer>,
}

/// One `[[site]]`.
#[derive(Clone, Debug)]
pub struct SiteDocument {
    pub name: Option<Spanned<SiteName>>,
    pub identity: Option<Spanned<Identity>>,
    pub lan: Vec<Spanned<IpNet>>,
    pub path_mtu: Option<u16>,
    /// The site's share of the quota as written; invalid numbers are `None`.
    pub quota: SiteQuota,
}

impl CustomerDocument {
    /// Reads the file and returns it with all its faults.
    pub fn read(source: Source, name: CustomerName) -> (Self, Vec<Fault>) {
        let text = source.text.clone().unwrap_or_default();
        let mut reader = Reader::new(&source);
        let root = reader.parse(&text);
        let (server, port, quota, sites) = reader.root(&root, read_root);
        check_site_names(&mut reader, &sites);
        check_lans(&mut reader, &sites);
        check_families(&mut reader, &server, &sites);
        let faults = reader.finish();

        let value = || {
            Some(Customer {
                name: name.clone(),
                server: server.complete.then(|| server.iter().copied().collect())?,
                port: port?,
                quota,
                sites: sites.iter().map(SiteDocument::value).collect::<Option<_>>()?,
            })
        };
        let value = if faults.is_empty() { value() } else { None };
        (Self { name, server, quota, sites, value, source }, faults)
    }

    /// Returns the document of the last good version.
    pub fn from_last_good(customer: &Customer, path: &Path) -> Self {
        let site = |site: &Site| SiteDocument {
            name: Some(unplaced(site.name.clone())),
            identity: Some(unplaced(site.identity.clone())),
            lan: site.lan.iter().copied().map(unplaced).collect(),
            path_mtu: site.path_mtu,
            quota: site.quota,
        };
        Self {
            source: Source { path: path.to_owned(), text: None },
            name: customer.name.clone(),
            server: Families::from_values(customer.server.addresses()),
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
            quota: self.quota,
        })
    }
}

type Keys = (Families<IpAddr>, Option<u16>, Quota, Vec<SiteDocument>);

fn read_root(reader: &mut Reader, root: &Table) -> Keys {
    let server = reader.required(root, "server", "server = \"10.200.0.11\"");
    let server = server.map_or_else(Families::missing, |value| {
        Families::read(reader, value, "address", parse_address, IpAddr::is_ipv4)
    });
    let port = reader.optional(root, "port").map(|value| reader.port(value));
    let port = port.unwrap_or(Some(DEFAULT_SERVER_PORT));
    let quota = read_quota(reader, root);
    let sites = reader.required(root, "site", "[[site]]");
    (server, port, quota, sites.map_or_else(Vec::new, |sites| read_sites(reader, sites, quota)))
}

fn read_quota(reader: &mut Reader, root: &Table) -> Quota {
    let mut number = |key: &'static str, max, unit| {
        let value = reader.optional(root, key)?;
        reader.number(value, 1..=max, unit)
    };
    let flows = number("max_flows", Limits::MAX_FLOWS, " flows");
    let half_open = number("max_half_open", Limits::MAX_FLOWS, " flows");
    let per_second = number("new_flows_per_second", Quota::MAX_NEW_FLOWS_PER_SECOND, " flows a second");
    if let (Some(flows), Some(half_open)) = (&flows, &half_open)
        && half_open.get_ref() > flows.get_ref()
    {
        let message = format!("`{}` exceeds `max_flows = {}`", half_open.get_ref(), flows.get_ref());
        reader.fault(half_open.span(), Invalid::new(message, "at most `max_flows`"));
    }
    let number = |number: Option<Spanned<u32>>| number.map(Spanned::into_inner);
    Quota {
        max_flows: number(flows),
        max_half_open: number(half_open),
        new_flows_per_second: number(per_second),
    }
}

fn read_sites(reader: &mut Reader, value: Value, quota: Quota) -> Vec<SiteDocument> {
    if matches!(value.get_ref(), DeValue::Table(_)) {
        reader.fault(
            value.span(),
            Invalid::new("`site` is a single table, not an array of tables", "`[[site]]`"),
        );
        return Vec::new();
    }
    let sites = reader.array(value, "tables, each headed by `[[site]]`");
    if sites.is_empty() && matches!(value.get_ref(), DeValue::Array(_)) {
        reader.fault(value.span(), Invalid::new("the customer has no site", "at least one `[[site]]`"));
    }
    sites.into_iter().filter_map(|site| read_site(reader, site, quota)).collect()
}

fn read_site(reader: &mut Reader, site: Value, quota: Quota) -> Option<SiteDocument> {
    reader.table(site, "this site", |reader, table| {
        let name = reader.required(table, "name", "name = \"berlin\"");
        let name = name.and_then(|value| reader.text(value, str::parse));
        let identity = reader.required(table, "identity", "identity = \"berlin.acme.example\"");
        let identity = identity.and_then(|value| reader.text(value, str::parse));
        let lan = reader.required(table, "lan", "lan = [\"192.168.0.0/16\"]");
        let lan = lan.map_or_else(Vec::new, |lan| read_lan(reader, lan));
        let path_mtu = reader.optional(table, "path_mtu");
        let path_mtu = path_mtu.and_then(|value| reader.number(value, PATH_MTU_BYTES, " bytes"));
        let path_mtu = path_mtu.and_then(|bytes| u16::try_from(bytes.into_inner()).ok());
        let quota = read_site_quota(reader, table, quota);
        SiteDocument { name, identity, lan, path_mtu, quota }
    })
}

/// Reads a site's share of its customer's quota, which it must not exceed.
fn read_site_quota(reader: &mut Reader, table: &Table, customer: Quota) -> SiteQuota {
    let mut number = |key: &'static str, limit: Option<u32>| {
        let value = reader.optional(table, key)?;
        let number = reader.number(value, 1..=Limits::MAX_FLOWS, " flows")?;
        if let Some(limit) = limit.filter(|limit| number.get_ref() > limit) {
            let message = format!("`{}` exceeds the customer's `{key} = {limit}`", number.get_ref());
            reader.fault(number.span(), Invalid::new(message, format!("at most {limit}")));
        }
        Some(number)
    };
    let flows = number("max_flows", customer.max_flows);
    let half_open = number("max_half_open", customer.max_half_open);
    if let (Some(flows), Some(half_open)) = (&flows, &half_open)
        && half_open.get_ref() > flows.get_ref()
    {
        let message = format!("`{}` exceeds `max_flows = {}`", half_open.get_ref(), flows.get_ref());
        reader.fault(half_open.span(), Invalid::new(message, "at most `max_flows`"));
    }
    let number = |number: Option<Spanned<u32>>| number.map(Spanned::into_inner);
    SiteQuota { max_flows: number(flows), max_half_open: number(half_open) }
}

fn read_lan(reader: &mut Reader, value: Value) -> Vec<Spanned<IpNet>> {
    let expected = format!("1 to {MAX_LAN_PREFIXES} prefixes");
    let prefixes = reader.array(value, "an array of prefixes, such as `[\"192.168.0.0/16\"]`");
    if matches!(value.get_ref(), DeValue::Array(_)) && !(1..=MAX_LAN_PREFIXES).contains(&prefixes.len()) {
        let message = format!("this site has {} prefixes", prefixes.len());
        reader.fault(value.span(), Invalid::new(message, expected));
        return Vec::new();
    }
    prefixes.into_iter().filter_map(|prefix| reader.text(prefix, parse_prefix)).collect()
}

/// Checks that every prefix is of a family in which the customer has a server.
fn check_families(reader: &mut Reader, server: &Families<IpAddr>, sites: &[SiteDocument]) {
    // An unreadable address may be of any family.
    if !server.complete {
        return;
    }
    for lan in sites.iter().flat_map(|site| &site.lan) {
        let v4 = is_v4(lan.get_ref());
        if !server.iter().any(|address| address.is_ipv4() == v4) {
            let (name, other) = (family(v4), family(!v4));
            let message = format!("`{}` is {name}, but the customer has no {name} server", lan.get_ref());
            let expected = format!("an {other} prefix, or an {name} address in `server`");
            reader.fault(lan.span(), Invalid::new(message, expected));
        }
    }
}

fn check_site_names(reader: &mut Reader, sites: &[SiteDocument]) {
    let mut first = BTreeMap::new();
    for name in sites.iter().filter_map(|site| site.name.as_ref()) {
        if let Some(span) = first.get(name.get_ref()).cloned() {
            let message = format!("the site name `{}` is already taken", name.get_ref());
            let invalid = Invalid::new(message, "a name that no other site of this customer has");
            reader.fault_see(name.span(), invalid, span);
        } else {
            first.insert(name.get_ref(), name.span());
        }
    }
}

/// Checks that no two prefixes of the customer overlap.
///
/// Sorted by address and then by length, a prefix follows the prefixes that contain it, with only other
/// contained prefixes in between.
fn check_lans(reader: &mut Reader, sites: &[SiteDocument]) {
    let mut lans: Vec<&Spanned<IpNet>> = sites.iter().flat_map(|site| &site.lan).collect();
    lans.sort_by_key(|lan| (lan.get_ref().network(), lan.get_ref().prefix_len(), lan.span().start));
    let mut widest: Option<&Spanned<IpNet>> = None;
    for lan in lans {
        match widest {
            Some(wide) if wide.get_ref().contains(lan.get_ref()) => {
                // Report the one further down in the file.
                let (at, other) =
                    if lan.span().start > wide.span().start { (lan, wide) } else { (wide, lan) };
                let message = format!("`{}` overlaps `{}`", at.get_ref(), other.get_ref());
                let invalid = Invalid::new(message, "prefixes that do not overlap within one customer");
                reader.fault_see(at.span(), invalid, other.span());
            }
            _ => widest = Some(lan),
        }
    }
}
