//! Policy files: read, checked and parsed into values.
//!
//! `files` reads the directory, `document` parses each file and reports its faults, `conflicts` checks
//! the files against one another, `resolve` decides which versions are in force, and `load` does all of it.
//! `texts` are the files of the policy in force, to read it again at the next start.
//! The result, a [`Policy`], holds parsed values only. `credentials` reads the files that it names.
mod certificate;
mod conflicts;
mod credentials;
mod customer;
mod document;
mod draft;
mod fault;
mod files;
mod folder;
mod gateway;
mod identity;
mod key;
mod keys;
mod limits;
mod load;
mod model;
mod names;
mod pem;
mod prefix;
mod regular;
mod removals;
mod resolve;
#[cfg(test)]
mod tests;
mod texts;

pub use credentials::{CredentialCheck, Credentials, check_certificates, read_credentials};
pub use customer::{Customer, Server, Site};
pub use document::Adopt;
pub(crate) use document::parse_path;
pub use fault::{Fault, Faults, Invalid, Position};
pub(crate) use files::MAX_FILE_BYTES;
pub use gateway::{Gateway, Ipsec, Management, Midstream, Protocol};
pub use identity::Identity;
pub use limits::{DEFAULT_SERVER_PORT, Limits, MAX_LAN_PREFIXES, MAX_MANAGEMENT, Quota, SiteQuota, Timeouts};
pub use load::{Reload, load, reload, reload_with, restore};
pub use model::Policy;
pub use names::{CustomerName, InterfaceName, SiteName, connection_name, parse_connection_name};
pub(crate) use regular::read_regular;
pub use removals::{Removals, check_removals};
pub use texts::Texts;
