//! The benchmark: this project and its contenders side by side.
pub mod check;
pub mod control;
pub mod figure;
pub mod figures;
pub mod grid;
pub mod plot;
pub mod report;
pub mod rules;
pub mod statistics;
pub mod store;
pub mod target;
