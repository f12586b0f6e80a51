//! SAs as charon sends them, with every value as text, and their conversion to typed SAs.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use serde::Deserialize;

use super::sa::{Algorithms, ChildSa, ChildState, Fault, IkeSa, IkeState, TrafficSelector};

/// Longest text accepted from charon. The longest identity, a distinguished name, is far shorter.
const MAX_TEXT_BYTES: usize = 512;
/// Most CHILD_SAs of one IKE_SA, and most traffic selectors of one CHILD_SA. The gateway ends the ones beyond a few.
const MAX_ITEMS: usize = 64;

/// An IKE_SA in text form. An event about a rekeying gives pairs of CHILD_SAs.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default, bound(deserialize = "C: Deserialize<'de> + Default"))]
pub(super) struct RawIkeSa<'a, C = RawChildSa<'a>> {
    uniqueid: Option<&'a str>,
    state: Option<&'a str>,
    local_host: Option<&'a str>,
    local_port: Option<&'a str>,
    local_id: Option<&'a str>,
    remote_host: Option<&'a str>,
    remote_port: Option<&'a str>,
    remote_id: Option<&'a str>,
    initiator: Option<&'a str>,
    nat_local: Option<&'a str>,
    nat_remote: Option<&'a str>,
    encr_alg: Option<&'a str>,
    encr_keysize: Option<&'a str>,
    integ_alg: Option<&'a str>,
    prf_alg: Option<&'a str>,
    dh_group: Option<&'a str>,
    established: Option<&'a str>,
    #[serde(borrow)]
    pub(super) child_sas: BTreeMap<&'a str, C>,
}

/// A CHILD_SA in text form.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(super) struct RawChildSa<'a> {
    name: Option<&'a str>,
    uniqueid: Option<&'a str>,
    reqid: Option<&'a str>,
    state: Option<&'a str>,
    encap: Option<&'a str>,
    spi_in: Option<&'a str>,
    spi_out: Option<&'a str>,
    mark_in: Option<&'a str>,
    mark_out: Option<&'a str>,
    encr_alg: Option<&'a str>,
    encr_keysize: Option<&'a str>,
    integ_alg: Option<&'a str>,
    dh_group: Option<&'a str>,
    bytes_in: Option<&'a str>,
    packets_in: Option<&'a str>,
    bytes_out: Option<&'a str>,
    packets_out: Option<&'a str>,
    #[serde(borrow)]
    local_ts: Vec<&'a str>,
    #[serde(borrow)]
    remote_ts: Vec<&'a str>,
}

impl RawIkeSa<'_> {
    /// Converts the CHILD_SAs one by one.
    pub(super) fn children(&self) -> impl Iterator<Item = Result<ChildSa, Fault>> {
        let too_many = (self.child_sas.len() > MAX_ITEMS)
            .then(|| Err(Fault::new("child-sas", format!("more than {MAX_ITEMS}"))));
        self.child_sas.values().take(MAX_ITEMS).map(RawChildSa::parse).chain(too_many)
    }

    /// Converts the IKE_SA and adds faults of its children to `faults`.
    pub(super) fn parse(&self, name: &str, faults: &mut Vec<Fault>) -> Result<IkeSa, Fault> {
        let mut sa = self.parse_without_children(name)?;
        for child in self.children() {
            match child {
                Ok(child) => sa.children.push(child),
                Err(fault) => faults.push(fault),
            }
        }
        Ok(sa)
    }
}

