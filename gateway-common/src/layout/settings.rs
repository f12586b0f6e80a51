//! Settings of the whole gateway.
use super::prefix::Prefix;
use crate::{
    limits::{MANAGEMENT_RULES, OWN_ADDRESSES},
    tcp::state::STATE_SLOTS,
    time::Ticks,
    wire::{Ipv4, Ipv6},
};

/// Settings of the whole gateway.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Settings {
    /// 1 once every field is set; until then programs drop everything.
    pub ready: u32,
    /// Interface index of the internet interface.
    pub internet_ifindex: u32,
    /// Interface index of the LAN interface, the target of `bpf_redirect_neigh`.
    pub lan_ifindex: u32,
    /// The LAN's MTU in bytes.
    pub lan_mtu: u32,
    /// 1: the outer filter runs at the XDP hook, so TCX ingress need not charge its budgets again.
    pub xdp: u32,
    /// 1: a packet from the site adopts a connection in mid-stream.
    pub adopt_midstream: u32,
    /// Number of used entries of `management`.
    pub management_count: u32,
    #[doc(hidden)]
    pub _reserved: u32,
    /// The gateway's own addresses on the internet interface.
    pub internet: Addresses,
    /// The gateway's own addresses on the LAN interface.
    pub lan: Addresses,
    /// Management traffic that may reach the gateway on the internet interface.
    pub management: [ManagementRule; MANAGEMENT_RULES],
    /// How long a flow may stay silent, by TCP state number and by the slots after those.
    pub timeouts: [Ticks; STATE_SLOTS],
}

/// The gateway's own addresses on an interface.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct Addresses {
    /// Number of used entries of `v4`.
    pub v4_count: u32,
    /// Number of used entries of `v6`.
    pub v6_count: u32,
    /// IPv4 addresses.
    pub v4: [Ipv4; OWN_ADDRESSES],
    /// IPv6 addresses, including the link-local one.
    pub v6: [Ipv6; OWN_ADDRESSES],
}

/// One entry of the management allow-list.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct ManagementRule {
    /// Allowed peers, IPv4 mapped into IPv6.
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
