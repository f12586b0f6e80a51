//! Conversations as TCPs hold them: opening, exchange of data, closing and reset.
use gateway_common::packet::flag;
use gateway_tests_kit::packet::TcpOption;

use super::{
    flags::*,
    generator::{End, Generator},
    options::{fit, sack_option},
};

impl Generator {
    pub(super) fn connection(&mut self, again: bool) {
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
}
