//! Allowed outer packets.
use crate::wire::Ipv6;

/// The kind of an allowed outer packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outer {
    /// ARP, or IPv6 neighbour discovery.
    Neighbour,
    /// ESP with this SPI (host byte order), in IP or in UDP port 4500.
    Esp(u32),
    /// IKE, or a NAT keepalive (RFC 3948 section 2.3).
    Ike,
    /// An ICMP error that path-MTU discovery needs.
    PathMtu,
    /// Management traffic that the policy allows, or the answer to it.
    Management,
    /// A later fragment of ESP or UDP. The first fragment is checked, and without it none is delivered.
    Fragment,
}

/// An allowed outer packet from the internet, and the source that it is charged to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Arrival {
    /// The kind of packet.
    pub outer: Outer,
    /// The source address, IPv4 mapped into IPv6.
    pub source: Ipv6,
    /// The source as strangers are distinguished, see [`crate::family::Family::subscriber`].
    pub subscriber: Ipv6,
}

impl Arrival {
    /// Returns an arrival that no source is charged for.
    #[inline(always)]
    pub const fn uncharged() -> Self {
        let nobody = Ipv6::from_words([0; 4]);
        Self { outer: Outer::Neighbour, source: nobody, subscriber: nobody }
    }
}
