//! The gateway's tests that need more than the host: packets through the real programs, and the
//! lab with real tunnels.
pub mod bench;
pub mod bpf;
pub mod diff;
pub mod flood;
pub mod lab;
pub mod raw;
pub mod replay;
