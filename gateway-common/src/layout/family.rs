//! The fields of map values that belong to one address family.
use super::{
    settings::{Addresses, Settings},
    tunnel::{Access, Tunnel},
};
use crate::{
    family::Family,
    limits::OWN_ADDRESSES,
    wire::{Ipv4, Ipv6},
};

/// A family whose fields in map values can be selected by type.
pub trait LayoutFamily: Family {
    /// Returns the access of this tunnel's site in this family.
    fn access(tunnel: &Tunnel) -> &Access<Self>;
    /// Returns an interface's address slots of this family, and how many of them are used.
    fn own(addresses: &Addresses) -> (&[Self; OWN_ADDRESSES], u32);

    /// Returns true if the address is one of these.
    #[inline(always)]
    fn is_in(self, addresses: &Addresses) -> bool {
        let (addresses, count) = Self::own(addresses);
        let mut i = 0;
        while i < OWN_ADDRESSES {
            if i < count as usize && addresses[i] == self {
                return true;
            }
            i += 1;
        }
        false
    }

    /// Returns true for an address of the gateway on either interface.
    #[inline(always)]
    fn is_own(self, settings: &Settings) -> bool {
        self.is_in(&settings.internet) || self.is_in(&settings.lan)
    }
}

impl LayoutFamily for Ipv4 {
    #[inline(always)]
    fn access(tunnel: &Tunnel) -> &Access<Self> {
        &tunnel.v4
    }

    #[inline(always)]
    fn own(addresses: &Addresses) -> (&[Self; OWN_ADDRESSES], u32) {
        (&addresses.v4, addresses.v4_count)
    }
}

impl LayoutFamily for Ipv6 {
    #[inline(always)]
    fn access(tunnel: &Tunnel) -> &Access<Self> {
        &tunnel.v6
    }

    #[inline(always)]
    fn own(addresses: &Addresses) -> (&[Self; OWN_ADDRESSES], u32) {
        (&addresses.v6, addresses.v6_count)
    }
}
