//! The packet decision and the map layouts.
#![no_std]
pub mod ids;
