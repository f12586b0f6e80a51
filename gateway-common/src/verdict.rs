//! What becomes of a packet.
use crate::{outer::Outer, reason::Reason};

/// What becomes of a packet. The eBPF programs turn it into kernel action codes in one place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Verdict {
    /// It ends here, counted.
    Drop(Reason),
    /// An outer packet that may go on as it is.
    Outer(Outer),
    /// A site's packet, to be sent to its server.
    ToServer,
    /// A server's answer, to be encrypted into the decision's tunnel.
    ToTunnel,
    /// A frame of the gateway or its neighbours (ARP, path-MTU errors) that goes its usual way.
    Local,
}
