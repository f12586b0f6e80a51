//! What the decision asks of a packet beside TCP's state, rule by rule and in both families: one packet
//! that is just right, and others that differ from it in one thing.
mod at_once;
mod frames;
mod inner;
mod path_mtu;
mod policy;
mod quota;
#[path = "../decision/world.rs"]
mod world;
