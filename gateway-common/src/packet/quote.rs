//! The packet that a path-MTU message quotes.
use super::inner::Inner;
use crate::{
    family::Family,
    reason::Reason,
    wire::{Frame, protocol},
};

/// The TCP packet that an ICMP "too big" message quotes (RFC 1191 section 4, RFC 4443 section 3.2).
#[derive(Clone, Copy, Debug)]
pub struct Quote<A> {
    /// The packet's source.
    pub source: A,
    /// The packet's destination.
    pub destination: A,
    /// TCP source port.
    pub source_port: u16,
    /// TCP destination port.
    pub destination_port: u16,
}

impl<A: Family> Quote<A> {
    /// Parses the quote. Refuses every other ICMP message and quotes of other protocols.
    #[inline(always)]
    pub fn parse<F: Frame + ?Sized>(frame: &F, inner: &Inner<A>) -> Result<Self, Reason> {
        const QUOTE_OFFSET: usize = 8;
        let icmp = inner.header.payload(frame, 0).map_err(|_| Reason::InnerMalformed)?;
        if !A::is_too_big(icmp) {
            return Err(Reason::ProtocolNotAllowed);
        }
        // The quote may be cut short, so the length in its header is not checked.
        let quoted =
            A::quoted(frame, inner.header.transport as usize + QUOTE_OFFSET).ok_or(Reason::InnerMalformed)?;
        let ports_at = QUOTE_OFFSET + A::HEADER_BYTES;
        let ports: [u8; 4] = inner.header.payload(frame, ports_at).map_err(|_| Reason::InnerMalformed)?;
        if quoted.protocol != protocol::TCP {
            return Err(Reason::ProtocolNotAllowed);
        }
        Ok(Self {
            source: quoted.source,
            destination: quoted.destination,
            source_port: u16::from_be_bytes([ports[0], ports[1]]),
            destination_port: u16::from_be_bytes([ports[2], ports[3]]),
        })
    }
}
