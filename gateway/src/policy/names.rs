//! Names of customers, sites and interfaces.
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::fault::{Invalid, quote};

const MAX_NAME: usize = 32;
/// Names that a message lists.
const MAX_LISTED: usize = 8;
/// `IFNAMSIZ` without its final NUL (linux/if.h).
const MAX_INTERFACE_NAME: usize = 15;

/// A customer's name: `[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?`. It needs no quoting in metric labels and in
/// strongSwan's connection names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CustomerName(String);

/// A site's name, unique within its customer. Same form as [`CustomerName`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SiteName(String);

/// A network interface's name: 1 to 15 printable ASCII characters without `/` and `:`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InterfaceName(String);

/// Returns the name of the site's connection and CHILD_SA in strongSwan: `customer.site`. Neither name
/// contains a `.`, so [`parse_connection_name`] can split it.
pub fn connection_name(customer: &CustomerName, site: &SiteName) -> String {
    format!("{customer}.{site}")
}

/// Splits a [`connection_name`]; returns `None` for any other text.
pub fn parse_connection_name(name: &str) -> Option<(CustomerName, SiteName)> {
    let (customer, site) = name.split_once('.')?;
    Some((customer.parse().ok()?, site.parse().ok()?))
}

/// Returns the first names as text, for a message of bounded length.
pub(super) fn listed<'n>(names: impl ExactSizeIterator<Item = &'n CustomerName>) -> String {
    let more = if names.len() > MAX_LISTED { ", …" } else { "" };
    let first: Vec<&str> = names.take(MAX_LISTED).map(CustomerName::as_str).collect();
    first.join(", ") + more
}

impl FromStr for CustomerName {
    type Err = Invalid;

    fn from_str(name: &str) -> Result<Self, Invalid> {
        check_name("customer", name).map(Self)
    }
}

impl FromStr for SiteName {
    type Err = Invalid;

    fn from_str(name: &str) -> Result<Self, Invalid> {
        check_name("site", name).map(Self)
    }
}

impl FromStr for InterfaceName {
    type Err = Invalid;

    /// Checks the kernel's rule (dev_valid_name, net/core/dev.c), narrowed to printable ASCII.
    fn from_str(name: &str) -> Result<Self, Invalid> {
        let expected = "1 to 15 printable ASCII characters without spaces, `/` and `:`, such as `eth0`";
        let fault = if name.is_empty() {
            "the interface's name is empty".to_owned()
        } else if name.len() > MAX_INTERFACE_NAME {
            format!("the interface's name {} has {} bytes", quote(name), name.len())
        } else if let Some(c) = name.chars().find(|c| !c.is_ascii_graphic() || "/:".contains(*c)) {
            format!("the interface's name {} contains {c:?}", quote(name))
        } else if name == "." || name == ".." {
            format!("{} cannot be an interface's name", quote(name))
        } else {
            return Ok(Self(name.to_owned()));
        };
        Err(Invalid::new(fault, expected))
    }
}

fn check_name(what: &str, name: &str) -> Result<String, Invalid> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let fault = if name.is_empty() {
        format!("the {what}'s name is empty")
    } else if let Some(c) = name.chars().find(|c| !allowed(*c)) {
        format!("the {what}'s name {} contains {c:?}", quote(name))
    } else if name.starts_with('-') || name.ends_with('-') {
        format!("the {what}'s name {} begins or ends with `-`", quote(name))
    } else if name.len() > MAX_NAME {
        format!("the {what}'s name {} has {} characters", quote(name), name.len())
    } else {
        return Ok(name.to_owned());
    };
    Err(Invalid::new(fault, "1 to 32 characters of a-z, 0-9 and `-`, the `-` neither first nor last"))
}

macro_rules! text {
    ($($name:ident),*) => {$(
        impl $name {
            /// Returns the name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = Invalid;

            fn try_from(name: String) -> Result<Self, Invalid> {
                name.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }
    )*};
}
pub(super) use text;

text!(CustomerName, SiteName, InterfaceName);
