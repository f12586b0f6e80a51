//! The differences on purpose: the one table.
use gateway_common::{packet::Kind, tcp::Direction};

use super::{
    arena::LIMITED,
    segment::{Aside, Flow, Segment},
};

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
        reason: "inner IPv4 options and IPv6 extension headers are dropped: no device needs them, source routes \
                 are an attack, and chains of headers a way past filters (RFC 7045, RFC 9098)",
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
        name: "ipv6 fragment",
        reason: "inner fragments are dropped, as ports are not in all of them; the kernel takes an IPv6 first \
                 fragment of no multiple of 8 bytes for a whole packet (nf_ct_frag6_gather, EPROTO)",
        applies: |flow, packets| {
            flow.is_v6() && last(packets, |packet| packet.segment.aside == Aside::Fragment && !packet.ours)
        },
    },
    Purpose {
        name: "path mtu",
        reason: "a message that a packet of a connection was too big passes, both ways: without it path-MTU \
                 discovery fails (RFC 1191, RFC 8201); nf_conntrack calls it RELATED, which the original rules \
                 do not let through",
        applies: |_, packets| {
            last(packets, |packet| {
                matches!(packet.segment.aside, Aside::TooBig(_)) && !packet.kernel && packet.ours
            })
        },
    },
    Purpose {
        name: "quota",
        reason: "a customer may take so many flows, half-open flows and new flows a second; nf_conntrack has one \
                 table for all, which one customer can fill",
        applies: |flow, packets| {
            let opens = |packet: &Judged| packet.segment.direction == Direction::ToServer && packet.is_tcp();
            flow.tunnel().customer == LIMITED
                && last(packets, |packet| opens(packet) && packet.kernel && !packet.ours)
                && !passed_before(packets)
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
        !matches!(self.segment.aside, Aside::Udp | Aside::Ping | Aside::TooBig(_))
    }
}

/// The server sent a SYN after two FINs (nf_conntrack does not ask whose), which may have been in
/// TIME_WAIT, and no new connection has begun on both sides since.
fn server_reopened(packets: &[Judged]) -> bool {
    let (mut fins, mut reopened, mut adopted) = (0, false, false);
    let mut opening = None;
    let Some((now, before)) = packets.split_last() else { return false };
    for packet in before.iter().filter(|packet| connection(packet) == connection(now)) {
        let segment = &packet.segment;
        match (Kind::of(segment.tcp.flags), segment.direction) {
            (Some(Kind::Syn), Direction::ToSite) if !packet.kernel => reopened |= fins > 1,
            (Some(Kind::Syn), Direction::ToServer) if packet.kernel => {
                opening = (fins > 1).then_some(segment.seq.wrapping_add(1));
                // Or it was ignored in LAST_ACK, and both FINs still count until a SYN-ACK answers.
                if reopened && !adopted {
                    reopened = false;
                }
            }
            // With tcp_loose the kernel takes up what it has just forgotten.
            _ if packet.kernel && reopened => adopted = true,
            (Some(Kind::SynAck), Direction::ToSite) if packet.kernel && opening == Some(segment.ack) => {
                (fins, opening) = (0, None);
            }
            (Some(Kind::Fin), _) if packet.kernel => (fins, opening) = (fins + 1, None),
            _ if packet.kernel => opening = None,
            // Out of the windows, but noted as the last segment, so the SYN is not (`nf_tcp_handle_invalid`).
            (Some(Kind::Fin | Kind::Rst), _) => opening = None,
            _ => {}
        }
    }
    reopened
}

/// We let something of the last packet's connection through, and no RST since that may have ended it; and
/// that packet is no SYN, which begins anew.
fn passed_before(packets: &[Judged]) -> bool {
    let Some((now, before)) = packets.split_last() else { return false };
    let mut passed = false;
    for packet in before.iter().filter(|packet| connection(packet) == connection(now) && packet.ours) {
        passed = Kind::of(packet.segment.tcp.flags) != Some(Kind::Rst);
    }
    passed && Kind::of(now.segment.tcp.flags) != Some(Kind::Syn)
}

/// Where a packet's addresses and ports are not its flow's.
fn connection(packet: &Judged) -> Option<Aside> {
    match packet.segment.aside {
        Aside::DevicePort(_) | Aside::ServerPort(_) | Aside::Device(_) | Aside::Server(_) => {
            Some(packet.segment.aside)
        }
        _ => None,
    }
}

/// docs/differences.md.
pub fn markdown() -> String {
    let mut text = String::from(
        "# Where we differ from nf_conntrack\n\n\
         Verdicts are those of Linux nf_conntrack with `nf_conntrack_tcp_be_liberal=0` and the original iptables \
         rules, packet by packet, but for these differences on purpose. `cargo xtask diff` compares both sides \
         and knows this table, `tests/diff/src/purpose.rs`; `cargo xtask diff --differences` prints it.\n\n\
         | what | why |\n|---|---|\n",
    );
    for purpose in PURPOSES {
        text += &format!("| {} | {} |\n", purpose.name, purpose.reason);
    }
    text
}

fn last(packets: &[Judged], is: impl Fn(&Judged) -> bool) -> bool {
    packets.last().is_some_and(is)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_docs_have_this_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/differences.md");
        let text = std::fs::read_to_string(path).expect(path);
        assert!(text == super::markdown(), "write {path} anew: cargo xtask diff --differences > {path}");
    }
}
