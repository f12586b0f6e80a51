//! Header prediction (V. Jacobson, "4BSD Header Prediction", 1990): nearly every segment is the next one of
use super::{
    flow::{Flow, peer_flag, status},
    state::{Direction, State, UNACKNOWLEDGED_SLOT},
    window::{ACK_WINDOW, after, before},
};
use crate::{
    layout::settings::Settings,
    packet::{
        fast::{FastFamily, FastSegment},
        segment::Kind,
    },
    time::Ticks,
    wire::Words,
};

/// True if the segment is as expected, and then the flow is as [`crate::track::track`] leaves it. Else
/// nothing has changed.
#[inline(always)]
pub fn predict<A: FastFamily, W: Words>(
    flow: &mut Flow,
    next: &FastSegment<A, W>,
    direction: Direction,
    settings: &Settings,
    now: Ticks,
) -> bool {
    let (own, other) = (direction as usize & 1, direction.opposite() as usize & 1);
    let (sender, receiver) = (flow.peers[own], flow.peers[other]);
    let FastSegment { header_bytes, tcp } = *next;
    let (sequence, ack, offered) = (tcp.sequence(), tcp.acknowledgment(), tcp.window());
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
