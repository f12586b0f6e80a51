//! Tunnels and the SPIs that peers chose.
use super::{prefix::Prefix, usage::Quota};
use crate::{
    family::Family,
    limits::PREFIXES_PER_SITE,
    wire::{Ipv4, Ipv6},
};

/// One tunnel, keyed by its id. All zero: no such tunnel. The fields that IPv4 needs come first.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct Tunnel {
    /// The customer's id; 0: no such tunnel.
    pub customer: u32,
    /// Changes whenever the customer's server or port changes. A flow of an earlier generation is over.
    pub generation: u16,
    /// The server's port.
    pub port: u16,
    /// 1 while the tunnel is up with the site's authenticated identity.
    pub up: u8,
    #[doc(hidden)]
    pub _reserved: [u8; 3],
    /// Two inbound SPIs of the tunnel, as many as a rekeying has; 0 for none. A copy from INBOUND_SPIS that
    /// saves nearly every packet the lookup there.
    pub inbound_spis: [u32; 2],
    /// Access in IPv4.
    pub v4: Access<Ipv4>,
    /// The customer's quota, the same in each of its tunnels.
    pub quota: Quota,
    /// Access in IPv6.
    pub v6: Access<Ipv6>,
}

/// The server and LAN of a site in one address family.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct Access<A> {
    /// The customer's server.
    pub server: A,
    /// The largest TCP segment that fits the tunnel and the LAN, in bytes.
    pub mss: u16,
    /// Number of used entries of `lan`; 0: nothing is allowed in this family.
    pub prefix_count: u8,
    #[doc(hidden)]
    pub _reserved: u8,
    /// The prefixes of the site's LAN.
    pub lan: [Prefix<A>; PREFIXES_PER_SITE],
}

impl<A: Family> Access<A> {
    /// Returns true if the address is in the site's LAN.
    #[inline(always)]
    pub fn has(&self, address: A) -> bool {
        let mut i = 0;
        while i < PREFIXES_PER_SITE {
            if i < self.prefix_count as usize && self.lan[i].contains(address) {
                return true;
            }
            i += 1;
        }
        false
    }
}

/// Identifies an outbound SA. The peer chose the SPI, so another peer may have chosen the same.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
#[repr(C)]
pub struct OutboundSpi {
    /// The peer's outer address; IPv4 mapped into IPv6.
    pub peer: Ipv6,
    /// The SPI, host byte order.
    pub spi: u32,
}

const _: () = assert!(size_of::<Tunnel>() == 12 + 8 + 40 + 16 + 148);

const _: () = assert!(size_of::<OutboundSpi>() == 20);
