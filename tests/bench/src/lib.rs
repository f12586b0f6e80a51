//! The benchmark: measures this project beside its contenders.
//!
//! [`contender`] is the one table of contenders. [`working`] sets one up on a [`ground`], a gateway in a
//! network namespace, and [`traffic`] makes the packets of a [`case`]. [`instructions`], [`time`],
//! [`control`] and [`memory`] measure and print each [`figure`] as a line of JSON. [`report`] turns all
//! figures into tables, plots and the table of [`target`]s; [`check`] compares new figures with the committed
//! ones.
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
pub mod number;
pub mod plot;
pub mod report;
pub mod rules;
pub mod selection;
pub mod statistics;
pub mod store;
pub mod tables;
pub mod target;
pub mod time;
pub mod traffic;
pub mod tunnel;
pub mod tunnels;
pub mod verdicts;
pub mod working;
pub mod workload;
