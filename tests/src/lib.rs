//! Tests of the whole: packet replay.
pub mod replay;
