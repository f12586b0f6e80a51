//! The gateway's control: policies in, strongSwan and eBPF maps out.
pub mod control;
pub mod kernel;
