//! The flood test: one customer's site and the whole internet flood the real programs on real veths. The
//! other customers' devices must not notice.
//!
//! [`party`] names the customers, [`ground`] makes the namespaces, [`firewall`] sets up programs and maps,
//! [`attack`] floods while [`victim`]s and [`peer`]s work and [`new_site`]s connect, [`watch`] observes the
//! gateway, [`judge`] decides, and [`run`] prints. [`opening`] measures what opening and ending flows costs
//! each CPU.
pub(crate) mod attack;
pub(crate) mod firewall;
pub mod frames;
mod ground;
mod judge;
mod new_site;
pub mod opening;
mod outcome;
pub(crate) mod party;
mod peer;
pub mod run;
mod server;
mod victim;
mod watch;
