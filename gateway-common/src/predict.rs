//! Header prediction (V. Jacobson, "4BSD Header Prediction", 1990): nearly every segment is the next one of
//! a connection that both ends keep to. What [`crate::track`] would do with it is known beforehand, and is
//! done here at a fraction of the cost. A test compares both.
use crate::{
    family::Family,
    layout::{Flow, Settings, Ticks},
    packet::{Inner, Kind, TIMESTAMP_ALONE, flag},
    tcp::{Direction, State, UNACKNOWLEDGED_SLOT},
    track::{ACK_WINDOW, after, before, peer_flag, status},
    wire::{Frame, TcpHeader, protocol},
};

/// A segment without SYN, FIN, RST, URG and without options but a timestamp.
#[derive(Clone, Copy, Debug)]
pub struct Next {
    /// Source port.
    pub source: u16,
    /// Destination port.
    pub destination: u16,
    /// Bytes of its header.
    pub header_bytes: u8,
    sequence: u32,
    end: u32,
    acknowledgment: u32,
    window: u16,
}

impl Next {
    /// None for every other packet, also for a malformed one.
    #[inline(always)]
    pub fn parse<A: Family, F: Frame + ?Sized>(frame: &F, inner: &Inner<A>) -> Option<Self> {
        const WITHOUT_OPTIONS: u8 = 5 << 4;
        const WITH_TIMESTAMP: u8 = 8 << 4;
        const FLAGS: u8 = flag::FIN | flag::SYN | flag::RST | flag::ACK | flag::URG;
        let ip = &inner.header;
        let header: TcpHeader = match ip.protocol {
            protocol::TCP => ip.payload(frame, 0).ok()?,
            _ => return None,
        };
        if header.flags & FLAGS != flag::ACK {
            return None;
        }
        let header_bytes = match header.data_offset & 0xf0 {
            WITHOUT_OPTIONS => size_of::<TcpHeader>(),
            WITH_TIMESTAMP => {
                let options: [u8; 4] = ip.payload(frame, size_of::<TcpHeader>()).ok()?;
                if options != TIMESTAMP_ALONE || ip.payload_bytes < 32 {
                    return None;
                }
                32
            }
            _ => return None,
        };
        let sequence = header.sequence.get();
        Some(Self {
            source: header.source.get(),
            destination: header.destination.get(),
            header_bytes: header_bytes as u8,
            sequence,
            end: sequence.wrapping_add(u32::from(ip.payload_bytes) - header_bytes as u32),
            acknowledgment: header.acknowledgment.get(),
            window: header.window.get(),
        })
    }
}

/// True if the segment is as expected, and then the flow is as [`crate::track::track`] leaves it. Else
/// nothing has changed.
#[inline(always)]
pub fn predict(flow: &mut Flow, next: &Next, direction: Direction, settings: &Settings, now: Ticks) -> bool {
    let (own, other) = (direction as usize & 1, direction.opposite() as usize & 1);
    let (sender, receiver) = (flow.peers[own], flow.peers[other]);
    let Next { sequence, end, acknowledgment: ack, window: offered, .. } = *next;
    let length = end.wrapping_sub(sequence) as u16;

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
        && flow.last_window == offered
        && flow.last_direction() == direction as u8;
    if again {
        return false;
    }

    // What `learn` learns.
    let window = u32::from(offered) << flow.scale(own);
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
    (flow.last_length, flow.last_window) = (length, offered);

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
