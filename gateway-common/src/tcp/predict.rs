//! Header prediction (V. Jacobson, "4BSD Header Prediction", 1990): nearly every segment is the expected
//! next one of a well-behaved connection. The effect of [`crate::tcp::track()`] on such a segment is known in
//! advance, and this module applies it at a fraction of the cost. A test compares both.
use super::{
    flow::{Flow, peer_flag, status},
    state::{Direction, State, UNACKNOWLEDGED_SLOT},
    window::ACK_WINDOW,
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

/// Updates the flow exactly as [`crate::tcp::track()`] would and returns true, or returns false and leaves it
/// unchanged.
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
    let end = sequence + length;
    let length = length as u16;

    // Both ends have spoken, and nothing about the connection is open.
    let certain = State::Established.is(flow.state & 15)
        && flow.last & 0xf0 == status::REPLY_SEEN | status::ASSURED
        && flow.flags[0] & flow.flags[1] & peer_flag::ACK_SEEN != 0
        && sender.max_window != 0
        && receiver.max_window != 0
        && offered != 0;
    if !certain {
        return false;
    }
    // The conditions of `window_violation`.
    let ack_window = if sender.max_window > ACK_WINDOW { sender.max_window } else { ACK_WINDOW };
    let fits = !sequence.after(sender.max_end)
        && !ack.after(receiver.end)
        && !end.before(sender.end - receiver.max_window)
        && !ack.before(receiver.end - ack_window);
    if !fits {
        return false;
    }
    // Plain numbers: a derived `==` takes references, which cost spilled registers here.
    let is_repeated = flow.last_end.0 == end.0
        && flow.last_ack.0 == ack.0
        && flow.last_length == length
        && u32::from(flow.last_window) == offered
        && direction.is(flow.last_direction());
    if is_repeated {
        return false;
    }

    // The updates of `learn`.
    let window = offered << flow.scale(own);
    let mut unacknowledged = [flow.flags[own], flow.flags[other]];
    if sender.max_window < window {
        flow.peers[own].max_window = window;
    }
    if end.after(sender.end) {
        flow.peers[own].end = end;
        unacknowledged[0] |= peer_flag::UNACKNOWLEDGED;
    }
    if ack.after(sender.max_ack) {
        flow.peers[own].max_ack = ack;
    }
    if end.after(sender.max_end) {
        flow.peers[other].max_window = receiver.max_window.wrapping_add(end - sender.max_end);
    }
    let allowed = ack + window;
    if !allowed.before(receiver.max_end) {
        flow.peers[other].max_end = allowed;
    }
    if ack.0 == receiver.end.0 {
        unacknowledged[1] &= !peer_flag::UNACKNOWLEDGED;
    }
    (flow.flags[own], flow.flags[other]) = (unacknowledged[0], unacknowledged[1]);
    (flow.last_ack, flow.last_end) = (ack, end);
    (flow.last_length, flow.last_window) = (length, offered as u16);

    // The updates of `accept` for a segment that is no retransmission.
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
