//! The generator: both ends' states, the packets so far, and the network that carries them.
use gateway_common::tcp::Direction;
use gateway_tests_kit::{packet::TcpOption, random::Random};

use super::{
    flags::*,
    options::{fit, garbled, timestamps},
};
use crate::segment::Segment;

/// One end of a connection, with the state that a middlebox may keep for it.
#[derive(Clone, Copy, Default)]
pub(super) struct End {
    /// Initial sequence number.
    pub(super) initial: u32,
    /// Next sequence number to send.
    pub(super) next: u32,
    /// Scale of the windows that this end offers.
    pub(super) shift: u8,
    /// Window that this end offers, unscaled.
    pub(super) window: u16,
    /// Sequence number after the last byte seen from this end.
    pub(super) seen: u32,
    /// Sequence number up to which the peer has room.
    pub(super) limit: u32,
    /// Largest window that this end has offered, in bytes.
    pub(super) largest: u32,
    pub(super) timestamps: bool,
    pub(super) sack: bool,
    pub(super) clock: u32,
}

/// Chances that shape a sequence, per mille.
#[derive(Clone, Copy)]
pub(super) struct Character {
    pub(super) hostile: u64,
    pub(super) loss: u64,
    pub(super) duplication: u64,
    pub(super) reordering: u64,
}

pub(super) struct Generator {
    pub(super) random: Random,
    pub(super) ends: [End; 2],
    pub(super) character: Character,
    pub(super) packets: Vec<Segment>,
}

impl Generator {
    /// Returns the segment with these flags that this side's TCP would send next.
    pub(super) fn polite(&mut self, side: usize, flags: u8, length: usize) -> Segment {
        let direction = direction(side);
        let (end, peer) = (self.ends[side], self.ends[side ^ 1]);
        let ack = if flags & ACK != 0 { peer.next } else { 0 };
        let mut segment = Segment::new(direction, flags, end.next, ack);
        segment.tcp.length = length;
        segment.tcp.window = end.window;
        if flags & SYN != 0 {
            self.syn_options(side, &mut segment);
        } else if end.timestamps {
            self.ends[side].clock = end.clock.wrapping_add(1);
            segment.tcp.options.push(timestamps(end.clock, peer.clock));
        }
        segment
    }

    /// Sends a segment from this side, seen by the middlebox.
    pub(super) fn send(&mut self, side: usize, segment: Segment) {
        let end = &mut self.ends[side];
        let after = segment.seq.wrapping_add(segment.space());
        if ahead(after, end.next) {
            end.next = after;
        }
        self.see(side, &segment);
        self.packets.push(segment);
        self.maybe_hostile(self.character.hostile);
    }

    pub(super) fn see(&mut self, side: usize, segment: &Segment) {
        let after = segment.seq.wrapping_add(segment.space());
        let syn = segment.tcp.flags & SYN != 0;
        let shift = if syn { 0 } else { self.ends[side].shift };
        let window = u32::from(segment.tcp.window) << shift;
        let end = &mut self.ends[side];
        if ahead(after, end.seen) {
            end.seen = after;
        }
        end.largest = end.largest.max(window);
        if segment.tcp.flags & ACK != 0 {
            let limit = segment.ack.wrapping_add(window.max(1));
            let peer = &mut self.ends[side ^ 1];
            if ahead(limit, peer.limit) {
                peer.limit = limit;
            }
        }
    }

    fn syn_options(&mut self, side: usize, segment: &mut Segment) {
        let random = &mut self.random;
        let options = &mut segment.tcp.options;
        if random.per_mille(800) {
            options.push(TcpOption::Mss(random.pick(&[536, 1200, 1356])));
        }
        if self.ends[side].sack {
            options.push(TcpOption::Bytes(vec![4, 2]));
        }
        if self.ends[side].timestamps {
            options.push(timestamps(self.ends[side].clock, 0));
        }
        if random.per_mille(700) {
            let shift = random.pick(&[0, 1, 2, 7, 14, 15, 255]);
            options.push(TcpOption::Bytes(vec![1]));
            options.push(TcpOption::Bytes(vec![3, 3, shift]));
            self.ends[side].shift = shift.min(14);
        }
        if random.per_mille(50) {
            let at = random.below(options.len() as u64 + 1) as usize;
            options.insert(at, garbled(random));
        }
        fit(options);
    }

    /// Lets the network lose, duplicate and reorder the packets.
    pub(super) fn network(mut self) -> Vec<Segment> {
        let mut packets = std::mem::take(&mut self.packets);
        let random = &mut self.random;
        packets.retain(|_| !random.per_mille(self.character.loss));
        let mut at = 0;
        while at < packets.len() {
            if random.per_mille(self.character.duplication) {
                packets.insert(at, packets[at].clone());
                at += 1;
            }
            if random.per_mille(self.character.reordering) {
                let other = (at + 1 + random.below(3) as usize).min(packets.len() - 1);
                packets.swap(at, other);
            }
            at += 1;
        }
        packets
    }
}

fn direction(side: usize) -> Direction {
    if side == 0 { Direction::ToServer } else { Direction::ToSite }
}

/// Returns true if `a` is after `b` in serial number arithmetic: RFC 1982.
fn ahead(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) > 0
}
