//! What differs between IPv4 and IPv6, so that everything else is written once.
mod header;
mod v4;
mod v6;

use core::fmt;

pub use self::header::{Fault, Fragment, Header, IcmpHead, Quoted};
use crate::wire::{Frame, Ipv6, Wire};

/// An address family, by its address.
pub trait Family: Wire + Eq + Default + fmt::Debug + 'static {
    /// Bytes of its header without options or extension headers.
    const HEADER_BYTES: usize;
    /// Its EtherType, see [`ethertype`].
    const ETHERTYPE: u16;
    /// The ICMP that belongs to it, see [`protocol`].
    const ICMP: u8;
    /// AF_INET or AF_INET6, as Linux numbers them.
    const LINUX: u32;

    /// The header of a frame's packet, if that is as long as it says.
    fn header<F: Frame + ?Sized>(frame: &F) -> Result<Header<Self>, Fault>;
    /// What a header at this offset says of its packet, which may be cut short; None if it is not one
    /// without options.
    fn quoted<F: Frame + ?Sized>(frame: &F, at: usize) -> Option<Quoted<Self>>;
    /// True if the header's checksum is right, or the family has none.
    fn checksum_fits<F: Frame + ?Sized>(frame: &F) -> bool;
    /// A mask of so many leading bits, at most as many as an address has.
    fn netmask(bits: u8) -> Self;
    /// The bits that the mask has.
    fn masked(self, mask: Self) -> Self;
    /// As IPv6 has it: an IPv4 address as ::ffff:a.b.c.d (RFC 4291 section 2.5.5.2).
    fn mapped(self) -> Ipv6;
    /// Whom a budget is kept for: an IPv4 address, the /64 of an IPv6 one, since that is what one
    /// subscriber gets (RFC 6177).
    fn subscriber(self) -> Ipv6;
    /// True for an address that no packet of this family may come from: an IPv4 address mapped into
    /// IPv6 (RFC 4942 section 2.2), which would pass for that IPv4 address where maps hold both.
    fn is_mapped(self) -> bool;
    /// True for a multicast group that neighbour discovery is sent to: all nodes, or the solicited-node
    /// addresses (RFC 4291 section 2.7.1).
    fn is_neighbour_group(self) -> bool;
    /// True for a message that a packet was too big for a link: ICMP "fragmentation needed and DF
    /// set" (RFC 1191 section 4), ICMPv6 "packet too big" (RFC 4443 section 3.2).
    fn is_too_big(icmp: IcmpHead) -> bool;
}
