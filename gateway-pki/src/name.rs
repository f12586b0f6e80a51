//! Names of certificates in the folder.
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::identity::Identity;

const MAX_BYTES: usize = 128;

/// The name of a gateway's or site's certificates, which is also their folder: by default the identity.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

impl Name {
    /// Returns the identity as a name. Fails for a distinguished name, which is no file name.
    pub fn of(identity: &Identity) -> Result<Self> {
        identity.to_string().parse()
    }

    /// Returns the name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_@:".contains(&byte);
        let is_name = (1..=MAX_BYTES).contains(&name.len())
            && name.bytes().all(allowed)
            && !name.starts_with(['.', '-']);
        if is_name { Ok(Self(name.to_owned())) } else { Err(Error::Name(name.to_owned())) }
    }
}

impl TryFrom<String> for Name {
    type Error = Error;

    fn try_from(name: String) -> Result<Self> {
        name.parse()
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_never_leaves_the_folder() {
        for name in ["", ".", "..", "../x", "a/b", "-x", ".hidden", "a b", "a\n", "ü", &"a".repeat(129)] {
            assert!(name.parse::<Name>().is_err(), "{name:?}");
        }
        for name in ["berlin.acme.example", "fd00::1", "vpn@acme.example", "a"] {
            assert!(name.parse::<Name>().is_ok(), "{name:?}");
        }
    }
}
