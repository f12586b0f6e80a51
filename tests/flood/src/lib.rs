//! The flood test: one customer's site and the whole internet send everything at once, through the real
//! programs on real veths; meanwhile the other customers' devices must not notice.
//!
//! [`party`] (who) → [`ground`] (namespaces) → [`firewall`] (programs and maps) → [`attack`] against
//! [`victim`]s and [`peer`]s, seen by [`watch`] → [`judge`] → [`run`] prints.
pub(crate) mod attack;
pub(crate) mod firewall;
pub mod frames;
mod ground;
mod judge;
pub(crate) mod party;
mod peer;
pub mod run;
mod server;
mod victim;
mod watch;
