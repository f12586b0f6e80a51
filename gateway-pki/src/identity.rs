//! IKE identities in certificates: FQDN, e-mail address, IP address and distinguished name (RFC 4945, 3.1).
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::distinguished::DistinguishedName;
use crate::error::{Error, Result};

/// Longest domain name as text without the root's dot (RFC 1035, 2.3.4).
const MAX_DOMAIN: usize = 253;
const MAX_LABEL: usize = 63;
/// Longest local part of an e-mail address (RFC 5321, 4.5.3.1.1).
const MAX_LOCAL: usize = 64;

/// An identity that names exactly one peer. Letters are in lower case outside distinguished names, because IKE
/// compares them without regard to case and the index must not.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Identity {
    /// A fully qualified domain name: a dNSName.
    Fqdn(String),
    /// An e-mail address: an rfc822Name.
    Email(String),
    /// An address of one host: an iPAddress.
    Ip(IpAddr),
    /// A distinguished name: the certificate's subject.
    Dn(DistinguishedName),
}

impl FromStr for Identity {
    type Err = Error;

    /// Tells the kinds apart like strongSwan (identification.c): `=` makes a distinguished name, `@` an e-mail
    /// address, an address is one if it can be parsed.
    fn from_str(text: &str) -> Result<Self> {
        if text.contains('=') {
            return Ok(Self::Dn(text.parse()?));
        }
        let shown: String = text.chars().take(80).collect();
        let fault = |fault: &str| Err(Error::Identity(format!("{shown:?} cannot be an identity: {fault}")));
        if let Ok(address) = text.parse::<IpAddr>() {
            return match address {
                address if address.is_unspecified() || address.is_multicast() || address.is_loopback() => {
                    fault("the address is not that of one host")
                }
                IpAddr::V4(address) if address.is_broadcast() => fault("the address is not that of one host"),
                address => Ok(Self::Ip(address)),
            };
        }
        if text.chars().any(|c| c.is_ascii_uppercase()) {
            return fault("it has capital letters, and identities are written in lower case");
        }
        match text.split_once('@') {
            Some((local, domain)) if !is_local(local) => {
                _ = domain;
                fault("the part before the `@` needs 1 to 64 of a-z, 0-9, `.`, `-`, `_` and `+`")
            }
            Some((_, domain)) => match domain_fault(domain) {
                None => Ok(Self::Email(text.to_owned())),
                Some(reason) => fault(reason),
            },
            None => match domain_fault(text) {
                None => Ok(Self::Fqdn(text.to_owned())),
                Some(reason) => fault(reason),
            },
        }
    }
}

fn is_local(local: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_+".contains(&byte);
    (1..=MAX_LOCAL).contains(&local.len())
        && local.bytes().all(allowed)
        && !local.starts_with('.')
        && !local.ends_with('.')
        && !local.contains("..")
}

fn domain_fault(domain: &str) -> Option<&'static str> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let is_label = |label: &str| {
        (1..=MAX_LABEL).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-')
    };
    let top = domain.rsplit('.').next().unwrap_or_default();
    match () {
        () if domain.len() > MAX_DOMAIN => Some("a domain name has at most 253 characters"),
        () if !domain.split('.').all(is_label) => {
            Some("a label is empty, longer than 63 characters, or begins or ends with `-`")
        }
        () if !domain.split('.').all(|label| label.bytes().all(allowed)) => {
            Some("a domain name has only a-z, 0-9, `-` and `.`, and wildcards would name more than one peer")
        }
        () if !domain.contains('.') => Some("the domain name is not fully qualified"),
        () if !top.bytes().any(|byte| byte.is_ascii_lowercase()) => {
            Some("it is an address that cannot be parsed, or ends like one")
        }
        () => None,
    }
}

impl TryFrom<String> for Identity {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Identity> for String {
    fn from(identity: Identity) -> Self {
        identity.to_string()
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fqdn(text) | Self::Email(text) => f.pad(text),
            Self::Ip(address) => address.fmt(f),
            Self::Dn(name) => name.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_told_apart() {
        for (text, is_kind) in [
            ("berlin.acme.example", (|id| matches!(id, Identity::Fqdn(_))) as fn(&Identity) -> bool),
            ("vpn@acme.example", |id| matches!(id, Identity::Email(_))),
            ("203.0.113.9", |id| matches!(id, Identity::Ip(_))),
            ("2001:db8::1", |id| matches!(id, Identity::Ip(_))),
            ("C=DE, O=Acme, CN=berlin", |id| matches!(id, Identity::Dn(_))),
        ] {
            let identity: Identity = text.parse().unwrap();
            assert!(is_kind(&identity), "{text}: {identity:?}");
            assert_eq!(identity.to_string(), text);
        }
    }

    #[test]
    fn identity_of_more_than_one_peer_or_none_is_refused() {
        let long = "a.".repeat(127) + "example";
        for text in [
            "",
            "*",
            "%any",
            "*.acme.example",
            "berlin",
            "Berlin.acme.example",
            "10.0.0",
            "10.0.0.256",
            "0.0.0.0",
            "::",
            "224.0.0.1",
            "127.0.0.1",
            "255.255.255.255",
            "@berlin.acme.example",
            "a@b",
            "a b@acme.example",
            "..a@acme.example",
            "#00",
            "fqdn:berlin",
            "-a.example",
            "a..example",
            "berlin.acme.example.",
            &long,
            "berlin.acme.example\n",
            "bërlin.example",
            "CN=*",
            "CN=",
            "=x",
            "CN",
            "XY=1",
            "CN=a, CN=b",
        ] {
            assert!(text.parse::<Identity>().is_err(), "{text:?}");
        }
    }
}
