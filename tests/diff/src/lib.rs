//! The differential test: sends the same packets through the original iptables rules with the kernel's own
//! connection tracking and through our programs, on real veths, and compares verdicts and bytes packet by
//! packet.
//!
//! generate → exchange in an [`arena`] with both sides → compare, allowing for the intended differences
//! ([`purpose`]) → shrink → report.
pub mod arena;
pub mod finding;
pub mod generate;
mod kernel_state;
pub mod purpose;
pub mod round;
pub mod run;
pub mod segment;
mod shrink;
mod side;
