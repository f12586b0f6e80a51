//! The index: the truth about what was issued and revoked.
use std::fmt;

use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::clock::{Period, at};
use crate::error::{Error, Result};
use crate::folder::Folder;
use crate::identity::Identity;
use crate::name::Name;
use crate::serial::Serial;

pub(crate) const INDEX: &str = "index.json";
/// Largest index in bytes: some 100,000 certificates.
const MAX_BYTES: u64 = 64 << 20;
const VERSION: u32 = 1;

/// Everything that the folder's owner must not lose. Times are seconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Index {
    pub version: u32,
    /// The time of the last change.
    pub changed: i64,
    /// The root, then the issuing authority if there is one.
    pub authorities: Vec<AuthorityRecord>,
    /// End-entity certificates, in the order in which they were issued.
    pub certificates: Vec<Record>,
}

/// The file: the index and its SHA-256, which finds damage. It is no protection against forgery.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored<I> {
    sha256: String,
    index: I,
}

/// An authority and its CRL.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthorityRecord {
    /// Its place in the chain.
    pub role: Role,
    /// Serial number of its certificate.
    pub serial: Serial,
    pub(crate) from: i64,
    pub(crate) until: i64,
    /// SHA-256 of its public key (SubjectPublicKeyInfo), hexadecimal.
    pub(crate) key_sha256: String,
    /// Its certificate, PEM.
    pub certificate: String,
    /// Number of its last CRL.
    pub crl_number: u64,
    pub(crate) crl_from: i64,
    pub(crate) crl_until: i64,
    /// Its last CRL, PEM.
    pub crl: String,
    /// Set for an issuing authority that the root has revoked.
    pub revoked: Option<Revocation>,
    /// Its certificates before the last renewal, for the same key: they are revoked with the last one.
    pub(crate) former: Vec<Former>,
}

/// A certificate that another one has taken the place of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Former {
    pub serial: Serial,
    pub until: i64,
}

/// A certificate of a gateway or site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Name and folder.
    pub name: Name,
    /// The owner's kind.
    pub kind: Kind,
    /// The owner's IKE identity.
    pub identity: Identity,
    /// Serial number.
    pub serial: Serial,
    pub(crate) from: i64,
    pub(crate) until: i64,
    /// SHA-256 of the certificate (DER), hexadecimal.
    pub sha256: String,
    /// SHA-256 of its public key (SubjectPublicKeyInfo), hexadecimal.
    pub(crate) key_sha256: String,
    /// The whereabouts of its private key.
    pub key: KeyPlace,
    /// The authority that signed it.
    pub issuer: Role,
    /// Set if it is revoked.
    pub revoked: Option<Revocation>,
}

/// A revocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revocation {
    pub(crate) at: i64,
    /// The reason that the CRL gives.
    pub reason: Reason,
}

