//! What holds for the whole gateway.
use super::prefix::Prefix;
use crate::{
    limits::{MANAGEMENT_RULES, OWN_ADDRESSES},
    tcp::state::STATE_SLOTS,
    time::Ticks,
    wire::{Ipv4, Ipv6},
};

/// What holds for the whole gateway.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Settings {
    /// 1 once all of it is filled in; programs drop everything before.
    pub ready: u32,
    /// Interface index of the internet interface.
    pub internet_ifindex: u32,
    /// Interface index of the LAN interface, where `bpf_redirect_neigh` sends to.
    pub lan_ifindex: u32,
    /// The largest IP packet that the LAN takes, in bytes.
    pub lan_mtu: u32,
    /// 1: the outer filter runs at the XDP hook, so TCX ingress need not charge its budgets again.
    pub xdp: u32,
    /// 1: a connection in mid-stream is taken up, from the LAN side only.
    pub adopt_midstream: u32,
    /// How many of `management` count.
    pub management_count: u32,
    #[doc(hidden)]
    pub _reserved: u32,
    /// The gateway's own addresses on the internet interface.
    pub internet: Addresses,
    /// The gateway's own addresses on the LAN interface.
    pub lan: Addresses,
    /// What else may reach the gateway on the internet interface.
    pub management: [ManagementRule; MANAGEMENT_RULES],
    /// How long a flow stays without a packet, by TCP state number and the slots after those.
    pub timeouts: [Ticks; STATE_SLOTS],
}

/// An interface's addresses.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct Addresses {
    /// How many of `v4` count.
    pub v4_count: u32,
    /// How many of `v6` count.
    pub v6_count: u32,
    /// IPv4 addresses.
    pub v4: [Ipv4; OWN_ADDRESSES],
    /// IPv6 addresses, the link-local one too.
    pub v6: [Ipv6; OWN_ADDRESSES],
}

/// One entry of the management allow-list.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct ManagementRule {
    /// Who may reach it; IPv4 mapped into IPv6.
    pub from: Prefix<Ipv6>,
    /// The gateway's port.
    pub port: u16,
    /// TCP or UDP, see [`crate::wire::protocol`].
    pub protocol: u8,
    #[doc(hidden)]
    pub _reserved: u8,
}

const _: () = assert!(size_of::<Addresses>() == 168);

const _: () = assert!(size_of::<Settings>() == 32 + 2 * 168 + 16 * 36 + 64);