impl<C> RawIkeSa<'_, C> {
    /// Returns the IKE_SA's number if it is readable.
    pub(super) fn unique_id(&self) -> Option<u32> {
        self.uniqueid?.parse().ok()
    }

    /// Converts the IKE_SA alone.
    pub(super) fn parse_without_children(&self, name: &str) -> Result<IkeSa, Fault> {
        let read = || -> Result<IkeSa, String> {
            Ok(IkeSa {
                name: text("name", Some(name))?,
                unique_id: number("uniqueid", self.uniqueid)?,
                state: parsed("state", self.state, IkeState::parse)?,
                local_host: parsed("local-host", self.local_host, host)?,
                local_port: number("local-port", self.local_port)?,
                local_id: text("local-id", self.local_id)?,
                remote_host: parsed("remote-host", self.remote_host, host)?,
                remote_port: number("remote-port", self.remote_port)?,
                remote_id: text("remote-id", self.remote_id)?,
                initiator: is_yes(self.initiator),
                nat_local: is_yes(self.nat_local),
                nat_remote: is_yes(self.nat_remote),
                algorithms: Algorithms {
                    encryption: optional_text("encr-alg", self.encr_alg)?,
                    encryption_key_bits: optional_number("encr-keysize", self.encr_keysize)?,
                    integrity: optional_text("integ-alg", self.integ_alg)?,
                    prf: optional_text("prf-alg", self.prf_alg)?,
                    key_exchange: optional_text("dh-group", self.dh_group)?,
                },
                established: optional_number("established", self.established)?.map(Duration::from_secs),
                children: Vec::new(),
            })
        };
        read().map_err(|reason| Fault::new(name, reason))
    }
}

impl RawChildSa<'_> {
    /// Converts the CHILD_SA.
    pub(super) fn parse(&self) -> Result<ChildSa, Fault> {
        let read = || -> Result<ChildSa, String> {
            Ok(ChildSa {
                name: text("name", self.name)?,
                unique_id: number("uniqueid", self.uniqueid)?,
                reqid: number("reqid", self.reqid)?,
                state: parsed("state", self.state, ChildState::parse)?,
                spi_in: optional_hex("spi-in", self.spi_in)?,
                spi_out: optional_hex("spi-out", self.spi_out)?,
                mark_in: optional_hex("mark-in", self.mark_in)?.unwrap_or(0),
                mark_out: optional_hex("mark-out", self.mark_out)?.unwrap_or(0),
                encap: is_yes(self.encap),
                algorithms: Algorithms {
                    encryption: optional_text("encr-alg", self.encr_alg)?,
                    encryption_key_bits: optional_number("encr-keysize", self.encr_keysize)?,
                    integrity: optional_text("integ-alg", self.integ_alg)?,
                    prf: None,
                    key_exchange: optional_text("dh-group", self.dh_group)?,
                },
                bytes_in: optional_number("bytes-in", self.bytes_in)?.unwrap_or(0),
                packets_in: optional_number("packets-in", self.packets_in)?.unwrap_or(0),
                bytes_out: optional_number("bytes-out", self.bytes_out)?.unwrap_or(0),
                packets_out: optional_number("packets-out", self.packets_out)?.unwrap_or(0),
                local_ts: selectors("local-ts", &self.local_ts)?,
                remote_ts: selectors("remote-ts", &self.remote_ts)?,
            })
        };
        read().map_err(|reason| Fault::new(self.name.unwrap_or("(unnamed)"), reason))
    }
}

fn shortened(value: &str) -> String {
    value.chars().take(64).collect()
}

fn text(key: &str, value: Option<&str>) -> Result<String, String> {
    optional_text(key, value)?.ok_or_else(|| format!("{key} is missing"))
}

fn optional_text(key: &str, value: Option<&str>) -> Result<Option<String>, String> {
    match value {
        Some(value) if value.len() > MAX_TEXT_BYTES => Err(format!("{key} is too long")),
        // The text ends up in logs and on terminals.
        Some(value) if value.chars().any(char::is_control) => Err(format!("{key} holds control characters")),
        value => Ok(value.map(str::to_owned)),
    }
}

fn parsed<T>(key: &str, value: Option<&str>, parse: impl Fn(&str) -> Option<T>) -> Result<T, String> {
    let value = value.ok_or_else(|| format!("{key} is missing"))?;
    parse(value).ok_or_else(|| format!("{key} is {:?}", shortened(value)))
}

fn number<T: std::str::FromStr>(key: &str, value: Option<&str>) -> Result<T, String> {
    parsed(key, value, |value| value.parse().ok())
}

fn optional_number<T: std::str::FromStr>(key: &str, value: Option<&str>) -> Result<Option<T>, String> {
    value.map(|value| number(key, Some(value))).transpose()
}

