//! Code shared by the eBPF programs, the daemon and the tests: wire formats, ids, map layouts and the packet
//! decision itself. No IO, no allocation, no clock: time is an argument.
//!
//! A packet passes through the modules in this order: [`wire`] → [`family`] → [`packet`] → [`decide`] (with
//! [`tcp`]); outer packets go through [`outer`]. [`layout`] holds the map values they look up.
#![no_std]

pub mod decide;
pub mod family;
pub mod ids;
pub mod index;
pub mod layout;
pub mod limits;
pub mod lock;
pub mod magazine;
pub mod node;
pub mod outer;
pub mod packet;
pub mod rate;
pub mod reason;
pub mod seq;
pub mod tcp;
pub mod time;
pub mod wheel;
pub mod wire;
