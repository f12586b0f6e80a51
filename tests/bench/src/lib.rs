//! The benchmark: this project and its contenders side by side.
//!
//! [`ground`] is where packets go through, a gateway with a contender ([`contender`]) on it; [`traffic`]
//! makes the packets of a workload; [`instructions`], [`time`], [`control`] and [`memory`] measure. Each
//! [`figure`] is a line of JSON; [`report`] makes tables, plots and the [`target`]s' table of all of them, and
//! [`check`] compares them with what they were.
pub mod case;
pub mod check;
pub mod conntrack;
pub mod contender;
pub mod control;
pub mod esp;
pub mod figure;
pub mod figures;
pub mod firewall;
pub mod frames;
pub mod grid;
pub mod ground;
pub mod instructions;
pub mod memory;
pub mod plot;
pub mod report;
pub mod rules;
pub mod statistics;
pub mod store;
pub mod target;
pub mod time;
pub mod traffic;
pub mod tunnel;
pub mod verdicts;
