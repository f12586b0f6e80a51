//! The gateway's control: policies in, strongSwan and eBPF maps out.
pub mod control;
pub mod kernel;
pub mod policy;
pub mod registry;
pub mod strongswan;
