//! The table of intended differences.
use gateway_common::{packet::Kind, tcp::Direction};

use super::{
    arena::LIMITED,
    segment::{Deviation, Flow, Segment},
};

/// A packet and its verdicts.
#[derive(Clone, Debug)]
pub struct ComparedPacket {
    /// The packet.
    pub segment: Segment,
    /// True if the original rules passed it.
    pub kernel: bool,
    /// True if our programs passed it.
    pub ours: bool,
    /// True if both passed it, but with different bytes.
    pub bytes_differ: bool,
}

/// An intended difference.
pub struct Purpose {
    /// Name in reports.
    pub name: &'static str,
    /// Why we differ.
    pub reason: &'static str,
    /// Returns true if the last of these packets is a case of it. From there on the two sides may remember
    /// different things, so the rest of the flow is not compared.
    pub applies: fn(&Flow, &[ComparedPacket]) -> bool,
}

/// All intended differences.
pub const PURPOSES: &[Purpose] = &[
    Purpose {
        name: "tcp checksum",
        reason: "nf_conntrack calls a packet with a wrong TCP checksum INVALID. We do not check it: summing up \
                 the payload costs more than the rest of the decision, and the receiver checks it anyway",
        applies: |_, packets| last(packets, |packet| packet.is_tcp() && packet.segment.checksum_error != 0),
    },
    Purpose {
        name: "ip options",
        reason: "We drop inner packets with IPv4 options or IPv6 extension headers: no device needs them, source \
                 routes are an attack, and chains of headers evade filters (RFC 7045, RFC 9098)",
        applies: |_, packets| {
            last(packets, |packet| packet.segment.deviation == Deviation::IpOptions && !packet.ours)
        },
    },
    Purpose {
        name: "ttl",
        reason: "nf_conntrack tracks a packet that the router then drops for its TTL. In our programs a dropped \
                 packet changes no flow",
        applies: |_, packets| {
            last(packets, |packet| packet.segment.ttl <= 1 && !packet.kernel && !packet.ours)
        },
    },
    Purpose {
        name: "wrong tunnel",
        reason: "nf_conntrack tracks a packet from the wrong tunnel before the FORWARD chain drops it, so another \
                 customer could move a connection's windows. In our programs it changes no flow",
        applies: |flow, packets| {
            last(packets, |packet| match packet.segment.deviation {
                Deviation::Tunnel(other) => {
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
        name: "ipv6 fragment",
        reason: "We drop inner fragments, since only the first has ports. The kernel takes a first IPv6 fragment \
                 for a whole packet if its length is not a multiple of 8 bytes (nf_ct_frag6_gather, EPROTO)",
        applies: |flow, packets| {
            flow.is_v6()
                && last(packets, |packet| packet.segment.deviation == Deviation::Fragment && !packet.ours)
        },
    },
    Purpose {
        name: "path mtu",
        reason: "We pass the ICMP message that a packet of a connection was too big, in both directions: without \
                 it path-MTU discovery fails (RFC 1191, RFC 8201). nf_conntrack calls it RELATED, which the \
                 original rules drop",
        applies: |_, packets| {
            last(packets, |packet| {
                matches!(packet.segment.deviation, Deviation::TooBig(_)) && !packet.kernel && packet.ours
            })
        },
    },
    Purpose {
        name: "quota",
        reason: "We limit each customer's flows, half-open flows and new flows a second, and each site's share of \
                 them. nf_conntrack has one table for all customers, which a single one can fill",
        applies: |flow, packets| {
            let opens =
                |packet: &ComparedPacket| packet.segment.direction == Direction::ToServer && packet.is_tcp();
            flow.tunnel().customer == LIMITED
                && last(packets, |packet| opens(packet) && packet.kernel && !packet.ours)
                && !passed_before(packets)
        },
    },
    Purpose {
        name: "server reopens",
        reason: "In nf_conntrack a server's SYN ends a TIME_WAIT connection and is then dropped as NEW. In our \
                 programs a server's SYN neither opens nor ends a connection",
        applies: |_, packets| last(packets, |packet| !packet.agrees()) && server_reopened(packets),
    },
];

impl ComparedPacket {
    /// Returns true if both sides did the same.
    pub fn agrees(&self) -> bool {
        self.kernel == self.ours && !self.bytes_differ
    }

    fn is_tcp(&self) -> bool {
        !matches!(self.segment.deviation, Deviation::Udp | Deviation::Ping | Deviation::TooBig(_))
    }
}

/// Returns true if the server sent a SYN after two FINs of any side (nf_conntrack does not ask whose), which
/// may have been in TIME_WAIT, and no new connection has begun on both sides since.
fn server_reopened(packets: &[ComparedPacket]) -> bool {
    let (mut fins, mut reopened, mut adopted) = (0, false, false);
    let mut opening = None;
    let Some((now, before)) = packets.split_last() else { return false };
    for packet in before.iter().filter(|packet| connection(packet) == connection(now)) {
        let segment = &packet.segment;
        match (Kind::of(segment.tcp.flags), segment.direction) {
            (Some(Kind::Syn), Direction::ToSite) if !packet.kernel => reopened |= fins > 1,
            (Some(Kind::Syn), Direction::ToServer) if packet.kernel => {
                opening = (fins > 1).then_some(segment.seq.wrapping_add(1));
                // If the SYN was ignored in LAST_ACK, both FINs still count until a SYN-ACK answers it.
                if reopened && !adopted {
                    reopened = false;
                }
            }
            // With tcp_loose the kernel adopts the connection that it has just forgotten.
            _ if packet.kernel && reopened => adopted = true,
            (Some(Kind::SynAck), Direction::ToSite) if packet.kernel && opening == Some(segment.ack) => {
                (fins, opening) = (0, None);
            }
            (Some(Kind::Fin), _) if packet.kernel => (fins, opening) = (fins + 1, None),
            _ if packet.kernel => opening = None,
            // Outside the windows, but remembered as the last segment in the SYN's place
            // (`nf_tcp_handle_invalid`).
            (Some(Kind::Fin | Kind::Rst), _) => opening = None,
            _ => {}
        }
    }
    reopened
}

/// Returns true if we passed packets of the last packet's connection, no RST among them ended it since, and
/// the last packet is not a SYN, which would start a new connection.
fn passed_before(packets: &[ComparedPacket]) -> bool {
    let Some((now, before)) = packets.split_last() else { return false };
    let mut passed = false;
    for packet in before.iter().filter(|packet| connection(packet) == connection(now) && packet.ours) {
        passed = Kind::of(packet.segment.tcp.flags) != Some(Kind::Rst);
    }
    passed && Kind::of(now.segment.tcp.flags) != Some(Kind::Syn)
}

/// Returns the deviation that puts a packet on another connection than its flow's.
fn connection(packet: &ComparedPacket) -> Option<Deviation> {
    match packet.segment.deviation {
        Deviation::DevicePort(_) | Deviation::ServerPort(_) | Deviation::Device(_) | Deviation::Server(_) => {
            Some(packet.segment.deviation)
        }
        _ => None,
    }
}

/// Returns the text of docs/differences.md.
pub fn markdown() -> String {
    let mut text = String::from(
        "# Where we differ from nf_conntrack\n\n\
         Packet by packet, our verdicts are those of Linux nf_conntrack with `nf_conntrack_tcp_be_liberal=0` and \
         the original iptables rules, except for these intended differences. `cargo xtask diff` compares both \
         sides and allows for this table, `tests/diff/src/purpose.rs`; `cargo xtask diff --differences` prints \
         it.\n\n\
         | difference | why |\n|---|---|\n",
    );
    for purpose in PURPOSES {
        text += &format!("| {} | {} |\n", purpose.name, purpose.reason);
    }
    text
}

fn last(packets: &[ComparedPacket], is: impl Fn(&ComparedPacket) -> bool) -> bool {
    packets.last().is_some_and(is)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_docs_have_this_table() {
        // cargo runs tests in the package's directory.
        let path = "../../docs/differences.md";
        let text = std::fs::read_to_string(path).expect(path);
        assert!(
            text == super::markdown(),
            "outdated: run cargo xtask diff --differences > docs/differences.md"
        );
    }
}
