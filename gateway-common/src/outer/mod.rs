//! The internet side: what may reach the gateway from there, and what may leave to it.
mod arrival;
mod budget;
mod classify;
mod icmp;
mod neighbour;

pub use self::{
    arrival::{Arrival, Outer},
    budget::{Budgets, CLASSES, Class, PeerBudgets},
    classify::{classify_incoming, classify_incoming_into, classify_outgoing, classify_to_lan},
    icmp::quoted_esp,
    neighbour::is_neighbour_on_lan,
};
