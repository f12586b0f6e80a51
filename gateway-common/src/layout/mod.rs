//! Keys and values of the eBPF maps, byte for byte. Padding is named, Rust enums are absent (user space may
//! write any byte), addresses are octets so that `bpftool map dump` shows the usual order. Ports and
//! numbers are in host byte order.
//!
//! [`map_list`] lists the maps with their types, bounds, writers and readers.
pub(crate) mod binding;
mod counters;
mod event;
pub(crate) mod family;
pub mod map_list;
pub(crate) mod prefix;
pub(crate) mod program;
pub(crate) mod settings;
pub(crate) mod tunnel;
pub(crate) mod usage;

pub use self::{
    binding::Binding,
    counters::{Counters, Drops, NextHop, Reports, Run, Unattributed},
    event::DropEvent,
    family::LayoutFamily,
    prefix::Prefix,
    program::{APPROVED_MARK, Hook, NextProgram},
    settings::{Addresses, ManagementRule, Settings},
    tunnel::{Access, NO_PREFIX, OutboundSpi, Tunnel},
    usage::{Customer, Quota, Share, Usage},
};

#[cfg(feature = "user")]
mod pod {
    //! Plain data for aya's maps.
    use crate::{
        outer::{
            Budgets, PeerBudgets,
            cookie::{Proof, Secrets, Strangers},
        },
        rate::Bucket,
        tcp::{Flow, FlowKey},
        wire::{Ipv4, Ipv6},
    };

    macro_rules! pod {
        ($($type:ty),+ $(,)?) => {
            // SAFETY: repr(C), integers only, every byte named (the sizes are asserted beside the types).
            $(unsafe impl aya::Pod for $type {})+
        };
    }
    pod!(Ipv4, Ipv6, super::Settings, super::Binding, super::Tunnel, super::Customer, super::OutboundSpi);
    pod!(PeerBudgets, Budgets, Bucket, super::Usage, Flow);
    pod!(super::Counters, super::Drops, super::Unattributed);
    pod!(Strangers, Proof, Secrets);
    pod!(FlowKey<Ipv4>, FlowKey<Ipv6>);
}
