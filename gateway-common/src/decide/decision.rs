//! The decision about an inner packet.
use crate::{
    family::Family,
    packet::{
        inner::Inner,
        options::Mss,
        segment::{Kind, Segment},
    },
    reason::Reason,
    wire::Ipv6,
};

/// The verdict on a packet, and the customer and site it is counted for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Decision {
    /// Ok: the packet passes to its server or into the tunnel. Err: why it is dropped.
    pub verdict: Result<(), Reason>,
    /// Customer id, 0 if unknown.
    pub customer: u32,
    /// Site number, 0 if unknown. For a packet that passes, the site it came from or goes to.
    pub tunnel: u32,
    /// The mark of the tunnel that a server's packet goes into; 0 for a packet from a site.
    pub mark: u32,
    /// See [`Decision::syn`]; all zero for none. Not an `Option`: LLVM reads the uninitialised payload of a
    /// `None`, which the verifier rejects.
    pub(super) syn: Syn,
    /// The packet opened a flow.
    pub opened: bool,
    /// The packet is IPv6.
    pub v6: bool,
    /// Bytes of the IP and TCP headers, which every segment that GRO merged had.
    pub header_bytes: u16,
    /// Bytes from the IP header on, of a packet that passes.
    pub bytes: u32,
}

impl Decision {
    /// Drops the packet as [`Reason::NotConfigured`], counted for nobody. Also the state before the first
    /// check, so that a check left out drops.
    pub(super) const fn not_configured() -> Self {
        Self::of(0, 0)
    }

    /// Drops the packet as [`Reason::NotConfigured`], counted for this customer and tunnel, until the checks
    /// set another verdict.
    pub(super) const fn of(customer: u32, tunnel: u32) -> Self {
        Self {
            verdict: Err(Reason::NotConfigured),
            customer,
            tunnel,
            mark: 0,
            syn: Syn::NONE,
            opened: false,
            v6: false,
            header_bytes: 0,
            bytes: 0,
        }
    }

    /// Returns how to lower the MSS option of a SYN or SYN-ACK that passes, if needed.
    #[inline(always)]
    pub fn syn(&self) -> Option<Syn> {
        (self.syn.offered.at != 0).then_some(self.syn)
    }

    #[inline(always)]
    pub(super) fn pass<A: Family>(&mut self, bytes: u32, tcp_header_bytes: u32) {
        self.verdict = Ok(());
        self.v6 = A::HEADER_BYTES == Ipv6::HEADER_BYTES;
        self.header_bytes = A::HEADER_BYTES as u16 + tcp_header_bytes as u16;
        self.bytes = bytes;
    }
}

/// How to lower the MSS option of a SYN.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Syn {
    /// The largest segment that fits the tunnel, in bytes.
    pub mss: u16,
    /// The option that offers more.
    pub offered: Mss,
    /// Offset of the TCP header in the frame, in bytes.
    pub transport: u8,
}

impl Syn {
    /// No SYN to change. An MSS value is never at 0, the offset of the first option's kind.
    const NONE: Self = Self { mss: 0, offered: Mss { at: 0, bytes: 0 }, transport: 0 };

    #[inline(always)]
    pub(super) fn of<A: Family>(segment: &Segment, packet: &Inner<A>, most: u16) -> Self {
        match segment.options.mss() {
            Some(offered) if matches!(segment.kind, Kind::Syn | Kind::SynAck) && offered.bytes > most => {
                Self { mss: most, offered, transport: packet.header.transport }
            }
            _ => Self::NONE,
        }
    }
}
