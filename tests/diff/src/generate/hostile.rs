//! Packets of attackers, broken TCPs and other connections.
use gateway_tests_kit::{random::Random, world::TUNNELS};

use super::{
    flags::*,
    generator::Generator,
    options::{fit, garbled},
};
use crate::segment::{Deviation, Segment};

/// nf_conntrack's least window for acknowledgments (nf_conntrack_proto_tcp.c, `MAXACKWINCONST`): generated
/// numbers lie around its edge.
const MAX_ACK_WINDOW: u32 = 66000;

impl Generator {
    pub(super) fn maybe_hostile(&mut self, per_mille: u64) {
        if !self.random.per_mille(per_mille) {
            return;
        }
        let side = self.random.below(2) as usize;
        let segment = match self.random.below(20) {
            0..=9 => self.forged(side),
            10..=12 => self.mutated(),
            13 | 14 => self.challenge(side),
            15 | 16 => match self.random.below(self.packets.len() as u64 + 1) as usize {
                at if at < self.packets.len() => self.packets[at].clone(),
                _ => self.forged(side),
            },
            _ => self.deviating(side),
        };
        // A middlebox may learn from an attacker's packet, unless it drops it.
        if self.random.per_mille(300) && segment.deviation == Deviation::None {
            self.see(segment.direction as usize, &segment);
        }
        self.packets.push(segment);
        // The other side may respond.
        if self.random.per_mille(200) {
            let length = self.random.pick(&[0, 100]);
            let answer = self.polite(side ^ 1, ACK, length);
            self.send(side ^ 1, answer);
        }
    }

    /// Returns a sequence number near a limit that a tracker might check.
    pub(super) fn near_sequence(&mut self, side: usize) -> u32 {
        let (end, peer) = (self.ends[side], self.ends[side ^ 1]);
        let random = &mut self.random;
        let limit = random.pick(&[
            end.next,
            end.seen,
            end.limit,
            end.initial,
            end.seen.wrapping_sub(peer.largest),
            end.seen.wrapping_add(peer.largest),
            end.next.wrapping_add(u32::from(peer.window) << peer.shift),
            end.next.wrapping_add(0x8000_0000),
            peer.next,
        ]);
        near(random, limit)
    }

    fn near_acknowledgment(&mut self, side: usize) -> u32 {
        let (end, peer) = (self.ends[side], self.ends[side ^ 1]);
        let random = &mut self.random;
        let limit = random.pick(&[
            peer.next,
            peer.seen,
            peer.initial,
            0,
            peer.seen.wrapping_sub(MAX_ACK_WINDOW),
            peer.seen.wrapping_sub(end.largest.max(MAX_ACK_WINDOW)),
            peer.seen.wrapping_sub(peer.largest.max(MAX_ACK_WINDOW)),
            peer.next.wrapping_add(0x8000_0000),
            end.next,
        ]);
        near(random, limit)
    }

    fn forged(&mut self, side: usize) -> Segment {
        let flags = match self.random.below(10) {
            0..=3 => ACK,
            4 => ACK | FIN,
            5 => self.random.pick(&[RST, RST | ACK]),
            6 => SYN,
            7 => SYN | ACK,
            _ => self.random.any() as u8,
        };
        let mut segment = self.polite(side, flags, 0);
        segment.tcp.length = self.random.pick(&[0, 0, 1, 2, 100, 1356]);
        if self.random.per_mille(700) {
            segment.seq = self.near_sequence(side);
            // Put the segment's end at the limit instead of its beginning.
            if self.random.per_mille(300) {
                segment.seq = segment.seq.wrapping_sub(segment.space());
            }
        }
        if self.random.per_mille(500) {
            segment.ack = self.near_acknowledgment(side);
        }
        if self.random.per_mille(200) {
            segment.tcp.window = self.random.pick(&[0, 1, 1000, 32768, 65535]);
        }
        segment
    }

