//! Sites and the SPIs that peers chose.
use super::{
    prefix::Prefix,
    usage::{Quota, Share},
};
use crate::{
    family::Family,
    limits::PREFIXES_PER_SITE,
    wire::{Ipv4, Ipv6},
};

/// One site with all its CHILD_SAs, keyed by the site's number. All zero: no such site. The fields that IPv4 needs
/// come first, and a value fills whole cache lines.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct Tunnel {
    /// The customer's id; 0: no such tunnel.
    pub customer: u32,
    /// Changes whenever the customer's server or port changes. A flow of an earlier generation is over.
    pub generation: u16,
    /// The server's port.
    pub port: u16,
    /// 1 while a CHILD_SA of the site's authenticated identity is up.
    pub up: u8,
    #[doc(hidden)]
    pub _reserved: [u8; 3],
    /// Access in IPv4.
    pub v4: Access<Ipv4>,
    /// The customer's quota, the same in each of its sites.
    pub quota: Quota,
    /// The site's share of that quota.
    pub share: Share,
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
    /// The prefixes that the site may use now: those of its LAN, as far as its CHILD_SAs negotiated them.
    pub lan: [Prefix<A>; PREFIXES_PER_SITE],
    /// For each prefix, the mark of the CHILD_SA that answers to it take; 0: none has it now.
    pub marks: [u32; PREFIXES_PER_SITE],
}

/// Stands for the mark of an address in none of a site's prefixes; no mark has the highest bit.
pub const NO_PREFIX: u32 = u32::MAX;

impl<A: Family> Access<A> {
    /// Returns true if a tunnel has the address's prefix.
    pub fn has(&self, address: A) -> bool {
        !matches!(self.mark_of(address), 0 | NO_PREFIX)
    }

    /// Returns the mark of the first prefix that holds the address, 0 if no CHILD_SA has that prefix now, or
    /// [`NO_PREFIX`] if none holds it. Not an `Option`: see `decide::Decision::syn`.
    #[inline(always)]
    pub fn mark_of(&self, address: A) -> u32 {
        let mut i = 0;
        while i < PREFIXES_PER_SITE {
            if i < self.prefix_count as usize && self.lan[i].contains(address) {
                return self.marks[i];
            }
            i += 1;
        }
        NO_PREFIX
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

const _: () = assert!(size_of::<Tunnel>() == 12 + 104 + 16 + 8 + 308);

const _: () = assert!(size_of::<OutboundSpi>() == 20);
