//! Sequence numbers for cases that are not about sequence numbers.
//!
//! A step's TCP packet without `seq` or `ack` gets the numbers that its sender would send after the case's
//! previous packets that passed:
//! - the device's initial sequence number is 1000, the server's 5000, unless their SYNs state others;
//! - `seq` is the sender's next number; for a SYN the initial one, for a repeated FIN that of the first, and
//!   0 for a RST of a sender that has sent nothing (RFC 9293 section 3.10.7.1);
//! - `ack` is the other end's next number if the segment has ACK, otherwise 0.
//!
//! A step that opens a flow starts a new connection.
use std::{collections::BTreeMap, net::IpAddr};

use anyhow::Result;
use gateway_common::layout::Hook;
use gateway_tests_kit::packet::{Network, Packet, Tcp, Transport};

use crate::{case::Step, expect::Verdict};

/// Address and port of the device, and of the server.
type Connection = [(IpAddr, u16); 2];

/// The state of each connection of a case.
#[derive(Default)]
pub struct Sequences {
    connections: BTreeMap<Connection, [End; 2]>,
}

/// One end of a connection.
#[derive(Clone, Copy)]
struct End {
    initial: u32,
    /// Next sequence number to send; `None` if this end has sent nothing.
    next: Option<u32>,
    /// Sequence number of its FIN.
    fin: Option<u32>,
}

const NEW_CONNECTION: [End; 2] =
    [End { initial: 1000, next: None, fin: None }, End { initial: 5000, next: None, fin: None }];

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

impl Sequences {
    /// Returns the step with both numbers added to its packet, where they are not stated.
    pub fn complete(&mut self, step: &Step) -> Result<Step> {
        let packet: Packet = step.packet.parse()?;
        let (Network::Ip(ip, Transport::Tcp(tcp)), Some(own)) = (&packet.network, sender(step.hook()?))
        else {
            return Ok(step.clone());
        };
        let mut connection = [(ip.source, tcp.ports[0]), (ip.destination, tcp.ports[1])];
        if own == 1 {
            connection.reverse();
        }
        let ends = self.connections.get(&connection).filter(|_| !step.counts.opens());
        let mut ends = *ends.unwrap_or(&NEW_CONNECTION);
        let (seq, ack) = (tcp.seq.unwrap_or(ends[own].seq(tcp)), tcp.ack.unwrap_or(ends[1 - own].ack(tcp)));
        if matches!(step.verdict, Verdict::ToServer | Verdict::ToTunnel(_)) {
            ends[own].record(tcp, seq);
            self.connections.insert(connection, ends);
        }
        let mut step = step.clone();
        for (word, stated, number) in [("seq", tcp.seq, seq), ("ack", tcp.ack, ack)] {
            if stated.is_none() {
                step.packet += &format!(" {word} {number}");
            }
        }
        Ok(step)
    }
}

/// Returns the end whose packets arrive at this hook; `None` for hooks without a customer's connections.
fn sender(hook: Hook) -> Option<usize> {
    match hook {
        Hook::InternetIngress => Some(0),
        Hook::LanIngress => Some(1),
        _ => None,
    }
}

impl End {
    fn seq(&self, tcp: &Tcp) -> u32 {
        match (self.next, self.fin) {
            _ if tcp.flags & SYN != 0 => self.initial,
            (_, Some(fin)) if tcp.flags & FIN != 0 => fin,
            (Some(next), _) => next,
            (None, _) if tcp.flags & RST != 0 => 0,
            (None, _) => self.initial,
        }
    }

    /// Returns the acknowledgment number that the other end would send.
    fn ack(&self, tcp: &Tcp) -> u32 {
        if tcp.flags & ACK == 0 { 0 } else { self.next.unwrap_or(self.initial) }
    }

    /// Records a segment that this end has sent.
    fn record(&mut self, tcp: &Tcp, seq: u32) {
        let flags = u32::from(tcp.flags & SYN != 0) + u32::from(tcp.flags & FIN != 0);
        let end = seq.wrapping_add(tcp.length as u32).wrapping_add(flags);
        if tcp.flags & RST != 0 {
            return;
        }
        if tcp.flags & FIN != 0 {
            self.fin = Some(seq);
        }
        // A SYN starts over, but a repeated one changes nothing.
        if tcp.flags & SYN != 0 && (self.next.is_none() || self.initial != seq) {
            *self = Self { initial: seq, next: Some(end), fin: None };
        }
        if self.next.is_none_or(|next| (end.wrapping_sub(next) as i32) > 0) {
            self.next = Some(end);
        }
    }
}

#[cfg(test)]
mod tests;
