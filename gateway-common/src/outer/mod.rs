//! The outer filter: packets that may reach the gateway from the internet, packets that may leave to it,
//! and the gateway's own packets on the LAN.
mod arrival;
mod budget;
mod classify;
pub mod cookie;
mod icmp;
mod lan_budget;
mod lan_neighbour;
mod neighbour;

pub use self::{
    arrival::{Arrival, Outer},
    budget::{Budgets, CLASSES, Class, PeerBudgets, charge_stranger},
    classify::{classify_incoming, classify_incoming_into, classify_outgoing, classify_to_lan},
    icmp::quoted_esp,
    lan_budget::{charge_neighbour, neighbour_buckets},
    lan_neighbour::check_neighbour_on_lan,
    neighbour::is_neighbour_on_lan,
};
