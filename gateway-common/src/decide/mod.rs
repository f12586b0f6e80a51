//! The decision about an inner packet: pure, so that the eBPF programs and the tests run this
//! very code. parse → identify the tunnel → look up the flow → decide.
//!
//! In two steps, which are programs of their own in eBPF: what can be decided at once, which is nearly every
//! packet, since it is the next one of its connection or never allowed; and all the rest, from the beginning.
//!
//! What is allowed is asked of every packet, not of a connection's first: a policy that changes, or a
//! tunnel that goes, holds for the very next packet.
mod decision;
mod identity;
mod opening;
mod packet;
mod quota;
mod server;
mod site;
mod tables;

pub use self::{
    decision::{Decision, Syn},
    identity::Identity,
    server::{from_server, from_server_fast, from_server_full},
    site::{from_site, from_site_fast, from_site_full},
    tables::{FamilyTables, FlowCell, NotInserted, Scratch, Tables, UsageCell, ready},
};
