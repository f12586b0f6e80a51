//! Generates sequences of packets of one connection: of TCPs, of networks that lose and reorder, of
//! attackers.
use gateway_common::{packet::flag, tcp::Direction};
use gateway_tests_kit::{packet::TcpOption, random::Random, world::TUNNELS};

use crate::segment::{Deviation, Segment};

const SYN: u8 = flag::SYN;
const ACK: u8 = flag::ACK;
const FIN: u8 = flag::FIN;
const RST: u8 = flag::RST;
const PSH: u8 = flag::PSH;

/// nf_conntrack's least window for acknowledgments (nf_conntrack_proto_tcp.c, `MAXACKWINCONST`): generated
/// numbers lie around its edge.
const MAX_ACK_WINDOW: u32 = 66000;

/// One end of a connection, with the state that a middlebox may keep for it.
#[derive(Clone, Copy, Default)]
struct End {
    /// Initial sequence number.
    initial: u32,
    /// Next sequence number to send.
    next: u32,
    /// Scale of the windows that this end offers.
    shift: u8,
    /// Window that this end offers, unscaled.
    window: u16,
    /// Sequence number after the last byte seen from this end.
    seen: u32,
    /// Sequence number up to which the peer has room.
    limit: u32,
    /// Largest window that this end has offered, in bytes.
    largest: u32,
    timestamps: bool,
    sack: bool,
    clock: u32,
}

/// Chances that shape a sequence, per mille.
#[derive(Clone, Copy)]
struct Character {
    hostile: u64,
    loss: u64,
    duplication: u64,
    reordering: u64,
}

struct Generator {
    random: Random,
    ends: [End; 2],
    character: Character,
    packets: Vec<Segment>,
}

/// Generates the sequence of a seed, always the same one. Some sequences begin in the middle of a connection.
pub fn sequence(seed: u64) -> Vec<Segment> {
    let mut random = Random::new(seed);
    let character = Character {
        hostile: random.pick(&[0, 20, 100, 300]),
        loss: random.pick(&[0, 0, 30, 150]),
        duplication: random.pick(&[0, 20, 100]),
        reordering: random.pick(&[0, 30, 150]),
    };
    let mut generator = Generator { random, ends: [End::default(); 2], character, packets: Vec::new() };
    let incarnations = generator.random.pick(&[1, 1, 1, 2, 3]);
    for incarnation in 0..incarnations {
        generator.connection(incarnation != 0);
    }
    generator.network()
}

impl Generator {
    fn connection(&mut self, again: bool) {
        self.choose_ends(again);
        match self.random.below(100) {
            0..=79 => self.handshake(),
            80..=87 => self.simultaneous_open(),
            88..=92 if !again => {} // Mid-stream: no middlebox saw the beginning.
            _ => self.odd_open(),
        }
        let rounds = self.random.pick(&[0, 1, 3, 8, 20]);
        for _ in 0..rounds {
            self.exchange();
        }
        match self.random.below(100) {
            0..=59 => self.close(),
            60..=69 => self.simultaneous_close(),
            70..=84 => self.reset(),
            _ => {}
        }
        for _ in 0..self.random.pick(&[0, 1, 4]) {
            self.maybe_hostile(500);
        }
    }

    fn choose_ends(&mut self, again: bool) {
        for side in 0..2 {
            let random = &mut self.random;
            let old = self.ends[side];
            let initial = match random.below(8) {
                // After, at and before the end of the previous connection: RFC 9293 section 3.6.1.
                0..=3 if again => old.seen.wrapping_add(random.pick(&[0, 1, 2, 100_000])),
                4 if again => old.seen.wrapping_sub(random.pick(&[1, 2, 1000, 100_000])),
                5 if again => old.initial,
                6 => 0u32.wrapping_sub(random.pick(&[1, 2, 100, 5000])),
                _ => random.word(),
            };
            let end = &mut self.ends[side];
            *end = End { initial, next: initial, seen: initial, limit: initial, ..End::default() };
            end.window = random.pick(&[0, 1, 512, 4096, 29200, 64240, 65535]);
            end.timestamps = random.per_mille(300);
            end.sack = random.per_mille(500);
            end.clock = random.word();
        }
    }

