//! A whole inner packet.
use crate::{
    family::{Family, Fault, Header},
    reason::Reason,
    wire::{Frame, ethertype_of},
};

/// A whole packet without options or extension headers, whose length agrees with its frame.
#[derive(Clone, Copy, Debug)]
pub struct Inner<A> {
    /// The IP header.
    pub header: Header<A>,
}

impl<A: Family> Inner<A> {
    /// Parses the packet (RFC 791 section 3.1, RFC 8200 section 3). Checks everything a router must check
    /// (RFC 1812 section 5.2.2), the checksum too: `bpf_redirect_neigh` bypasses the kernel's ip_rcv.
    #[inline(always)]
    pub fn parse<F: Frame + ?Sized>(frame: &F) -> Result<Self, Reason> {
        if ethertype_of(frame) != Some(A::ETHERTYPE) {
            return Err(Reason::InnerNotIp);
        }
        let header = match A::header(frame) {
            Ok(header) => header,
            Err(Fault::Malformed) => return Err(Reason::InnerMalformed),
            Err(Fault::Options) => return Err(Reason::InnerHasIpOptions),
        };
        if header.is_fragment() {
            return Err(Reason::InnerFragment);
        }
        if !A::checksum_fits(frame) {
            return Err(Reason::InnerChecksumWrong);
        }
        Ok(Self { header })
    }

    /// Returns the bytes of the whole packet.
    #[inline(always)]
    pub fn total_bytes(&self) -> u32 {
        u32::from(self.header.payload_bytes) + A::HEADER_BYTES as u32
    }
}
