//! The decision about an inner packet. Pure code, so the eBPF programs and the tests run the same: parse,
//! identify the tunnel, look up the flow, decide.
//!
//! In eBPF the decision runs as two programs. The fast path (`*_fast`) decides nearly every packet: the
//! expected next segment of its connection, or one that is never allowed. The full path (`*_full`) decides
//! all others from the start.
//!
//! Every packet is checked against the policy, not only a connection's first: a policy change or a lost
//! tunnel takes effect with the very next packet.
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
