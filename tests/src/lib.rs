//! Tests of the whole: packet replay through the real programs, and the lab.
pub mod lab;
