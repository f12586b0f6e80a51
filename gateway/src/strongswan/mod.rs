//! strongSwan's daemon charon, driven over VICI (the Versatile IKE Control Interface).
//!
//! Layers, lowest first: `frame`, `message` and `packet` (bytes), `transport` (one connection, one command at
//! a time), [`Client`] (typed commands), [`Events`] (what has changed) and [`Supervisor`] (both,
//! across restarts of charon). Protocol: `src/libcharon/plugins/vici/README.md` in strongSwan's source.
//! Comments cite the behaviour of charon 5.9.8 that the README does not describe.
//!
//! charon parses packets from the internet, so its answers are treated as untrusted: frames, nesting, counts
//! and string lengths are bounded, and a malformed frame closes the connection.
//!
//! **[`Client::list_sas`] is the truth.** Events say what has changed, but they come late (a new outbound SPI is in use
//! before its event), some never come (the end of a rekeyed SA), and a reconnect may lose one.

mod check;
mod child;
mod connection;
mod error;
mod events;
mod frame;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod message;
mod operations;
mod packet;
mod raw_sa;
mod reply;
mod sa;
mod supervisor;
mod time;
mod transport;
mod version;

pub use crate::process::Process;
pub use child::{Action, Child, ESP_PROPOSALS, Marks};
pub use connection::{Connection, IKE_PROPOSALS, Local, PeerIdentity, Remote, Revocation, Unique};
pub use error::Error;
pub use events::{Event, EventKind, Events};
pub use operations::{Client, Loaded, SaList};
pub use sa::{Algorithms, ChildSa, ChildState, Fault, IkeSa, IkeState, TrafficSelector};
pub use supervisor::{Notice, Supervisor};
pub use version::Version;

/// charon's socket unless `charon.plugins.vici.socket` sets another.
pub const DEFAULT_SOCKET: &str = "/run/charon.vici";