    /// Returns the segment with these flags that this side's TCP would send next.
    fn polite(&mut self, side: usize, flags: u8, length: usize) -> Segment {
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
    fn send(&mut self, side: usize, segment: Segment) {
        let end = &mut self.ends[side];
        let after = segment.seq.wrapping_add(segment.space());
        if ahead(after, end.next) {
            end.next = after;
        }
        self.see(side, &segment);
        self.packets.push(segment);
        self.maybe_hostile(self.character.hostile);
    }

    fn see(&mut self, side: usize, segment: &Segment) {
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

    fn handshake(&mut self) {
        let syn = self.polite(0, SYN, 0);
        self.send(0, syn.clone());
        if self.random.per_mille(100) {
            self.packets.push(syn);
        }
        let syn_ack = self.polite(1, SYN | ACK, 0);
        self.send(1, syn_ack.clone());
        self.settle_scaling();
        if self.random.per_mille(100) {
            self.packets.push(syn_ack);
        }
        if !self.random.per_mille(50) {
            let ack = self.polite(0, ACK, 0);
            self.send(0, ack);
        }
    }

    /// Drops window scaling unless both sides offered it: RFC 7323 section 2.2.
    fn settle_scaling(&mut self) {
        if self.ends.iter().any(|end| end.shift == 0) {
            self.ends[0].shift = 0;
            self.ends[1].shift = 0;
        }
    }

    /// Opens simultaneously: RFC 9293 section 3.5, figure 7.
    fn simultaneous_open(&mut self) {
        let first = self.random.below(2) as usize;
        for side in [first, first ^ 1] {
            let syn = self.polite(side, SYN, 0);
            self.send(side, syn);
        }
        self.settle_scaling();
        for side in [first ^ 1, first] {
            let mut syn_ack = self.polite(side, SYN | ACK, 0);
            syn_ack.seq = self.ends[side].initial;
            self.send(side, syn_ack);
        }
    }

    fn odd_open(&mut self) {
        let side = self.random.below(2) as usize;
        let flags =
            self.random.pick(&[SYN, SYN | ACK, ACK, FIN | ACK, RST, RST | ACK, SYN | PSH, SYN | flag::URG]);
        let length = self.random.pick(&[0, 0, 10]);
        let packet = self.polite(side, flags, length);
        self.send(side, packet);
        if self.random.per_mille(700) {
            self.handshake();
        }
    }

    fn exchange(&mut self) {
        let side = self.random.below(2) as usize;
        let length = self.random.pick(&[1, 100, 1200, 1356]) as usize;
        match self.random.below(20) {
            0..=8 => {
                let flags = self.random.pick(&[ACK, ACK | PSH]);
                let data = self.polite(side, flags, length);
                self.send(side, data.clone());
                if self.random.per_mille(100) {
                    self.packets.push(data);
                }
            }
            9..=14 => {
                let ack = self.polite(side, ACK, 0);
                self.send(side, ack);
            }
            15 => {
                self.ends[side].window = self.random.pick(&[0, 1, 100, 8192, 65535]);
                let update = self.polite(side, ACK, 0);
                self.send(side, update);
            }
            16 => {
                // A keepalive (RFC 9293 section 3.8.4): one before the next sequence number.
                let mut probe = self.polite(side, ACK, 0);
                probe.seq = probe.seq.wrapping_sub(1);
                probe.tcp.length = self.random.below(2) as usize;
                self.send(side, probe);
            }
            17 => {
                // A hole, a SACK for the data after it, then the lost segment.
                let lost = self.polite(side, ACK, length);
                self.ends[side].next = self.ends[side].next.wrapping_add(length as u32);
                let after = self.polite(side, ACK | PSH, length);
                let from = after.seq;
                self.send(side, after);
                let mut sack = self.polite(side ^ 1, ACK, 0);
                sack.ack = lost.seq;
                let blocks = self.random.pick(&[1, 1, 2, 3, 4]);
                let option = sack_option(from, from.wrapping_add(length as u32), blocks);
                sack.tcp.options.extend([TcpOption::Bytes(vec![1]), TcpOption::Bytes(vec![1]), option]);
                fit(&mut sack.tcp.options);
                self.send(side ^ 1, sack);
                self.send(side, lost);
            }
            18 => {
                // A burst.
                for _ in 0..self.random.below(4) {
                    let data = self.polite(side, ACK, 1356);
                    self.send(side, data);
                }
            }
            _ => {
                let urgent = self.polite(side, ACK | PSH | flag::URG, length);
                self.send(side, urgent);
            }
        }
    }

    fn close(&mut self) {
        let first = self.random.below(2) as usize;
        for side in [first, first ^ 1] {
            let length = self.random.pick(&[0, 0, 50]);
            let fin = self.polite(side, FIN | ACK | if length > 0 { PSH } else { 0 }, length);
            self.send(side, fin);
            if self.random.per_mille(900) {
                let ack = self.polite(side ^ 1, ACK, 0);
                self.send(side ^ 1, ack);
            }
            if self.random.per_mille(200) {
                self.exchange();
            }
        }
    }

    fn simultaneous_close(&mut self) {
        let fins = [0, 1].map(|side| self.polite(side, FIN | ACK, 0));
        let first = self.random.below(2) as usize;
        for side in [first, first ^ 1] {
            self.send(side, fins[side].clone());
        }
        for side in [first, first ^ 1] {
            let ack = self.polite(side, ACK, 0);
            self.send(side, ack);
        }
    }

    fn reset(&mut self) {
        let side = self.random.below(2) as usize;
        let flags = self.random.pick(&[RST, RST | ACK]);
        let mut reset = self.polite(side, flags, 0);
        if self.random.per_mille(300) {
            reset.seq = self.near_sequence(side);
        }
        self.send(side, reset);
    }

    fn maybe_hostile(&mut self, per_mille: u64) {
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
    fn near_sequence(&mut self, side: usize) -> u32 {
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

    /// Lets the network lose, duplicate and reorder the packets.
    fn network(mut self) -> Vec<Segment> {
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

fn timestamps(value: u32, echo: u32) -> TcpOption {
    let mut bytes = vec![8, 10];
    bytes.extend(value.to_be_bytes());
    bytes.extend(echo.to_be_bytes());
    TcpOption::Bytes(bytes)
}

fn sack_option(from: u32, to: u32, blocks: u32) -> TcpOption {
    let mut bytes = vec![5, 2 + 8 * blocks as u8];
    for block in 0..blocks {
        bytes.extend(from.wrapping_add(block).to_be_bytes());
        bytes.extend(to.wrapping_add(block).to_be_bytes());
    }
    TcpOption::Bytes(bytes)
}

/// Returns an option that no TCP sends, or not in such a place.
fn garbled(random: &mut Random) -> TcpOption {
    let end = random.word().to_be_bytes();
    let bytes = match random.below(12) {
        0 => vec![3, 3, random.any() as u8],
        1 => vec![3, 2],
        2 => vec![3, 4, 1, 1],
        3 => vec![4, 3, 0],
        4 => vec![5, 10, end[0], end[1], end[2], end[3], end[3], end[2], end[1], end[0]],
        5 => vec![5, 9, 0, 0, 0, 0, 0, 0, 0],
        6 => vec![0],
        7 => vec![3, 0],
        8 => vec![3, 1],
        9 => vec![254, 40],
        10 => vec![2, 4, 2, 24],
        _ => vec![random.any() as u8, random.any() as u8, random.any() as u8],
    };
    TcpOption::Bytes(bytes)
}

/// Removes options from the end until the rest fits a header.
fn fit(options: &mut Vec<TcpOption>) {
    let bytes = |option: &TcpOption| match option {
        TcpOption::Mss(_) => 4,
        TcpOption::Bytes(bytes) => bytes.len(),
    };
    while options.iter().map(bytes).sum::<usize>() > 40 {
        options.pop();
    }
}
