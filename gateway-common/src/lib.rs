//! What the eBPF programs, the daemon and the tests share: wire formats, ids, the map
//! layouts and the packet decision itself. No IO, no allocation, no clock: time is an argument.
//!
//! The packet's way through the modules: [`wire`] → [`family`] → [`packet`] → [`decide`] (with
//! [`tcp`]), and of outer packets [`outer`]. What it looks up on its way is in [`layout`].
#![no_std]

pub mod decide;
pub mod family;
pub mod ids;
pub mod index;
pub mod layout;
pub mod limits;
pub mod lock;
pub mod outer;
pub mod packet;
pub mod rate;
pub mod reason;
pub mod tcp;
pub mod time;
pub mod wheel;
pub mod wire;
