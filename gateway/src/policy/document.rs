//! Policy files as documents: what each key says and where, with the rules that concern one file.
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::Ipv4Net;
use toml::Spanned;
use toml::de::DeValue;

use super::fault::{Fault, Invalid, Source, bounded, quote};
use super::keys::{Reader, Table, Value};
use super::prefix::{parse_address, parse_prefix};
use super::{
    Customer, CustomerName, DEFAULT_SERVER_PORT, Gateway, Identity, InterfaceName, Ipsec, Limits,
    MAX_LAN_PREFIXES, MAX_MANAGEMENT, Management, Protocol, Site, SiteName, Timeouts,
};

/// IKE, and IKE with ESP in UDP (RFC 3948); the gateway's own budgets guard them.
const IKE_PORTS: [u32; 2] = [500, 4500];

/// `gateway.toml`. What is `None` is missing or has a fault.
#[derive(Clone, Debug)]
pub(super) struct GatewayDocument {
    pub source: Source,
    pub cloud_lan: Option<Spanned<Ipv4Net>>,
    pub identity: Option<Spanned<Identity>>,
    /// Bytes of the limits that are written down.
    pub tunnels: Option<Spanned<u32>>,
    pub customers: Option<Spanned<u32>>,
    pub limits: Limits,
    /// `None` if the file has any fault.
    pub value: Option<Gateway>,
}

/// One of `customers/*.toml`. What is `None` is missing or has a fault.
#[derive(Clone, Debug)]
pub(super) struct CustomerDocument {
    pub source: Source,
    pub name: CustomerName,
    pub server: Option<Spanned<Ipv4Addr>>,
    pub sites: Vec<SiteDocument>,
    /// `None` if the file has any fault.
    pub value: Option<Customer>,
}

/// One `[[site]]`.
#[derive(Clone, Debug)]
pub(super) struct SiteDocument {
    pub name: Option<Spanned<SiteName>>,
    pub identity: Option<Spanned<Identity>>,
    pub lan: Vec<Spanned<Ipv4Net>>,
}

impl GatewayDocument {
    /// Reads the file and reports all its faults.
    pub fn read(source: Source) -> (Self, Vec<Fault>) {
        let text = source.text.clone().unwrap_or_default();
        let mut reader = Reader::new(&source);
        let root = reader.parse(&text);
        let root = reader.root(&root, &["interfaces", "ipsec", "management", "limits", "timeouts"]);
        let interfaces = read_interfaces(&mut reader, &root);
        let ipsec = read_ipsec(&mut reader, &root);
        let management = read_management(&mut reader, &root);
        let (limits, tunnels, customers) = read_limits(&mut reader, &root);
        let timeouts = read_timeouts(&mut reader, &root);
        let faults = bounded(&source, reader.faults);

        let (internet, lan, cloud_lan) = interfaces.unwrap_or_default();
        let (identity, certificate, private_key, authority) = ipsec.unwrap_or_default();
        let value = || {
            Some(Gateway {
                internet: internet?,
                lan: lan?,
                cloud_lan: *cloud_lan.as_ref()?.get_ref(),
                ipsec: Ipsec {
                    identity: identity.as_ref()?.get_ref().clone(),
                    certificate: certificate?,
                    private_key: private_key?,
                    authority: authority?,
                },
                management,
                limits,
                timeouts,
            })
        };
        let value = if faults.is_empty() { value() } else { None };
        (Self { cloud_lan, identity, tunnels, customers, limits, value, source }, faults)
    }

