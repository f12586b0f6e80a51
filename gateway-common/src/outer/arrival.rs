//! Outer packets that are allowed.
use crate::wire::Ipv6;

/// An outer packet that is allowed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outer {
    /// ARP, or IPv6 neighbour discovery.
    Neighbour,
    /// ESP, in IP or in UDP port 4500, of this SPI (host byte order).
    Esp(u32),
    /// IKE, or a NAT keepalive (RFC 3948 section 2.3).
    Ike,
    /// An ICMP error that path-MTU discovery needs.
    PathMtu,
    /// Management that the policy allows, or its answer.
    Management,
    /// A later fragment of ESP or UDP; the first one is judged, and without it none is delivered.
    Fragment,
}

/// An outer packet that is allowed, and whose budget it is charged to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Arrival {
    /// What it is.
    pub outer: Outer,
    /// Its source address; IPv4 mapped into IPv6.
    pub source: Ipv6,
    /// Its source as strangers are told apart, see [`crate::family::Family::subscriber`].
    pub subscriber: Ipv6,
}

impl Arrival {
    /// What nobody is charged for.
    #[inline(always)]
    pub const fn of_nobody() -> Self {
        let nobody = Ipv6::from_words([0; 4]);
        Self { outer: Outer::Neighbour, source: nobody, subscriber: nobody }
    }
}
