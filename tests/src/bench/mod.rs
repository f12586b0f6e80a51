//! The benchmark: this project and its contenders side by side.
pub mod figure;
pub mod rules;
