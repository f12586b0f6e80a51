//! IKE identities.
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::fault::{Invalid, quote};
use super::names::text;

/// Longest name as text without the root's dot (RFC 1035, 2.3.4).
const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;

/// An IKE identity: a fully qualified domain name in lower case that must be a subject alternative name
/// of the peer's certificate.
///
/// strongSwan guesses an identity's type from its text (identification.c): `%any`, `*` and all-zero
/// addresses match any peer, `=` makes a distinguished name, `@`, `#` and `type:` set the type, and
/// digits with dots are an address. Letters, digits, hyphens and dots with a letter in the last label
/// exclude all of these, so an identity names exactly one peer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Identity(String);

impl FromStr for Identity {
    type Err = Invalid;

    fn from_str(name: &str) -> Result<Self, Invalid> {
        let shown = quote(name);
        let fault = if name.is_empty() {
            "the identity is empty".to_owned()
        } else if name.len() > MAX_NAME {
            format!("the identity {shown} has {} characters", name.len())
        } else if name.chars().any(|c| c.is_ascii_uppercase()) {
            return Err(Invalid::new(
                format!("the identity {shown} has capital letters"),
                quote(&name.to_ascii_lowercase()),
            ));
        } else if let Some(c) = name.chars().find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '-' | '.')) {
            format!("the identity {shown} contains {c:?}, and an identity must name exactly one peer")
        } else if !name.split('.').all(is_label) {
            format!(
                "the identity {shown} has a label that is empty, longer than 63 characters, or begins or ends \
                 with `-`"
            )
        } else if !name.contains('.') {
            format!("the identity {shown} is not fully qualified")
        } else if !name.rsplit('.').next().is_some_and(|top| top.contains(|c: char| c.is_ascii_lowercase())) {
            format!("the identity {shown} is an address or ends like one")
        } else {
            return Ok(Self(name.to_owned()));
        };
        Err(Invalid::new(
            fault,
            "a domain name that is a subject alternative name of the certificate, such as `berlin.acme.example`",
        ))
    }
}

fn is_label(label: &str) -> bool {
    (1..=MAX_LABEL).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-')
}

text!(Identity);
