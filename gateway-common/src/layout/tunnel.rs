//! A tunnel.
use super::{prefix::Prefix, usage::Quota};
use crate::{
    family::Family,
    limits::PREFIXES_PER_SITE,
    wire::{Ipv4, Ipv6},
};

/// One tunnel; its key is its id. All zero: no such tunnel. What IPv4 needs comes first.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct Tunnel {
    /// Whose it is; 0: no such tunnel.
    pub customer: u32,
    /// Which server and port this is the customer's: another number after each change of them. A
    /// flow of another one is over.
    pub generation: u16,
    /// The port that the server offers.
    pub port: u16,
    /// 1 while it is up with the site's authenticated identity.
    pub up: u8,
    #[doc(hidden)]
    pub _reserved: [u8; 3],
    /// Of INBOUND_SPIS, so that nearly every packet needs no look there: SPIs of its SAs, two of them, as
    /// there are during a rekeying; 0 for none.
    pub inbound_spis: [u32; 2],
    /// In IPv4.
    pub v4: Access<Ipv4>,
    /// What the customer may take; the same in each of its tunnels.
    pub quota: Quota,
    /// In IPv6.
    pub v6: Access<Ipv6>,
}

/// What a site may do in one address family.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct Access<A> {
    /// The customer's server.
    pub server: A,
    /// The largest TCP segment that fits the tunnel and the LAN, in bytes.
    pub mss: u16,
    /// How many of `lan` count; 0: nothing is allowed in this family.
    pub prefix_count: u8,
    #[doc(hidden)]
    pub _reserved: u8,
    /// The site's LAN.
    pub lan: [Prefix<A>; PREFIXES_PER_SITE],
}

impl<A: Family> Access<A> {
    /// True if the address is in the site's LAN.
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

/// Who owns an outbound SPI: the peer chose it, so another peer may have chosen the same.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
#[repr(C)]
pub struct OutboundSpi {
    /// The peer's outer address; IPv4 mapped into IPv6.
    pub peer: Ipv6,
    /// The SPI.
    pub spi: u32,
}

const _: () = assert!(size_of::<Tunnel>() == 12 + 8 + 40 + 16 + 148);

const _: () = assert!(size_of::<OutboundSpi>() == 20);
