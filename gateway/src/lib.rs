//! The cloud gateway's control path: policies in, strongSwan and eBPF maps out.
pub mod policy;
pub mod registry;
