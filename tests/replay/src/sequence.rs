//! Sequence numbers for cases that are not about them.
//!
//! A step's TCP packet that does not say `seq` or `ack` gets what its sender would send, by the steps
//! of the case before it that were let through:
//! - the device's initial sequence number is 1000, the server's 5000, unless their SYNs say otherwise;
//! - `seq` is the sender's next number; for a SYN its initial one, for a FIN that of its FIN if it
//!   sent one before, and 0 for a RST of a sender that has sent nothing (RFC 9293 section 3.10.7.1);
//! - `ack` is the other end's next number if the segment has ACK, else 0.
//!
//! A step that opens a flow begins anew.
use std::{collections::BTreeMap, net::IpAddr};

use anyhow::Result;
use gateway_common::layout::Hook;
use gateway_tests_kit::packet::{Network, Packet, Tcp, Transport};

use crate::{case::Step, expect::Verdict};

/// Address and port of the device, then of the server.
type Connection = [(IpAddr, u16); 2];

/// What was sent on each connection of a case.
#[derive(Default)]
pub struct Sequences {
    connections: BTreeMap<Connection, [End; 2]>,
}

/// One end of a connection.
#[derive(Clone, Copy)]
struct End {
    initial: u32,
    /// What it sends next; None if it has sent nothing.
    next: Option<u32>,
    /// The sequence number of its FIN.
    fin: Option<u32>,
}

const FRESH: [End; 2] =
    [End { initial: 1000, next: None, fin: None }, End { initial: 5000, next: None, fin: None }];

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

impl Sequences {
    /// The step with all of its packet's sequence numbers said.
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
        let mut ends = *ends.unwrap_or(&FRESH);
        let (seq, ack) = (tcp.seq.unwrap_or(ends[own].seq(tcp)), tcp.ack.unwrap_or(ends[1 - own].ack(tcp)));
        if matches!(step.verdict, Verdict::ToServer | Verdict::ToTunnel(_)) {
            ends[own].sent(tcp, seq);
            self.connections.insert(connection, ends);
        }
        let mut step = step.clone();
        for (word, said, number) in [("seq", tcp.seq, seq), ("ack", tcp.ack, ack)] {
            if said.is_none() {
                step.packet += &format!(" {word} {number}");
            }
        }
        Ok(step)
    }
}

/// Which end sends what comes to this hook; None for what belongs to no customer's connection.
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

    /// What the other end acknowledges of this one.
    fn ack(&self, tcp: &Tcp) -> u32 {
        if tcp.flags & ACK == 0 { 0 } else { self.next.unwrap_or(self.initial) }
    }

    fn sent(&mut self, tcp: &Tcp, seq: u32) {
        let counted = u32::from(tcp.flags & SYN != 0) + u32::from(tcp.flags & FIN != 0);
        let end = seq.wrapping_add(tcp.length as u32).wrapping_add(counted);
        if tcp.flags & RST != 0 {
            return;
        }
        if tcp.flags & FIN != 0 {
            self.fin = Some(seq);
        }
        // A SYN begins anew; but the same one again is no news.
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
