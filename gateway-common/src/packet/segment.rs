//! TCP segments.
use super::{inner::Inner, options::Options};
use crate::{
    family::Family,
    reason::Reason,
    seq::Seq,
    wire::{Frame, TcpHeader, protocol},
};

/// A TCP segment with a combination of flags that a TCP sends. Laid out without padding, see
/// [`crate::decide::Tables::segment_scratch`].
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Segment {
    /// Source port.
    pub source: u16,
    /// Destination port.
    pub destination: u16,
    /// Sequence number.
    pub sequence: Seq,
    /// Sequence number after the segment: SYN and FIN take one each.
    pub end: Seq,
    /// Acknowledgment number, whether or not the ACK flag is set.
    pub acknowledgment: Seq,
    /// Window, unscaled.
    pub window: u16,
    /// The segment's kind, by its flags.
    pub kind: Kind,
    /// The ACK flag is set.
    pub has_ack: bool,
    /// The options.
    pub options: Options,
}

const _: () = assert!(size_of::<Segment>() == 32);

impl Segment {
    /// Parses the segment in this packet (RFC 9293 section 3.1).
    #[inline(always)]
    pub fn parse<A: Family, F: Frame + ?Sized>(frame: &F, inner: &Inner<A>) -> Result<Self, Reason> {
        let ip = &inner.header;
        if ip.protocol != protocol::TCP {
            return Err(Reason::ProtocolNotAllowed);
        }
        let header: TcpHeader = ip.payload(frame, 0).map_err(|_| Reason::TcpMalformed)?;
        let header_bytes = u16::from(header.data_offset >> 4) * 4;
        if (header_bytes as usize) < size_of::<TcpHeader>() || header_bytes > ip.payload_bytes {
            return Err(Reason::TcpMalformed);
        }
        let kind = Kind::of(header.flags).ok_or(Reason::TcpFlagsInvalid)?;
        let sequence = Seq(header.sequence.get());
        let acknowledgment = Seq(header.acknowledgment.get());
        let data = u32::from(ip.payload_bytes - header_bytes);
        let counted = u32::from(header.flags & flag::SYN != 0) + u32::from(header.flags & flag::FIN != 0);
        Ok(Self {
            source: header.source.get(),
            destination: header.destination.get(),
            kind,
            has_ack: header.flags & flag::ACK != 0,
            sequence,
            end: sequence + data + counted,
            acknowledgment,
            window: header.window.get(),
            options: Options::parse(frame, ip.transport as usize, header_bytes, acknowledgment)
                .ok_or(Reason::TcpMalformed)?,
        })
    }
}

/// The kinds of segments that nf_conntrack distinguishes (nf_conntrack_proto_tcp.c, `get_conntrack_index`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// SYN without ACK.
    Syn = 0,
    /// SYN and ACK.
    SynAck = 1,
    /// FIN and ACK.
    Fin = 2,
    /// ACK alone.
    Ack = 3,
    /// RST, with or without ACK.
    Rst = 4,
}

impl Kind {
    /// Returns the kind of these flags, `None` for combinations that nf_conntrack takes for invalid. Valid
    /// are (`tcp_valid_flags`; PSH, ECE and CWR combine with any): SYN, SYN URG, SYN ACK, RST, RST ACK, FIN
    /// ACK, FIN ACK URG, ACK, ACK URG.
    #[inline(always)]
    pub const fn of(flags: u8) -> Option<Self> {
        const FIN_ACK: u8 = flag::FIN | flag::ACK;
        const SYN_ACK: u8 = flag::SYN | flag::ACK;
        const RST_ACK: u8 = flag::RST | flag::ACK;
        const URG: u8 = flag::URG;
        match flags & (flag::FIN | flag::SYN | flag::RST | flag::ACK | flag::URG) {
            flag::ACK => Some(Self::Ack),
            0x30 => Some(Self::Ack), // ACK URG
            flag::SYN => Some(Self::Syn),
            0x22 => Some(Self::Syn), // SYN URG
            SYN_ACK => Some(Self::SynAck),
            FIN_ACK => Some(Self::Fin),
            f if f == FIN_ACK | URG => Some(Self::Fin),
            flag::RST | RST_ACK => Some(Self::Rst),
            _ => None,
        }
    }
}

/// TCP flags, RFC 9293 section 3.1.
pub mod flag {
    /// No more data from sender.
    pub const FIN: u8 = 0x01;
    /// Synchronize sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset the connection.
    pub const RST: u8 = 0x04;
    /// Push function.
    pub const PSH: u8 = 0x08;
    /// Acknowledgment field significant.
    pub const ACK: u8 = 0x10;
    /// Urgent pointer field significant.
    pub const URG: u8 = 0x20;
}
