//! What the eBPF programs, the daemon and the tests share: wire formats, ids, the map
//! layouts and the packet decision itself. No IO, no allocation, no clock: time is an argument.
//!
//! The packet's way through the modules: [`wire`] → [`family`] → [`packet`] → [`decide`] (with
//! [`predict`] and [`track`]), and of outer packets [`outer`] → [`budget`]. What it looks up on its way is in
//! [`layout`].
#![no_std]

pub mod budget;
pub mod decide;
pub mod family;
pub mod ids;
pub mod layout;
pub mod layout_maps;
pub mod limits;
pub mod outer;
pub mod packet;
pub mod predict;
pub mod reason;
pub mod slot;
pub mod tcp;
pub mod track;
pub mod wheel;
pub mod wire;
