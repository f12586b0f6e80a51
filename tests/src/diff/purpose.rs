//! The differences on purpose: the one table.
use gateway_common::{packet::Kind, tcp::Direction};

use super::segment::{Aside, Flow, Segment};

/// A packet and what became of it.
#[derive(Clone, Debug)]
pub struct Judged {
    /// The packet.
    pub segment: Segment,
    /// The kernel's own rules let it through.
    pub kernel: bool,
    /// Our programs let it through.
    pub ours: bool,
    /// Both let it through, but with different bytes.
    pub bytes_differ: bool,
}

/// A difference on purpose.
pub struct Purpose {
    /// For reports.
    pub name: &'static str,
    /// Why we differ.
    pub reason: &'static str,
    /// Whether the last of these packets is a case of it. From there on both sides may remember
    /// different things, so the rest of the flow's packets is not compared.
    pub applies: fn(&Flow, &[Judged]) -> bool,
}

/// All of them.
pub const PURPOSES: &[Purpose] = &[
    Purpose {
        name: "tcp checksum",
        reason: "nf_conntrack calls a wrong TCP checksum INVALID; reading all of a packet to sum it up costs \
                 more than the rest of the decision, and the receiver checks it",
        applies: |_, packets| last(packets, |packet| packet.is_tcp() && packet.segment.checksum_error != 0),
    },
    Purpose {
        name: "ip options",
        reason: "inner IPv4 options are dropped: no device needs them, and source routes are an attack",
        applies: |_, packets| {
            last(packets, |packet| packet.segment.aside == Aside::IpOptions && !packet.ours)
        },
    },
    Purpose {
        name: "ttl",
        reason: "nf_conntrack tracks a packet that the router then drops for its TTL; with us a dropped packet \
                 changes nothing",
        applies: |_, packets| {
            last(packets, |packet| packet.segment.ttl <= 1 && !packet.kernel && !packet.ours)
        },
    },
    Purpose {
        name: "wrong tunnel",
        reason: "nf_conntrack tracks a packet out of the wrong tunnel and the FORWARD chain drops it only then: \
                 another customer could move the windows of a connection; with us it changes nothing",
        applies: |flow, packets| {
            last(packets, |packet| match packet.segment.aside {
                Aside::Tunnel(other) => {
                    packet.segment.direction == Direction::ToServer
                        && other != flow.tunnel
                        && !packet.kernel
                        && !packet.ours
                }
                _ => false,
            })
        },
    },
    Purpose {
        name: "server reopens",
        reason: "a server's SYN ends a TIME_WAIT connection in nf_conntrack (and is then dropped as NEW); with \
                 us a server neither opens nor ends anything by a SYN",
        applies: |_, packets| last(packets, |packet| !packet.agrees()) && server_reopened(packets),
    },
];

impl Judged {
    /// Both sides did the same.
    pub fn agrees(&self) -> bool {
        self.kernel == self.ours && !self.bytes_differ
    }

    fn is_tcp(&self) -> bool {
        !matches!(self.segment.aside, Aside::Udp | Aside::Ping)
    }
}

/// Since the device last opened it, the connection saw two FINs (nf_conntrack does not ask whose), and
/// then the server sent a SYN.
fn server_reopened(packets: &[Judged]) -> bool {
    let mut fins = 0;
    let mut reopened = false;
    for packet in &packets[..packets.len() - 1] {
        let direction = packet.segment.direction;
        match Kind::of(packet.segment.tcp.flags) {
            Some(Kind::Syn) if direction == Direction::ToServer && packet.kernel && packet.ours => {
                if reopened || fins > 1 {
                    (fins, reopened) = (0, false);
                }
            }
            Some(Kind::Syn) if direction == Direction::ToSite && !packet.kernel => {
                reopened |= fins > 1;
            }
            Some(Kind::Fin) if packet.kernel => fins += 1,
            _ => {}
        }
    }
    reopened
}

fn last(packets: &[Judged], is: impl Fn(&Judged) -> bool) -> bool {
    packets.last().is_some_and(is)
}
