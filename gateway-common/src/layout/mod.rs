//! Keys and values of the eBPF maps, byte for byte. Padding is named, Rust enums are absent (user space may
//! write any byte), addresses are octets so that `bpftool map dump` shows the usual order. Ports and
//! numbers are in host byte order.
//!
//! | map | key | value | written by | read by |
//! |---|---|---|---|---|
//! | SETTINGS | 0 | [`Settings`] | gatewayd | all programs |
//! | TUNNELS | tunnel id | [`Tunnel`] | gatewayd | ingress programs |
//! | CUSTOMERS, CUSTOMERS6 | server address | [`Customer`] | gatewayd | LAN ingress |
//! | INBOUND_SPIS | SPI | tunnel id | gatewayd | internet XDP and ingress |
//! | OUTBOUND_SPIS | [`OutboundSpi`] | tunnel id | gatewayd | internet egress |
//! | PEERS | outer address | [`crate::outer::PeerBudgets`] | gatewayd (keys), outer filter (budgets) | outer filter |
//! | SOURCES | outer address or /64 | [`crate::outer::Budgets`] | outer filter | outer filter |
//! | STRANGERS | 0, per CPU | [`crate::outer::Budgets`] of all sources together | outer filter | outer filter |
//! | FLOWS, FLOWS6 | [`crate::tcp::FlowKey`] | [`crate::tcp::Flow`] | ingress programs, expiry | ingress programs, gatewayctl |
//! | NODES, NODES6 | half the node's number | [`crate::wheel::Pair`] | ingress programs, expiry | expiry |
//! | WHEEL | slot | [`crate::wheel::Slot`] | ingress programs, expiry | expiry |
//! | EXPIRY | 0 | [`crate::wheel::Expiry`] | ingress programs, expiry | gatewayctl |
//! | PROGRAMS | [`NextProgram`] | program | gatewayd | ingress programs |
//! | USAGE | customer id | [`Usage`] | ingress programs, expiry | ingress programs, gatewayctl |
//! | COUNTERS | customer id, 0 for none | [`Counters`] | all programs | all programs, gatewayctl |
//! | EVENTS | | [`DropEvent`] | all programs | gatewayd |
mod counters;
mod event;
pub(crate) mod family;
pub mod map_list;
pub(crate) mod prefix;
mod program;
pub(crate) mod settings;
pub(crate) mod tunnel;
pub(crate) mod usage;

pub use self::{
    counters::{Counters, NextHop},
    event::DropEvent,
    family::LayoutFamily,
    prefix::Prefix,
    program::{APPROVED_MARK, Hook, NextProgram},
    settings::{Addresses, ManagementRule, Settings},
    tunnel::{Access, OutboundSpi, Tunnel},
    usage::{Customer, Quota, Usage},
};

#[cfg(feature = "user")]
mod pod {
    //! Plain data for aya's maps.
    use crate::{
        outer::{Budgets, PeerBudgets},
        tcp::{Flow, FlowKey},
        wire::{Ipv4, Ipv6},
    };

    macro_rules! pod {
        ($($type:ty),+ $(,)?) => {
            // SAFETY: repr(C), integers only, every byte named (the sizes are asserted beside the types).
            $(unsafe impl aya::Pod for $type {})+
        };
    }
    pod!(Ipv4, Ipv6, super::Settings, super::Tunnel, super::Customer, super::OutboundSpi);
    pod!(PeerBudgets, Budgets, super::Usage, Flow, super::Counters);
    pod!(FlowKey<Ipv4>, FlowKey<Ipv6>);
}
