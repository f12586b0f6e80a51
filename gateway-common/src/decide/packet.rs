//! The packet properties that both rules check.
use crate::{
    family::Family,
    packet::{
        fast::{FastFamily, FastPacket},
        inner::Inner,
    },
    wire::Words,
};

/// The packet properties that both rules check, on the fast path and on the full one.
pub(super) trait InnerPacket<A> {
    /// Source address.
    fn source(&self) -> A;
    /// Destination address.
    fn destination(&self) -> A;
    /// TTL or hop limit.
    fn hop_limit(&self) -> u32;
    /// Bytes from the IP header on.
    fn bytes(&self) -> u32;
}

impl<A: Family> InnerPacket<A> for Inner<A> {
    #[inline(always)]
    fn source(&self) -> A {
        self.header.source
    }

    #[inline(always)]
    fn destination(&self) -> A {
        self.header.destination
    }

    #[inline(always)]
    fn hop_limit(&self) -> u32 {
        self.header.hop_limit.into()
    }

    #[inline(always)]
    fn bytes(&self) -> u32 {
        self.total_bytes()
    }
}

impl<A: FastFamily, W: Words> InnerPacket<A> for FastPacket<A, W> {
    #[inline(always)]
    fn source(&self) -> A {
        self.head().source
    }

    #[inline(always)]
    fn destination(&self) -> A {
        self.head().destination
    }

    #[inline(always)]
    fn hop_limit(&self) -> u32 {
        self.head().hop_limit
    }

    #[inline(always)]
    fn bytes(&self) -> u32 {
        self.head().payload_bytes + A::HEADER_BYTES as u32
    }
}
