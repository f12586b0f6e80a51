//! The differences between IPv4 and IPv6, so that everything else is written once.
mod header;
mod v4;
mod v6;

use core::fmt;

pub use self::header::{Fault, Fragment, Header, IcmpHead, Quoted};
use crate::wire::{Frame, Ipv6, Wire};

/// An address family, implemented by its address type.
pub trait Family: Wire + Eq + Default + fmt::Debug + 'static {
    /// Bytes of the header without options or extension headers.
    const HEADER_BYTES: usize;
    /// The EtherType, see [`crate::wire::ethertype`].
    const ETHERTYPE: u16;
    /// The protocol number of its ICMP, see [`crate::wire::protocol`].
    const ICMP: u8;
    /// Linux's AF_INET or AF_INET6.
    const LINUX: u32;

    /// Parses the header of the frame's packet. Fails if the packet is shorter than the header says.
    fn header<F: Frame + ?Sized>(frame: &F) -> Result<Header<Self>, Fault>;
    /// Parses a header at this offset, whose packet may be cut short. Returns `None` if the header is
    /// malformed or has options.
    fn quoted<F: Frame + ?Sized>(frame: &F, at: usize) -> Option<Quoted<Self>>;
    /// Returns true if the header's checksum is correct, or the family has none.
    fn checksum_fits<F: Frame + ?Sized>(frame: &F) -> bool;
    /// Returns a mask of this many leading bits, capped at the bits of an address.
    fn netmask(bits: u8) -> Self;
    /// Returns the address with the bits outside the mask cleared.
    fn masked(self, mask: Self) -> Self;
    /// Maps the address into IPv6: IPv4 as ::ffff:a.b.c.d (RFC 4291 section 2.5.5.2).
    fn mapped(self) -> Ipv6;
    /// Returns the subscriber that a budget is kept for: the IPv4 address, or the /64 of the IPv6 address,
    /// which is what one subscriber gets (RFC 6177).
    fn subscriber(self) -> Ipv6;
    /// Returns true for an address that no packet of this family may come from: an IPv4 address mapped into
    /// IPv6 (RFC 4942 section 2.2), which would pass for that IPv4 address in maps that hold both families.
    fn is_mapped(self) -> bool;
    /// Returns true for a multicast group that neighbour discovery is sent to: all nodes, or the
    /// solicited-node addresses (RFC 4291 section 2.7.1).
    fn is_neighbour_group(self) -> bool;
    /// Returns true for the message that a packet was too big for a link: ICMP "fragmentation needed and DF
    /// set" (RFC 1191 section 4), ICMPv6 "packet too big" (RFC 4443 section 3.2).
    fn is_too_big(icmp: IcmpHead) -> bool;
    /// Returns the MTU in bytes that such a message announces, from the four bytes behind its checksum: IPv4
    /// uses two of them.
    fn announced_mtu(rest_of_header: u32) -> u32;
}
