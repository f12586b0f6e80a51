//! The rules of the decision besides TCP's state, one by one and in both families: one packet that passes,
//! and variants that differ in one detail.
mod binding;
mod fast;
mod frames;
mod inner;
mod path_mtu;
mod policy;
mod quota;
mod race;
mod share;
#[path = "../decision/world.rs"]
mod world;
