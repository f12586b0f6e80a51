//! What becomes of a packet.
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

/// What becomes of a packet, and whom it is counted for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Decision {
    /// It goes on, to its server or into the tunnel; or why it ends here.
    pub verdict: Result<(), Reason>,
    /// Customer number, 0 if not known.
    pub customer: u32,
    /// Tunnel number, 0 if not known; of a packet that passes the one it came from or goes into.
    pub tunnel: u32,
    /// See [`Decision::syn`]; all zero for none. An Option's payload would be undefined, and LLVM reads it all the
    /// same, which the verifier does not allow.
    pub(super) syn: Syn,
    /// The packet opened a flow.
    pub opened: bool,
    /// It is IPv6.
    pub v6: bool,
    /// Bytes of its IP and TCP headers, which each of the segments has that GRO merged.
    pub header_bytes: u16,
    /// Bytes of a packet that passes, from the IP header on.
    pub bytes: u32,
}

impl Decision {
    pub(super) const fn undecided() -> Self {
        Self::of(0, 0)
    }

    pub(super) const fn of(customer: u32, tunnel: u32) -> Self {
        Self {
            verdict: Err(Reason::NotConfigured),
            customer,
            tunnel,
            syn: Syn::NONE,
            opened: false,
            v6: false,
            header_bytes: 0,
            bytes: 0,
        }
    }

    /// A SYN or SYN-ACK that passes and whose MSS option is to be lowered.
    #[inline(always)]
    pub fn syn(&self) -> Option<Syn> {
        (self.syn.offered.at != 0).then_some(self.syn)
    }

    #[inline(always)]
    pub(super) fn passes<A: Family>(&mut self, bytes: u32, tcp_header_bytes: u32) {
        self.verdict = Ok(());
        self.v6 = A::HEADER_BYTES == Ipv6::HEADER_BYTES;
        self.header_bytes = A::HEADER_BYTES as u16 + tcp_header_bytes as u16;
        self.bytes = bytes;
    }
}

/// What lowering a SYN's MSS needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Syn {
    /// The largest segment that fits the tunnel, in bytes.
    pub mss: u16,
    /// The option that asks for more.
    pub offered: Mss,
    /// Where the TCP header begins, in bytes from the frame's start.
    pub transport: u8,
}

impl Syn {
    /// The MSS option is never at 0, where the kind of the first option stands.
    const NONE: Self = Self { mss: 0, offered: Mss { at: 0, bytes: 0 }, transport: 0 };

    #[inline(always)]
    pub(super) fn of<A: Family>(segment: &Segment, packet: &Inner<A>, most: u16) -> Self {
        match segment.options.mss() {
            Some(offered) if segment.kind as u8 <= Kind::SynAck as u8 && offered.bytes > most => {
                Self { mss: most, offered, transport: packet.header.transport }
            }
            _ => Self::NONE,
        }
    }
}
