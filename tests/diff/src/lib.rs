//! The differential test: the same packets go at the same time through the original iptables rules
//! with the kernel's own connection tracking, and through our programs on real veths; verdicts and
//! bytes are compared packet by packet.
//!
//! generate → [`arena`] (both sides) → compare, with the differences on [`purpose`] → shrink → report.
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
