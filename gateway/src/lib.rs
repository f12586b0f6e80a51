//! The gateway's control: policies in, strongSwan and eBPF maps out.
pub mod kernel;
pub mod strongswan;
