//! The kernel's side: programs, links, maps, pins, interfaces, routes.
pub mod bulk;
pub mod clock;
pub mod cookies;
pub mod counted;
mod handle;
pub mod interface;
mod mapped;
pub mod maps;
pub mod mounts;
pub mod network;
pub mod paths;
pub mod pins;
pub mod programs;
pub mod xfrm;
