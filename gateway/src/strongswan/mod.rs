//! strongSwan's daemon charon, driven over VICI (the Versatile IKE Control Interface).
//!
//! Layers, lowest first: `packet` and `message` (bytes), `transport` (one connection, one command at a
//! time), [`Client`] (typed commands), [`Events`] (hints that something changed) and [`Supervisor`]
//! (both, over restarts of charon). Protocol: `src/libcharon/plugins/vici/README.md` in strongSwan's
//! source; what charon 5.9.8 does beyond it is cited where it matters.
//!
//! charon parses packets from the internet, so what it says is checked as if it came from there: frames,
//! nesting, counts and string lengths are bounded, and a malformed frame ends the connection.
//!
//! **Events are hints, [`Client::list_sas`] is the truth**: events come late (a new outbound SPI is in use
//! before its event), some never come (the end of a rekeyed SA), and one may be lost to a reconnect.

mod child;
mod connection;
mod error;
mod events;
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
mod transport;

pub use child::{Action, Child, ESP_PROPOSALS};
pub use connection::{Connection, IKE_PROPOSALS, Local, Remote, Revocation, Unique};
pub use error::Error;
pub use events::{Event, EventKind, Events};
pub use operations::{Client, SaList, Version};
pub use sa::{Algorithms, ChildSa, ChildState, Fault, IkeSa, IkeState, TrafficSelector};
pub use supervisor::{Notice, Supervisor};

/// Where charon listens unless `charon.plugins.vici.socket` says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/charon.vici";
