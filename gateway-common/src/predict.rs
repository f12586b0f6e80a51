//! Header prediction (V. Jacobson, "4BSD Header Prediction", 1990): nearly every segment is the next one of
//! a connection that both ends keep to. What [`crate::track`] would do with it is known beforehand, and is
//! done here at a fraction of the cost. A test compares both.
use crate::{
    family::{Family, Tcp},
    layout::{Flow, Settings, Ticks},
    packet::{Kind, TIMESTAMP_ALONE, flag},
    tcp::{Direction, State, UNACKNOWLEDGED_SLOT},
    track::{ACK_WINDOW, after, before, peer_flag, status},
    wire::{Frame, NETWORK_OFFSET, TcpHeader, Words},
};

/// A segment without SYN, FIN, RST, URG and without options but a timestamp.
#[derive(Clone, Copy, Debug)]
pub struct Next<'a, A, W> {
    /// Bytes of its header.
    pub header_bytes: u32,
    tcp: &'a Tcp<A, W>,
}

impl<'a, A: Family, W: Words> Next<'a, A, W> {
    /// None for every other segment, also for a malformed one.
    #[inline(always)]
    pub fn of<F: Frame + ?Sized>(frame: &F, tcp: &'a Tcp<A, W>) -> Option<Self> {
        const TIMESTAMP_BYTES: u32 = 12;
        /// The word of data offset, flags and window: RFC 9293 section 3.1.
        const fn head(data_offset: u32, flags: u8) -> u32 {
            (data_offset << 28) | ((flags as u32) << 16)
        }
        const MASK: u32 = head(15, flag::FIN | flag::SYN | flag::RST | flag::ACK | flag::URG);
        const WITHOUT_OPTIONS: u32 = head(5, flag::ACK);
        const WITH_TIMESTAMP: u32 = head(8, flag::ACK);
        let header_bytes = match tcp.word(HEAD) & MASK {
            WITHOUT_OPTIONS => TCP_HEADER_BYTES,
            WITH_TIMESTAMP => {
                let at = NETWORK_OFFSET + A::HEADER_BYTES + size_of::<TcpHeader>();
                let header_bytes = TCP_HEADER_BYTES + TIMESTAMP_BYTES;
                if header_bytes > tcp.head().payload_bytes || frame.read::<[u8; 4]>(at)? != TIMESTAMP_ALONE {
                    return None;
                }
                header_bytes
            }
            _ => return None,
        };
        Some(Self { header_bytes, tcp })
    }
}

impl<A: Family, W: Words> Tcp<A, W> {
    /// Source port.
    #[inline(always)]
    pub fn source_port(&self) -> u32 {
        self.word(PORTS) >> 16
    }

    /// Destination port.
    #[inline(always)]
    pub fn destination_port(&self) -> u32 {
        self.word(PORTS) & 0xffff
    }

    /// True if [`crate::packet::Segment::parse`] says that it is a segment.
    #[inline(always)]
    pub fn is_segment(&self) -> bool {
        let head = self.word(HEAD);
        let header_bytes = (head >> 28) * 4;
        header_bytes >= TCP_HEADER_BYTES
            && header_bytes <= self.head().payload_bytes
            && Kind::of((head >> 16) as u8).is_some()
    }
}

const TCP_HEADER_BYTES: u32 = size_of::<TcpHeader>() as u32;

/// Words of a TCP header, RFC 9293 section 3.1: both ports.
const PORTS: usize = 0;
/// Sequence number.
const SEQUENCE: usize = 1;
/// Acknowledgment number.
const ACKNOWLEDGMENT: usize = 2;
/// Data offset, flags and window.
const HEAD: usize = 3;

/// True if the segment is as expected, and then the flow is as [`crate::track::track`] leaves it. Else
/// nothing has changed.
#[inline(always)]
pub fn predict<A: Family, W: Words>(
    flow: &mut Flow,
    next: &Next<A, W>,
    direction: Direction,
    settings: &Settings,
    now: Ticks,
) -> bool {
    let (own, other) = (direction as usize & 1, direction.opposite() as usize & 1);
    let (sender, receiver) = (flow.peers[own], flow.peers[other]);
    let Next { header_bytes, tcp } = *next;
    let (sequence, ack, offered) = (tcp.word(SEQUENCE), tcp.word(ACKNOWLEDGMENT), tcp.word(HEAD) & 0xffff);
    let length = tcp.head().payload_bytes - header_bytes;
    let end = sequence.wrapping_add(length);
    let length = length as u16;

    // Both ends have spoken, and nothing is open about the connection.
    let certain = flow.state & 15 == State::Established as u8
        && flow.last & 0xf0 == status::REPLY_SEEN | status::ASSURED
        && flow.flags[0] & flow.flags[1] & peer_flag::ACK_SEEN != 0
        && sender.max_window != 0
        && receiver.max_window != 0
        && offered != 0;
    if !certain {
        return false;
    }
    // What `misfit` asks.
    let ack_window = if sender.max_window > ACK_WINDOW { sender.max_window } else { ACK_WINDOW };
    let fits = !after(sequence, sender.max_end)
        && !after(ack, receiver.end)
        && !before(end, sender.end.wrapping_sub(receiver.max_window))
        && !before(ack, receiver.end.wrapping_sub(ack_window));
    if !fits {
        return false;
    }
    let again = flow.last_end == end
        && flow.last_ack == ack
        && flow.last_length == length
        && u32::from(flow.last_window) == offered
        && flow.last_direction() == direction as u8;
    if again {
        return false;
    }

    // What `learn` learns.
    let window = offered << flow.scale(own);
    let mut unacknowledged = [flow.flags[own], flow.flags[other]];
    if sender.max_window < window {
        flow.peers[own].max_window = window;
    }
    if after(end, sender.end) {
        flow.peers[own].end = end;
        unacknowledged[0] |= peer_flag::UNACKNOWLEDGED;
    }
    if after(ack, sender.max_ack) {
        flow.peers[own].max_ack = ack;
    }
    if after(end, sender.max_end) {
        flow.peers[other].max_window = receiver.max_window.wrapping_add(end.wrapping_sub(sender.max_end));
    }
    let allowed = ack.wrapping_add(window);
    if !before(allowed, receiver.max_end) {
        flow.peers[other].max_end = allowed;
    }
    if ack == receiver.end {
        unacknowledged[1] &= !peer_flag::UNACKNOWLEDGED;
    }
    (flow.flags[own], flow.flags[other]) = (unacknowledged[0], unacknowledged[1]);
    (flow.last_ack, flow.last_end) = (ack, end);
    (flow.last_length, flow.last_window) = (length, offered as u16);

    // What `accept` accepts: no retransmission.
    flow.state = State::Established as u8;
    flow.last = status::REPLY_SEEN | status::ASSURED | (direction as u8 & 1) << 3 | Kind::Ack as u8;
    let mut silence = settings.timeouts[State::Established as usize];
    if (unacknowledged[0] | unacknowledged[1]) & peer_flag::UNACKNOWLEDGED != 0 {
        let shorter = settings.timeouts[UNACKNOWLEDGED_SLOT as usize];
        if silence > shorter {
            silence = shorter;
        }
    }
    flow.expires = now.plus(silence);
    true
}