    /// The last good version.
    pub fn keep(gateway: &Gateway, path: &Path) -> Self {
        Self {
            source: Source { path: path.to_owned(), text: None },
            cloud_lan: Some(kept(gateway.cloud_lan)),
            identity: Some(kept(gateway.ipsec.identity.clone())),
            tunnels: None,
            customers: None,
            limits: gateway.limits,
            value: Some(gateway.clone()),
        }
    }
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

/// A value without a place in a file.
fn kept<T>(value: T) -> Spanned<T> {
    Spanned::new(0..0, value)
}

type Interfaces = (Option<InterfaceName>, Option<InterfaceName>, Option<Spanned<Ipv4Net>>);

fn read_interfaces(reader: &mut Reader, root: &Table) -> Option<Interfaces> {
    let table = reader.required(root, "interfaces", "[interfaces]")?;
    let table = reader.table(table, "[interfaces]", &["internet", "lan", "cloud_lan"])?;
    let internet = reader.required(&table, "internet", "internet = \"eth_internet\"");
    let internet = internet.and_then(|value| reader.text(value, str::parse::<InterfaceName>));
    let lan = reader.required(&table, "lan", "lan = \"eth_lan\"");
    let lan = lan.and_then(|value| reader.text(value, str::parse::<InterfaceName>));
    if let (Some(internet), Some(lan)) = (&internet, &lan)
        && internet.get_ref() == lan.get_ref()
    {
        let message = format!("{} is the internet interface as well", quote(lan.get_ref().as_str()));
        reader.fault(lan.span(), Invalid::new(message, "two different interfaces"));
    }
    let cloud_lan = reader.required(&table, "cloud_lan", "cloud_lan = \"10.200.0.0/24\"");
    let cloud_lan = cloud_lan.and_then(|value| reader.text(value, parse_cloud_lan));
    Some((internet.map(Spanned::into_inner), lan.map(Spanned::into_inner), cloud_lan))
}

fn parse_cloud_lan(text: &str) -> Result<Ipv4Net, Invalid> {
    let prefix = parse_prefix(text)?;
    if prefix.prefix_len() > 30 {
        let message = format!("{} has no room for a server and the gateway", quote(text));
        return Err(Invalid::new(message, "a prefix length from 8 to 30"));
    }
    Ok(prefix)
}

type IpsecKeys = (Option<Spanned<Identity>>, Option<PathBuf>, Option<PathBuf>, Option<PathBuf>);

fn read_ipsec(reader: &mut Reader, root: &Table) -> Option<IpsecKeys> {
    let table = reader.required(root, "ipsec", "[ipsec]")?;
    let table = reader.table(table, "[ipsec]", &["identity", "certificate", "private_key", "authority"])?;
    let identity = reader.required(&table, "identity", "identity = \"gateway.example\"");
    let identity = identity.and_then(|value| reader.text(value, str::parse));
    let mut path = |key: &str, file: &str| {
        let value = reader.required(&table, key, &format!("{key} = \"/etc/gateway/pki/{file}\""))?;
        Some(reader.text(value, parse_path)?.into_inner())
    };
    Some((
        identity,
        path("certificate", "gateway.crt"),
        path("private_key", "gateway.key"),
        path("authority", "ca.crt"),
    ))
}

fn parse_path(text: &str) -> Result<PathBuf, Invalid> {
    let path = Path::new(text);
    let fault = if !path.is_absolute() {
        "is not absolute"
    } else if text.contains(|c: char| c.is_control()) {
        "contains a control character"
    } else if text.ends_with('/') {
        "names a directory"
    } else {
        return Ok(path.to_owned());
    };
    let message = format!("the path {} {fault}", quote(text));
    Err(Invalid::new(message, "a file's absolute path, such as `/etc/gateway/pki/gateway.crt`"))
}

fn read_management(reader: &mut Reader, root: &Table) -> Vec<Management> {
    let example = "allow = [{ from = \"198.51.100.0/24\", protocol = \"tcp\", port = 22 }]";
    let Some(table) = reader.optional(root, "management") else {
        return Vec::new();
    };
    let Some(table) = reader.table(table, "[management]", &["allow"]) else {
        return Vec::new();
    };
    let Some(allow) = reader.required(&table, "allow", example) else {
        return Vec::new();
    };
    let entries = reader.array(allow, "an array of tables");
    if entries.len() > MAX_MANAGEMENT {
        let message = format!("{} entries are too many", entries.len());
        reader.fault(allow.span(), Invalid::new(message, format!("at most {MAX_MANAGEMENT}")));
        return Vec::new();
    }
    entries.into_iter().filter_map(|entry| read_management_entry(reader, entry)).collect()
}

fn read_management_entry(reader: &mut Reader, entry: Value) -> Option<Management> {
    let table = reader.table(entry, "this entry", &["from", "protocol", "port"])?;
    let from = reader.required(&table, "from", "from = \"198.51.100.0/24\"");
    let from = from.and_then(|value| reader.text(value, parse_prefix));
    let protocol = reader.required(&table, "protocol", "protocol = \"tcp\"");
    let protocol = protocol.and_then(|value| reader.text(value, parse_protocol));
    let port = reader.required(&table, "port", "port = 22")?;
    let number = read_port(reader, port);
    let (from, protocol, number) = (from?, protocol?.into_inner(), number?);
    if protocol == Protocol::Udp && IKE_PORTS.contains(&u32::from(number)) {
        let message =
            format!("UDP port {number} is IKE's, which is open already, within budgets for each source");
        reader.fault(port.span(), Invalid::new(message, "another port, or no entry"));
        return None;
    }
    Some(Management { from: from.into_inner(), protocol, port: number })
}

fn parse_protocol(text: &str) -> Result<Protocol, Invalid> {
    match text {
        "tcp" => Ok(Protocol::Tcp),
        "udp" => Ok(Protocol::Udp),
        _ => {
            Err(Invalid::new(format!("{} is no protocol that can be allowed", quote(text)), "`tcp` or `udp`"))
        }
    }
}

fn read_port(reader: &mut Reader, value: Value) -> Option<u16> {
    let port = reader.number(value, 1..=u32::from(u16::MAX), "")?;
    u16::try_from(port.into_inner()).ok()
}

fn read_limits(reader: &mut Reader, root: &Table) -> (Limits, Option<Spanned<u32>>, Option<Spanned<u32>>) {
    let default = Limits::default();
    let Some(table) = reader.optional(root, "limits") else {
        return (default, None, None);
    };
    let Some(table) = reader.table(table, "[limits]", &["tunnels", "customers", "flows"]) else {
        return (default, None, None);
    };
    let mut limit = |key, max, unit| {
        let value = reader.optional(&table, key)?;
        reader.number(value, 1..=max, unit)
    };
    let tunnels = limit("tunnels", Limits::MAX_TUNNELS, " tunnels");
    let customers = limit("customers", Limits::MAX_TUNNELS, " customers");
    let flows = limit("flows", Limits::MAX_FLOWS, " flows");
    let or = |limit: &Option<Spanned<u32>>, default| limit.as_ref().map_or(default, |limit| *limit.get_ref());
    let limits = Limits {
        tunnels: or(&tunnels, default.tunnels),
        customers: or(&customers, default.customers),
        flows: or(&flows, default.flows),
    };
    (limits, tunnels, customers)
}

fn read_timeouts(reader: &mut Reader, root: &Table) -> Timeouts {
    let mut timeouts = Timeouts::default();
    let states: [(&str, &mut Duration); 8] = [
        ("syn_sent", &mut timeouts.syn_sent),
        ("syn_recv", &mut timeouts.syn_recv),
        ("established", &mut timeouts.established),
        ("fin_wait", &mut timeouts.fin_wait),
        ("close_wait", &mut timeouts.close_wait),
        ("last_ack", &mut timeouts.last_ack),
        ("time_wait", &mut timeouts.time_wait),
        ("close", &mut timeouts.close),
    ];
    let known = states.each_ref().map(|(key, _)| *key);
    let table = reader.optional(root, "timeouts").and_then(|value| reader.table(value, "[timeouts]", &known));
    let Some(table) = table else { return timeouts };
    for (key, timeout) in states {
        let value = reader.optional(&table, key);
        if let Some(seconds) =
            value.and_then(|v| reader.number(v, 1..=Timeouts::MAX_SECONDS, " seconds (5 days)"))
        {
            *timeout = Duration::from_secs(u64::from(seconds.into_inner()));
        }
    }
    timeouts
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