/// Parses eight hex digits, as charon prints SPIs and marks. The result is in host byte order.
fn optional_hex(key: &str, value: Option<&str>) -> Result<Option<u32>, String> {
    let parse = |value: &str| {
        let digits = value.len() == 8 && value.bytes().all(|byte| byte.is_ascii_hexdigit());
        digits.then(|| u32::from_str_radix(value, 16).ok()).flatten()
    };
    value.map(|value| parsed(key, Some(value), parse)).transpose()
}

fn is_yes(value: Option<&str>) -> bool {
    value == Some("yes")
}

/// Parses an outer address. charon prints an address it does not know yet as `%any`.
pub(super) fn host(value: &str) -> Option<IpAddr> {
    match value {
        "%any" => Some(Ipv4Addr::UNSPECIFIED.into()),
        "%any6" => Some(Ipv6Addr::UNSPECIFIED.into()),
        // A link-local address carries its zone.
        value => value.split('%').next()?.parse().ok(),
    }
}

fn selectors(key: &str, values: &[&str]) -> Result<Vec<TrafficSelector>, String> {
    if values.len() > MAX_ITEMS {
        return Err(format!("{key} has more than {MAX_ITEMS} entries"));
    }
    let selector = |value: &&str| match value.parse() {
        Ok(net) => Ok(TrafficSelector::Net(net)),
        Err(_) => Ok(TrafficSelector::Other(text(key, Some(value))?)),
    };
    values.iter().map(selector).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn child() -> RawChildSa<'static> {
        RawChildSa {
            name: Some("t"),
            uniqueid: Some("7"),
            reqid: Some("101"),
            state: Some("INSTALLED"),
            spi_in: Some("c0ffee01"),
            spi_out: Some("00000abc"),
            mark_in: Some("00000065"),
            local_ts: vec!["10.200.0.11/32", "10.200.0.11/32[tcp/http]"],
            ..Default::default()
        }
    }

    fn ike() -> RawIkeSa<'static> {
        RawIkeSa {
            uniqueid: Some("3"),
            state: Some("ESTABLISHED"),
            local_host: Some("2001:db8::1"),
            local_port: Some("4500"),
            local_id: Some("gateway.example"),
            remote_host: Some("%any"),
            remote_port: Some("500"),
            remote_id: Some("berlin.acme.example"),
            child_sas: BTreeMap::from([("t-7", child())]),
            ..Default::default()
        }
    }

    #[test]
    fn spis_and_marks_are_hex() {
        let child = child().parse().unwrap();
        assert_eq!((child.spi_in, child.spi_out), (Some(0xc0ff_ee01), Some(0xabc)));
        assert_eq!((child.mark_in, child.mark_out), (101, 0));
        assert!(matches!(&child.local_ts[..], [TrafficSelector::Net(_), TrafficSelector::Other(_)]));
    }

    #[test]
    fn bad_child_is_a_fault_and_keeps_its_ike_sa() {
        type Change = fn(&mut RawChildSa<'_>);
        let changes: [Change; 7] = [
            |c| c.spi_in = Some("xyz"),
            |c| c.spi_in = Some("0123456789"),
            |c| c.spi_in = Some("+1234567"),
            |c| c.reqid = Some("-1"),
            |c| c.reqid = None,
            |c| c.state = Some("HAPPY"),
            |c| c.name = Some("\u{1b}[31m"),
        ];
        for change in changes {
            let mut raw = ike();
            raw.child_sas.values_mut().for_each(change);
            let mut faults = Vec::new();
            let sa = raw.parse("site", &mut faults).unwrap();
            assert!(sa.children.is_empty() && faults.len() == 1, "{sa:?} {faults:?}");
        }
    }

    #[test]
    fn bad_ike_sa_is_a_fault() {
        let mut raw = ike();
        assert!(raw.parse("site", &mut Vec::new()).is_ok());
        raw.remote_port = Some("65536");
        let fault = raw.parse("site", &mut Vec::new()).unwrap_err();
        assert!(fault.reason.contains("remote-port"), "{fault:?}");
    }
}
