//! `gateway.toml`: what each key says and where, with the rules that concern this file alone.
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::Ipv4Net;
use toml::Spanned;

use super::{kept, read_port};
use crate::policy::fault::{Fault, Invalid, Source, bounded, quote};
use crate::policy::keys::{Reader, Table, Value};
use crate::policy::prefix::parse_prefix;
use crate::policy::{
    Gateway, Identity, InterfaceName, Ipsec, Limits, MAX_MANAGEMENT, Management, Protocol, Timeouts,
};

/// IKE, and IKE with ESP in UDP (RFC 3948); the gateway's own budgets guard them.
const IKE_PORTS: [u32; 2] = [500, 4500];

/// `gateway.toml`. What is `None` is missing or has a fault.
#[derive(Clone, Debug)]
pub(in crate::policy) struct GatewayDocument {
    pub source: Source,
    pub cloud_lan: Option<Spanned<Ipv4Net>>,
    pub identity: Option<Spanned<Identity>>,
    /// Bytes of the limits that are written down.
    pub tunnels: Option<Spanned<u32>>,
    pub customers: Option<Spanned<u32>>,
    /// `None` if the file has any fault.
    pub value: Option<Gateway>,
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
        (Self { cloud_lan, identity, tunnels, customers, value, source }, faults)
    }

    /// The last good version.
    pub fn keep(gateway: &Gateway, path: &Path) -> Self {
        Self {
            source: Source { path: path.to_owned(), text: None },
            cloud_lan: Some(kept(gateway.cloud_lan)),
            identity: Some(kept(gateway.ipsec.identity.clone())),
            tunnels: None,
            customers: None,
            value: Some(gateway.clone()),
        }
    }
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