    /// Returns an earlier packet, or the next one, with one field changed.
    fn mutated(&mut self) -> Segment {
        let mut segment = match self.packets.len() as u64 {
            0 => self.polite(0, ACK, 0),
            length if self.random.per_mille(500) => self.packets[self.random.below(length) as usize].clone(),
            _ => {
                let side = self.random.below(2) as usize;
                self.polite(side, ACK | PSH, 10)
            }
        };
        let random = &mut self.random;
        match random.below(9) {
            0 => segment.seq = near(random, segment.seq),
            1 => segment.ack = near(random, segment.ack),
            2 => segment.tcp.flags ^= 1 << random.below(8),
            3 => segment.tcp.flags = random.any() as u8,
            4 => segment.tcp.window = random.any() as u16,
            5 => segment.tcp.data_offset = Some(random.below(16) as u8),
            6 => {
                let at = random.below(segment.tcp.options.len() as u64 + 1) as usize;
                segment.tcp.options.insert(at, garbled(random));
                fit(&mut segment.tcp.options);
            }
            7 => segment.checksum_error = random.pick(&[1, 0x100, 0xffff, 0x8000]),
            _ => segment.tcp.length = random.pick(&[0, 1, 50, 1000]),
        }
        segment
    }

    /// Sends an inexact SYN or RST and the challenge ACK that answers it (RFC 5961), and returns a RST.
    fn challenge(&mut self, side: usize) -> Segment {
        let flags = self.random.pick(&[SYN, SYN, RST, SYN | ACK]);
        let mut provocation = self.polite(side, flags, 0);
        if self.random.per_mille(600) {
            provocation.seq = self.near_sequence(side);
        }
        self.packets.push(provocation);
        let mut answer = self.polite(side ^ 1, ACK, 0);
        if self.random.per_mille(200) {
            answer.ack = self.near_acknowledgment(side ^ 1);
        }
        self.packets.push(answer);
        // The challenged peer may answer with a RST at the acknowledged number.
        let mut reset = self.polite(side, RST, 0);
        if self.random.per_mille(300) {
            reset.seq = self.near_sequence(side);
        }
        reset
    }

    /// Returns a packet that deviates from the flow.
    fn deviating(&mut self, side: usize) -> Segment {
        let mut segment = self.polite(side, ACK, 0);
        segment.tcp.flags = self.random.pick(&[SYN, ACK, ACK, RST]);
        let random = &mut self.random;
        segment.deviation = match random.below(12) {
            0 | 1 => Deviation::DevicePort(1 + random.below(2) as u16),
            2 => Deviation::ServerPort(random.pick(&[0, 79, 81, 8080])),
            3 => Deviation::Tunnel(random.below(TUNNELS.len() as u64) as usize),
            4 => {
                Deviation::Device(random.pick(&[[172, 16, 0, 9], [10, 20, 200, 1], [10, 30, 200, 1]]).into())
            }
            5 => Deviation::Server([10, 200, 0, random.pick(&[11, 12, 13])].into()),
            6 => Deviation::Udp,
            // Derived from `seq`: another random number would change the sequences of the kept seeds.
            7 => match segment.seq % 8 {
                0..=2 => Deviation::TooBig(0),
                3 => Deviation::TooBig(1),
                _ => Deviation::Ping,
            },
            8 => Deviation::IpChecksum,
            9 => Deviation::IpOptions,
            10 => Deviation::Fragment,
            _ => {
                segment.ttl = random.pick(&[0, 1, 2, 255]);
                Deviation::None
            }
        };
        segment
    }
}

/// Returns a number at a limit, just beside it, or anywhere.
fn near(random: &mut Random, limit: u32) -> u32 {
    match random.below(10) {
        0..=3 => limit,
        4 | 5 => limit.wrapping_add(1),
        6 | 7 => limit.wrapping_sub(1),
        8 => limit.wrapping_add(random.pick(&[
            2,
            0u32.wrapping_sub(2),
            100,
            70_000,
            0u32.wrapping_sub(70_000),
        ])),
        _ => random.word(),
    }
}