/// Gives an enum's variants their names in the index, in commands and in output.
macro_rules! named {
    ($(#[$of_type:meta])* $type:ident { $($(#[$doc:meta])* $variant:ident = $name:literal,)* }) => {
        $(#[$of_type])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $type {
            $($(#[$doc])* #[serde(rename = $name)] $variant,)*
        }

        impl $type {
            /// All variants.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// Returns the name in the index and in output.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.name())
            }
        }
    };
}

named! {
    /// An authority's place in the chain, which is also the name of its files.
    Role {
        /// Self-signed; the gateway and the sites trust it.
        Root = "root",
        /// Signed by the root; signs the others' certificates.
        Issuing = "issuing",
    }
}

named! {
    /// The owner of a certificate.
    Kind {
        /// The cloud gateway.
        Gateway = "gateway",
        /// A customer's site.
        Site = "site",
    }
}

named! {
    /// The whereabouts of a certificate's private key.
    KeyPlace {
        /// On a card or router: the certificate was made for a request.
        Elsewhere = "elsewhere",
        /// Beside the certificate, not encrypted.
        Plain = "plain",
        /// Beside the certificate, encrypted under a passphrase.
        Encrypted = "encrypted",
    }
}

named! {
    /// The reason for a revocation (RFC 5280, 5.3.1).
    Reason {
        /// None is given.
        Unspecified = "unspecified",
        /// Someone else may have the key.
        KeyCompromise = "key-compromise",
        /// The owner's name or other contents have changed.
        AffiliationChanged = "affiliation-changed",
        /// Another certificate took its place.
        Superseded = "superseded",
        /// The site or gateway is no more.
        CessationOfOperation = "cessation-of-operation",
    }
}

named! {
    /// The state of a certificate at some time.
    State {
        /// It can be used.
        Valid = "valid",
        /// Its period has not begun.
        NotYet = "not yet valid",
        /// Its period has ended.
        Expired = "expired",
        /// It is revoked, whatever its period.
        Revoked = "revoked",
    }
}

impl Index {
    pub fn new(authorities: Vec<AuthorityRecord>, now: OffsetDateTime) -> Self {
        Self { version: VERSION, changed: now.unix_timestamp(), authorities, certificates: Vec::new() }
    }

    /// Reads the index of a folder.
    pub fn read(folder: &Folder) -> Result<Self> {
        let path = folder.at(INDEX);
        let Some(bytes) = folder.read(INDEX, MAX_BYTES)? else {
            return Err(Error::NoAuthority(folder.at("")));
        };
        let damaged = |fault: String| Error::Index { path: path.clone(), fault };
        let stored: Stored<Self> =
            serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        if stored.index.checksum()? != stored.sha256 {
            return Err(damaged("its checksum is wrong".to_owned()));
        }
        if stored.index.version != VERSION {
            return Err(damaged(format!("its version is {}, not {VERSION}", stored.index.version)));
        }
        let roles: Vec<Role> = stored.index.authorities.iter().map(|authority| authority.role).collect();
        if !matches!(roles[..], [Role::Root] | [Role::Root, Role::Issuing]) {
            return Err(damaged("it has no root".to_owned()));
        }
        Ok(stored.index)
    }

    /// Replaces the index of a folder.
    pub fn write(&self, folder: &Folder) -> Result<()> {
        let stored = Stored { sha256: self.checksum()?, index: self };
        let mut text =
            serde_json::to_vec_pretty(&stored).map_err(|error| Error::Crypto(error.to_string()))?;
        text.push(b'\n');
        folder.replace(INDEX, &text)
    }

    fn checksum(&self) -> Result<String> {
        let compact = serde_json::to_vec(self).map_err(|error| Error::Crypto(error.to_string()))?;
        Ok(sha256(&compact))
    }
}

impl AuthorityRecord {
    /// Returns the first and the last moment of its certificate.
    #[must_use]
    pub fn period(&self) -> (OffsetDateTime, OffsetDateTime) {
        (at(self.from), at(self.until))
    }

    /// Returns the time of its CRL and the time until which that is to be used.
    #[must_use]
    pub fn crl_period(&self) -> (OffsetDateTime, OffsetDateTime) {
        (at(self.crl_from), at(self.crl_until))
    }

    /// Returns the state of its certificate.
    #[must_use]
    pub fn state(&self, now: OffsetDateTime) -> State {
        state(Period { from: self.from, until: self.until }, self.revoked, now)
    }
}

impl Record {
    /// Returns the first and the last moment.
    #[must_use]
    pub fn period(&self) -> (OffsetDateTime, OffsetDateTime) {
        (at(self.from), at(self.until))
    }

    /// Returns the state of the certificate.
    #[must_use]
    pub fn state(&self, now: OffsetDateTime) -> State {
        state(Period { from: self.from, until: self.until }, self.revoked, now)
    }

    /// Returns the file of the certificate (`crt`) or key (`key`) in the folder.
    pub(crate) fn file(&self, extension: &str) -> String {
        format!("issued/{}/{}.{extension}", self.name, self.serial)
    }
}

impl Reason {
    /// Returns true if the key may be certified again: nothing is said against it.
    pub(crate) fn spares_key(self) -> bool {
        match self {
            Self::Unspecified | Self::KeyCompromise => false,
            Self::AffiliationChanged | Self::Superseded | Self::CessationOfOperation => true,
        }
    }
}

impl Revocation {
    /// Returns the time of the revocation.
    #[must_use]
    pub fn time(&self) -> OffsetDateTime {
        at(self.at)
    }
}

fn state(period: Period, revoked: Option<Revocation>, now: OffsetDateTime) -> State {
    let now = now.unix_timestamp();
    match () {
        () if revoked.is_some() => State::Revoked,
        () if now < period.from => State::NotYet,
        () if now > period.until => State::Expired,
        () => State::Valid,
    }
}

/// Returns the SHA-256 in hexadecimal digits.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
