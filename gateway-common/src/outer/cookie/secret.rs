//! The secrets that cookies are made with, and the cookies.
use core::fmt;

use super::siphash::{Key, siphash};
use crate::wire::{Ipv6, Wire};

/// The sender of an IKE_SA_INIT, as its cookie names it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Origin {
    /// Source address, IPv4 mapped into IPv6.
    pub address: Ipv6,
    /// The initiator's SPI, two words in memory order.
    pub spi: [u32; 2],
    /// Source port in host byte order.
    pub port: u16,
}

/// A cookie (RFC 7296 section 2.6): three words in memory order. The first byte is the version of the secret,
/// three bytes are 0, and eight bytes are the hash of the origin, least significant first.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(transparent)]
pub struct Cookie(pub [u32; 3]);

/// The two secrets in force. They lie in a map that only root can read; programs never write it.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Secrets {
    /// The keys. A secret's version, modulo 2, is its place.
    keys: [Key; 2],
    /// The version of the newer secret; 0 before the first. The other one's version is one less.
    version: u32,
    #[doc(hidden)]
    _reserved: u32,
}

impl Secrets {
    /// Returns the first secrets.
    pub const fn first(keys: [Key; 2]) -> Self {
        Self { keys, version: 1, _reserved: 0 }
    }

    /// Returns the secrets with `fresh` in place of the older one. A program that reads them meanwhile may see
    /// some words of both: it makes a cookie that nobody accepts, and its receiver asks again.
    pub const fn rotated(self, fresh: Key) -> Self {
        let version = if self.version == u32::MAX { 1 } else { self.version + 1 };
        let mut keys = self.keys;
        keys[place(version as u8)] = fresh;
        Self { keys, version, _reserved: 0 }
    }

    /// Returns false before the first secrets are written: nobody is asked for a cookie then.
    #[inline(always)]
    pub const fn in_force(&self) -> bool {
        self.version != 0
    }

    /// Returns the cookie of this origin, under the newer secret.
    #[inline(always)]
    pub fn cookie(&self, origin: &Origin) -> Cookie {
        self.cookie_of(self.version as u8, origin)
    }

    /// Returns true if a cookie is this origin's, under either secret.
    #[inline(always)]
    pub fn accept(&self, cookie: Cookie, origin: &Origin) -> bool {
        let version = cookie.version();
        let age = (self.version as u8).wrapping_sub(version);
        let expected = self.cookie_of(version, origin).0;
        let [a, b, c] = cookie.0;
        age <= 1 && (a ^ expected[0]) | (b ^ expected[1]) | (c ^ expected[2]) == 0
    }

    #[inline(always)]
    fn cookie_of(&self, version: u8, origin: &Origin) -> Cookie {
        // 16 bytes of address, 8 of SPI and 2 of port.
        const BYTES: u64 = 26;
        let key = if place(version) == 0 { self.keys[0] } else { self.keys[1] };
        let [a, b, c, d] = origin.address.words();
        let blocks = [block(a, b), block(c, d), block(origin.spi[0], origin.spi[1])];
        let [high, low] = origin.port.to_be_bytes();
        let hash = siphash(key, blocks, BYTES << 56 | (low as u64) << 8 | high as u64);
        Cookie([u32::from_ne_bytes([version, 0, 0, 0]), (hash as u32).to_le(), ((hash >> 32) as u32).to_le()])
    }
}

impl fmt::Debug for Secrets {
    /// Shows the version only: a log must not tell the keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secrets").field("version", &self.version).finish_non_exhaustive()
    }
}

impl Cookie {
    /// Returns the version of the secret, modulo 256.
    #[inline(always)]
    pub const fn version(self) -> u8 {
        self.0[0].to_ne_bytes()[0]
    }
}

/// Returns the place of the key with this version.
#[inline(always)]
const fn place(version: u8) -> usize {
    (version & 1) as usize
}

/// Returns eight bytes, given as words in memory order, as a little-endian number.
#[inline(always)]
const fn block(first: u32, second: u32) -> u64 {
    (u32::from_le(second) as u64) << 32 | u32::from_le(first) as u64
}

// SAFETY: integers only, so any bytes are a value (`Wire`).
unsafe impl Wire for Cookie {}

const _: () = assert!(size_of::<Secrets>() == 40 && size_of::<Cookie>() == 12);
