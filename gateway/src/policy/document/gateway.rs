//! `gateway.toml`: reads each key with its position and checks the rules of this file alone.
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use toml::Spanned;

use super::families::{Families, unplaced};
use crate::policy::fault::{Fault, Invalid, Source, quote};
use crate::policy::gateway::{Gateway, Ipsec, Management, Midstream, Protocol};
use crate::policy::identity::Identity;
use crate::policy::keys::{Reader, Table, Value};
use crate::policy::limits::{DEFAULT_MAX_REMOVED_PERCENT, Limits, MAX_MANAGEMENT, Timeouts};
use crate::policy::names::InterfaceName;
use crate::policy::prefix::{is_v4, parse_prefix};

/// Ports of IKE and of IKE with ESP in UDP (RFC 3948). The gateway's own budgets guard them.
const IKE_PORTS: [u32; 2] = [500, 4500];

/// Replaces in a valid gateway part what cannot be adopted now, such as sizes of tables that exist, and returns the
/// reasons. Customers are checked against the result. The last call is about the gateway part that is chosen.
pub type Adopt<'a> = &'a mut dyn FnMut(&mut Gateway) -> Vec<Fault>;

/// `gateway.toml`. A value that is missing or invalid is `None`.
#[derive(Clone, Debug)]
pub struct GatewayDocument {
    pub source: Source,
    pub cloud_lan: Families<IpNet>,
    pub identity: Option<Spanned<Identity>>,
    pub limits: WrittenLimits,
    /// `None` if the file has any fault.
    pub value: Option<Gateway>,
}

/// The limits as written. A limit that is missing or invalid is `None`.
#[derive(Clone, Debug, Default)]
pub struct WrittenLimits {
    pub tunnels: Option<Spanned<u32>>,
    pub customers: Option<Spanned<u32>>,
    pub flows: Option<Spanned<u32>>,
    pub flows6: Option<Spanned<u32>>,
}

impl GatewayDocument {
    /// Reads the file and returns it with all its faults.
    pub fn read(source: Source) -> (Self, Vec<Fault>) {
        let text = source.text.clone().unwrap_or_default();
        let mut reader = Reader::new(&source);
        let root = reader.parse(&text);
        let Keys { interfaces, ipsec, management, midstream, limits, timeouts, max_removed_percent } =
            reader.root(&root, Keys::read);
        let faults = reader.finish();

        let (internet, lan, cloud_lan) = interfaces.unwrap_or_else(|| (None, None, Families::missing()));
        let (identity, certificate, private_key, authority) = ipsec.unwrap_or_default();
        let value = || {
            Some(Gateway {
                internet: internet?,
                lan: lan?,
                cloud_lan: cloud_lan.complete.then(|| cloud_lan.iter().copied().collect())?,
                ipsec: Ipsec {
                    identity: identity.as_ref()?.get_ref().clone(),
                    certificate: certificate?,
                    private_key: private_key?,
                    authority: authority?,
                },
                management,
                limits: limits.value(),
                timeouts,
                midstream,
                max_removed_percent,
            })
        };
        let value = if faults.is_empty() { value() } else { None };
        (Self { cloud_lan, identity, limits, value, source }, faults)
    }

    /// Returns the document of the last good version.
    pub fn from_last_good(gateway: &Gateway, path: &Path) -> Self {
        Self {
            source: Source { path: path.to_owned(), text: None },
            cloud_lan: Families::from_values(gateway.cloud_lan.iter().copied()),
            identity: Some(unplaced(gateway.ipsec.identity.clone())),
            limits: WrittenLimits::unplaced(&gateway.limits),
            value: Some(gateway.clone()),
        }
    }

    /// Replaces in a valid value what cannot be adopted now, and returns the reasons.
    pub fn adopt(&mut self, adopt: Adopt) -> Vec<Fault> {
        let Some(value) = &mut self.value else { return Vec::new() };
        let reasons = adopt(value);
        if self.identity.as_ref().is_none_or(|identity| *identity.get_ref() != value.ipsec.identity) {
            self.identity = Some(unplaced(value.ipsec.identity.clone()));
        }
        reasons
    }
}

impl WrittenLimits {
    fn unplaced(limits: &Limits) -> Self {
        Self {
            tunnels: Some(unplaced(limits.tunnels)),
            customers: Some(unplaced(limits.customers)),
            flows: Some(unplaced(limits.flows)),
            flows6: limits.flows6.map(unplaced),
        }
    }

