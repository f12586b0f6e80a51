//! Where the maps keep what belongs to one family.
use super::{
    settings::{Addresses, Settings},
    tunnel::{Access, Tunnel},
};
use crate::{
    family::Family,
    limits::OWN_ADDRESSES,
    wire::{Ipv4, Ipv6},
};

/// A family, and where the maps keep what is its own.
pub trait LayoutFamily: Family {
    /// What a site of this tunnel may do in this family.
    fn access(tunnel: &Tunnel) -> &Access<Self>;
    /// The gateway's own addresses, and how many of them count.
    fn own(addresses: &Addresses) -> (&[Self; OWN_ADDRESSES], u32);

    /// True if it is one of these addresses.
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

    /// True for an address of the gateway, on either side.
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
