//! What stands in the eBPF maps: keys and values, byte for byte. No padding that is not named, no
//! Rust enums (user space may write any byte), addresses as octets so that `bpftool map dump`
//! shows them as people write them. Ports and numbers are in host byte order.
//!
//! [`map_list`] lists the maps with their types, bounds, writers and readers.
mod counters;
mod event;
pub mod map_list;
pub(crate) mod family;
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
            // SAFETY: repr(C), integers only, every byte named (see the sizes above).
            $(unsafe impl aya::Pod for $type {})+
        };
    }
    pod!(Ipv4, Ipv6, super::Settings, super::Tunnel, super::Customer, super::OutboundSpi);
    pod!(PeerBudgets, Budgets, super::Usage, Flow, super::Counters);
    pod!(FlowKey<Ipv4>, FlowKey<Ipv6>);
}
