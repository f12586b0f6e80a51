//! An offline certificate authority for one VPN gateway and its customers' sites.
//!
//! Everything lives in one folder: the authorities' certificates and encrypted keys, what they issued, their CRLs,
//! and an index that is the truth about all of it. Nothing here opens a socket, asks the clock or a terminal: the
//! time, the source of randomness and passphrases are arguments.
//!
//! ```text
//! index.json                  what was issued and revoked, with a checksum
//! root.crt root.key root.crl  the root: P-384, 10 years
//! issuing.crt .key .crl       the issuing authority below it, if there is one
//! issued/NAME/SERIAL.crt      each certificate that was ever issued; renewal adds one
//! issued/NAME/SERIAL.key      its key, if it was made here
//! ```
//!
//! A change writes new files first and the index last, each atomically: after a crash the index names either the
//! state before or the state after.
#![forbid(unsafe_code)]

mod authority;
mod certificate;
mod clock;
mod crl;
mod distinguished;
mod error;
mod folder;
mod identity;
mod index;
mod init;
mod issue;
mod key;
mod name;
mod passphrase;
mod pki;
mod request;
mod revoke;
mod serial;
mod subject;
#[cfg(test)]
mod tests;

pub use authority::SigningAuthority;
pub use clock::{Clock, utc};
pub use crl::Crl;
pub use distinguished::DistinguishedName;
pub use error::{Error, Result};
pub use folder::{export, read_file};
pub use identity::Identity;
pub use index::{AuthorityRecord, KeyPlace, Kind, Reason, Record, Revocation, Role, State};
pub use init::{NewAuthority, init};
pub use issue::NewCertificate;
pub use name::Name;
pub use passphrase::{KeyProtection, Passphrase, ROUNDS};
pub use pki::{Files, Pki};
pub use request::Request;
pub use revoke::{Published, Selection};
pub use serial::Serial;