    /// Returns the limits that the document states, defaults filled in. Tables that exist may have other sizes.
    pub fn value(&self) -> Limits {
        let default = Limits::default();
        let or =
            |limit: &Option<Spanned<u32>>, default| limit.as_ref().map_or(default, |limit| *limit.get_ref());
        Limits {
            tunnels: or(&self.tunnels, default.tunnels),
            customers: or(&self.customers, default.customers),
            flows: or(&self.flows, default.flows),
            flows6: self.flows6.as_ref().map(|limit| *limit.get_ref()),
        }
    }
}

/// The tables of the file.
struct Keys {
    interfaces: Option<Interfaces>,
    ipsec: Option<IpsecKeys>,
    management: Vec<Management>,
    midstream: Midstream,
    limits: WrittenLimits,
    timeouts: Timeouts,
    max_removed_percent: u8,
}

impl Keys {
    fn read(reader: &mut Reader, root: &Table) -> Self {
        Self {
            interfaces: read_interfaces(reader, root),
            ipsec: read_ipsec(reader, root),
            management: read_management(reader, root).unwrap_or_default(),
            midstream: read_midstream(reader, root),
            limits: read_limits(reader, root),
            timeouts: read_timeouts(reader, root),
            max_removed_percent: read_max_removed(reader, root).unwrap_or(DEFAULT_MAX_REMOVED_PERCENT),
        }
    }
}

type Interfaces = (Option<InterfaceName>, Option<InterfaceName>, Families<IpNet>);

fn read_interfaces(reader: &mut Reader, root: &Table) -> Option<Interfaces> {
    let table = reader.required(root, "interfaces", "[interfaces]")?;
    reader.table(table, "[interfaces]", |reader, table| {
        let internet = reader.required(table, "internet", "internet = \"eth_internet\"");
        let internet = internet.and_then(|value| reader.text(value, str::parse::<InterfaceName>));
        let lan = reader.required(table, "lan", "lan = \"eth_lan\"");
        let lan = lan.and_then(|value| reader.text(value, str::parse::<InterfaceName>));
        if let (Some(internet), Some(lan)) = (&internet, &lan)
            && internet.get_ref() == lan.get_ref()
        {
            let message = format!("{} is the internet interface as well", quote(lan.get_ref().as_str()));
            reader.fault(lan.span(), Invalid::new(message, "two different interfaces"));
        }
        let cloud_lan = reader.required(table, "cloud_lan", "cloud_lan = \"10.200.0.0/24\"");
        let cloud_lan = cloud_lan.map_or_else(Families::missing, |value| {
            Families::read(reader, value, "prefix", parse_cloud_lan, is_v4)
        });
        (internet.map(Spanned::into_inner), lan.map(Spanned::into_inner), cloud_lan)
    })
}

fn parse_cloud_lan(text: &str) -> Result<IpNet, Invalid> {
    let prefix = parse_prefix(text)?;
    let longest = prefix.max_prefix_len() - 2;
    if prefix.prefix_len() > longest {
        let message = format!("{} has no room for a server and the gateway", quote(text));
        return Err(Invalid::new(message, format!("a prefix length of at most {longest}")));
    }
    Ok(prefix)
}

type IpsecKeys = (Option<Spanned<Identity>>, Option<PathBuf>, Option<PathBuf>, Option<PathBuf>);

fn read_ipsec(reader: &mut Reader, root: &Table) -> Option<IpsecKeys> {
    let table = reader.required(root, "ipsec", "[ipsec]")?;
    reader.table(table, "[ipsec]", |reader, table| {
        let identity = reader.required(table, "identity", "identity = \"gateway.example\"");
        let identity = identity.and_then(|value| reader.text(value, str::parse));
        let mut path = |key: &'static str, file: &str| {
            let value = reader.required(table, key, &format!("{key} = \"/etc/gateway/pki/{file}\""))?;
            Some(reader.text(value, parse_path)?.into_inner())
        };
        let certificate = path("certificate", "gateway.crt");
        let private_key = path("private_key", "gateway.key");
        (identity, certificate, private_key, path("authority", "ca.crt"))
    })
}

