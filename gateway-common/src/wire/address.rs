//! IP addresses.
use core::fmt;

use super::frame::Wire;

/// An IPv4 address. Stored as bytes, so that `bpftool map dump` shows the usual order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(C, align(4))]
pub struct Ipv4 {
    /// The address in network byte order.
    pub octets: [u8; 4],
}

impl Ipv4 {
    /// Returns the address as a number, most significant octet first.
    #[inline(always)]
    pub const fn bits(self) -> u32 {
        u32::from_be_bytes(self.octets)
    }

    /// Converts from a word in memory order.
    #[inline(always)]
    pub const fn from_word(word: u32) -> Self {
        Self { octets: word.to_ne_bytes() }
    }

    /// Returns the address as a word in memory order.
    #[inline(always)]
    pub const fn word(self) -> u32 {
        u32::from_ne_bytes(self.octets)
    }

    /// Converts from a number, most significant octet first.
    #[inline(always)]
    pub const fn from_bits(bits: u32) -> Self {
        Self { octets: bits.to_be_bytes() }
    }
}

impl From<core::net::Ipv4Addr> for Ipv4 {
    fn from(address: core::net::Ipv4Addr) -> Self {
        Self { octets: address.octets() }
    }
}

impl From<Ipv4> for core::net::Ipv4Addr {
    fn from(address: Ipv4) -> Self {
        address.octets.into()
    }
}

impl fmt::Debug for Ipv4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        core::net::Ipv4Addr::from(*self).fmt(f)
    }
}

/// An IPv6 address. Stored as bytes, so that `bpftool map dump` shows the usual order.
#[derive(Clone, Copy, Eq, PartialOrd, Ord, Default)]
#[repr(C, align(4))]
pub struct Ipv6 {
    /// The address in network byte order.
    pub octets: [u8; 16],
}

impl Ipv6 {
    /// Returns the address as four words in memory order.
    #[inline(always)]
    pub const fn words(self) -> [u32; 4] {
        // SAFETY: same size, and any bytes are words.
        unsafe { core::mem::transmute(self.octets) }
    }

    /// Returns true for an address of this link only (RFC 4291 section 2.5.6).
    #[inline(always)]
    pub const fn is_link_local(self) -> bool {
        u32::from_be(self.words()[0]) >> 22 == 0xfe80 >> 6
    }

    /// Converts from four words in memory order.
    #[inline(always)]
    pub const fn from_words(words: [u32; 4]) -> Self {
        // SAFETY: same size, and any words are bytes.
        Self { octets: unsafe { core::mem::transmute::<[u32; 4], [u8; 16]>(words) } }
    }
}

impl PartialEq for Ipv6 {
    /// Compares word by word: eBPF has no memcmp to call.
    #[inline(always)]
    fn eq(&self, other: &Self) -> bool {
        let (a, b) = (self.words(), other.words());
        (a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3]) == 0
    }
}

impl core::hash::Hash for Ipv6 {
    fn hash<H: core::hash::Hasher>(&self, state: &mut H) {
        self.octets.hash(state);
    }
}

impl From<core::net::Ipv6Addr> for Ipv6 {
    fn from(address: core::net::Ipv6Addr) -> Self {
        Self { octets: address.octets() }
    }
}

impl From<Ipv6> for core::net::Ipv6Addr {
    fn from(address: Ipv6) -> Self {
        address.octets.into()
    }
}

/// Maps an address of either family as maps that hold both store it: IPv4 as ::ffff:a.b.c.d.
impl From<core::net::IpAddr> for Ipv6 {
    fn from(address: core::net::IpAddr) -> Self {
        match address {
            core::net::IpAddr::V4(address) => address.to_ipv6_mapped().into(),
            core::net::IpAddr::V6(address) => address.into(),
        }
    }
}

/// Unmaps such an address.
impl From<Ipv6> for core::net::IpAddr {
    fn from(address: Ipv6) -> Self {
        core::net::Ipv6Addr::from(address).to_canonical()
    }
}

impl fmt::Debug for Ipv6 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        core::net::IpAddr::from(*self).fmt(f)
    }
}

// SAFETY: repr(C), integers only, so any bytes are a value (`Wire`).
unsafe impl Wire for Ipv4 {}

// SAFETY: as above.
unsafe impl Wire for Ipv6 {}

const _: () = assert!(size_of::<Ipv4>() == 4 && size_of::<Ipv6>() == 16);
