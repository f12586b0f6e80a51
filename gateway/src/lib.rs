//! The gateway's control: policies in, strongSwan and eBPF maps out.
//!
//! The policy's way: [`policy`] → [`registry`] → [`control`] → [`kernel`] and [`strongswan`];
//! [`daemon`] keeps it going.
pub mod control;
pub mod daemon;
pub mod dataplane;
pub mod events;
pub mod kernel;
pub mod policy;
pub mod registry;
pub mod strongswan;