/// Parses the absolute path of a file.
pub fn parse_path(text: &str) -> Result<PathBuf, Invalid> {
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

fn read_management(reader: &mut Reader, root: &Table) -> Option<Vec<Management>> {
    let example = "allow = [{ from = \"198.51.100.0/24\", protocol = \"tcp\", port = 22 }]";
    let table = reader.optional(root, "management")?;
    let allow = reader.table(table, "[management]", |reader, table| reader.required(table, "allow", example));
    let allow = allow??;
    let entries = reader.array(allow, "an array of tables");
    if entries.len() > MAX_MANAGEMENT {
        let message = format!("{} entries are too many", entries.len());
        reader.fault(allow.span(), Invalid::new(message, format!("at most {MAX_MANAGEMENT}")));
        return None;
    }
    Some(entries.into_iter().filter_map(|entry| read_management_entry(reader, entry)).collect())
}

fn read_management_entry(reader: &mut Reader, entry: Value) -> Option<Management> {
    let entry = reader.table(entry, "this entry", |reader, table| {
        let from = reader.required(table, "from", "from = \"198.51.100.0/24\"");
        let from = from.and_then(|value| reader.text(value, parse_prefix));
        let protocol = reader.required(table, "protocol", "protocol = \"tcp\"");
        let protocol = protocol.and_then(|value| reader.text(value, parse_protocol));
        let port = reader.required(table, "port", "port = 22");
        (from, protocol, port.and_then(|value| Some((value.span(), reader.port(value)?))))
    });
    let (from, protocol, port) = entry?;
    let (from, protocol, (span, port)) = (from?.into_inner(), protocol?.into_inner(), port?);
    if protocol == Protocol::Udp && IKE_PORTS.contains(&u32::from(port)) {
        let message = format!("UDP port {port} is IKE's and already open, within a budget for each source");
        reader.fault(span, Invalid::new(message, "another port, or no entry"));
        return None;
    }
    Some(Management { from, protocol, port })
}

fn parse_protocol(text: &str) -> Result<Protocol, Invalid> {
    match text {
        "tcp" => Ok(Protocol::Tcp),
        "udp" => Ok(Protocol::Udp),
        _ => Err(Invalid::new(format!("the protocol {} cannot be allowed", quote(text)), "`tcp` or `udp`")),
    }
}

fn read_midstream(reader: &mut Reader, root: &Table) -> Midstream {
    let table = reader.optional(root, "flows");
    let read = |reader: &mut Reader, table: &Table| {
        let value = reader.optional(table, "midstream");
        value.and_then(|value| reader.text(value, parse_midstream))
    };
    let midstream = table.and_then(|value| reader.table(value, "[flows]", read));
    midstream.flatten().map(Spanned::into_inner).unwrap_or_default()
}

fn parse_midstream(text: &str) -> Result<Midstream, Invalid> {
    match text {
        "drop" => Ok(Midstream::Drop),
        "adopt" => Ok(Midstream::Adopt),
        _ => Err(Invalid::new(
            format!("{} is not a way to treat a connection in mid-stream", quote(text)),
            "`drop` or `adopt`",
        )),
    }
}

fn read_limits(reader: &mut Reader, root: &Table) -> WrittenLimits {
    let Some(table) = reader.optional(root, "limits") else { return WrittenLimits::default() };
    let limits = reader.table(table, "[limits]", |reader, table| {
        let mut limit = |key: &'static str, max, unit| {
            let value = reader.optional(table, key)?;
            reader.number(value, 1..=max, unit)
        };
        WrittenLimits {
            tunnels: limit("tunnels", Limits::MAX_TUNNELS, " tunnels"),
            customers: limit("customers", Limits::MAX_TUNNELS, " customers"),
            flows: limit("flows", Limits::MAX_FLOWS, " flows"),
            flows6: limit("flows6", Limits::MAX_FLOWS, " flows"),
        }
    });
    limits.unwrap_or_default()
}

fn read_timeouts(reader: &mut Reader, root: &Table) -> Timeouts {
    let mut timeouts = Timeouts::default();
    let Some(table) = reader.optional(root, "timeouts") else { return timeouts };
    let states: [(&'static str, &mut Duration); 10] = [
        ("syn_sent", &mut timeouts.syn_sent),
        ("syn_recv", &mut timeouts.syn_recv),
        ("established", &mut timeouts.established),
        ("fin_wait", &mut timeouts.fin_wait),
        ("close_wait", &mut timeouts.close_wait),
        ("last_ack", &mut timeouts.last_ack),
        ("time_wait", &mut timeouts.time_wait),
        ("close", &mut timeouts.close),
        ("retransmission", &mut timeouts.retransmission),
        ("unacknowledged", &mut timeouts.unacknowledged),
    ];
    reader.table(table, "[timeouts]", |reader, table| {
        for (key, timeout) in states {
            let value = reader.optional(table, key);
            let read = value.and_then(|v| reader.number(v, 1..=Timeouts::MAX_SECONDS, " seconds (5 days)"));
            if let Some(seconds) = read {
                *timeout = Duration::from_secs(u64::from(seconds.into_inner()));
            }
        }
    });
    timeouts
}

fn read_max_removed(reader: &mut Reader, root: &Table) -> Option<u8> {
    let table = reader.optional(root, "reload")?;
    let percent = reader.table(table, "[reload]", |reader, table| {
        let value = reader.optional(table, "max_removed_percent")?;
        reader.number(value, 1..=100, " percent")
    });
    u8::try_from(percent??.into_inner()).ok()
}
