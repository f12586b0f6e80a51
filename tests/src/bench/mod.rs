//! The benchmark: this project and its contenders side by side.
//!
//! [`ground`] is where packets go through, a gateway with a contender ([`contender`]) on it; [`traffic`]
//! makes the packets of a workload; [`instructions`] and [`time`] measure.
pub mod case;
pub mod conntrack;
pub mod contender;
pub mod esp;
pub mod figure;
pub mod firewall;
pub mod frames;
pub mod ground;
pub mod instructions;
pub mod rules;
pub mod statistics;
pub mod time;
pub mod traffic;
pub mod tunnel;
pub mod verdicts;
