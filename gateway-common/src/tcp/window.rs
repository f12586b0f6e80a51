//! Windows.
use super::{
    flow::{Flow, peer_flag},
    state::{Direction, State},
};
use crate::{
    index::forget,
    packet::{
        options::Options,
        segment::{Kind, Segment},
    },
};

const SYN_ACK: u8 = Kind::SynAck as u8;

const ACK: u8 = Kind::Ack as u8;

const RST: u8 = Kind::Rst as u8;

#[inline(always)]
pub(super) fn is(segment: &Segment, kind: u8) -> bool {
    forget(segment.kind as u8, segment.sequence) == kind
}

/// `nf_conntrack_tcp_max_retrans`.
pub(super) const MAX_RETRANSMISSIONS: u8 = 3;

/// `MAXACKWINCONST`.
pub(super) const ACK_WINDOW: u32 = 66_000;

/// Whether a segment fits the windows; `enum nf_ct_tcp_action`.
pub(super) enum Fit {
    In,
    /// It does not, and passes: late or repeated, harmless, and the other end may want to answer.
    Ignored,
    Out,
}

/// `tcp_in_window`. What it learns stays, whatever the answer.
#[inline(always)]
pub(super) fn window(flow: &mut Flow, segment: &Segment, direction: Direction) -> Fit {
    let (own, other) = (direction as usize & 1, direction.opposite() as usize & 1);
    let is_syn = forget(segment.kind as u8, segment.sequence) <= SYN_ACK;
    let is_rst = is(segment, RST);
    let mut window = u32::from(segment.window);
    let (mut sequence, mut end) = (segment.sequence, segment.end);
    let (mut ack, mut sack) = (segment.acknowledgment, segment.acknowledgment);
    if flow.flags[other] & peer_flag::SACK_PERMITTED != 0 {
        sack = segment.options.highest_sack;
    }

    if flow.peers[own].max_window == 0 {
        if is_syn {
            begin(flow, segment, direction);
            if !segment.has_ack {
                return Fit::In;
            }
        } else {
            take_up(flow, direction, end, window, sack);
        }
    } else if is_syn
        && after(end, flow.peers[own].end)
        && (flow.state() == State::SynSent as u8 || flow.state() == State::SynRecv as u8)
    {
        begin(flow, segment, direction);
        if direction as u8 == Direction::ToSite as u8 && !segment.has_ack {
            return Fit::In;
        }
    }

    if !segment.has_ack || (is_rst && ack == 0) {
        // Broken stacks set ACK in a RST with an acknowledgment number of 0.
        ack = flow.peers[other].end;
        sack = ack;
    }
    if is_rst && sequence == 0 && flow.state() == State::SynSent as u8 {
        sequence = flow.peers[own].end;
        end = sequence;
    }

    if let Some(misfit) = misfit(flow, direction, sequence, end, sack) {
        return if flow.flags[own] & peer_flag::LIBERAL != 0 { Fit::In } else { misfit };
    }
    if !is_syn {
        window <<= flow.scale(own);
    }
    learn(flow, segment, direction, Seen { end, ack, sack, window });
    Fit::In
}

/// Conditions I to IV; None if all hold.
#[inline(always)]
pub(super) fn misfit(
    flow: &mut Flow,
    direction: Direction,
    sequence: u32,
    end: u32,
    sack: u32,
) -> Option<Fit> {
    let (own, other) = (direction as usize & 1, direction.opposite() as usize & 1);
    let (sender, receiver) = (flow.peers[own], flow.peers[other]);
    let ack_window = if sender.max_window > ACK_WINDOW { sender.max_window } else { ACK_WINDOW };
    let acks_enough = after(sack, receiver.end.wrapping_sub(ack_window).wrapping_sub(1));
    let acks_what_was_sent = before(sack, receiver.end.wrapping_add(1));
    let ends_in_window = after(end, sender.end.wrapping_sub(receiver.max_window).wrapping_sub(1));

    if !before(sequence, sender.max_end.wrapping_add(1)) {
        let overshot = end.wrapping_sub(sender.max_end).wrapping_add(1);
        let only_that = receiver.max_window != 0
            && ends_in_window
            && acks_enough
            && acks_what_was_sent
            && overshot <= receiver.max_window;
        if !only_that {
            return Some(Fit::Out);
        }
        // More than the window allows, but the receiver may take it and acknowledge it.
        flow.peers[own].end = end;
        flow.flags[own] |= peer_flag::UNACKNOWLEDGED;
        return Some(Fit::Ignored);
    }
    if !acks_what_was_sent {
        return Some(Fit::Out);
    }
    if (receiver.max_window != 0 && !ends_in_window) || !acks_enough {
        return Some(Fit::Ignored);
    }
    None
}

/// What a segment showed of its sender, adjusted.
pub(super) struct Seen {
    pub(super) end: u32,
    pub(super) ack: u32,
    pub(super) sack: u32,
    pub(super) window: u32,
}

#[inline(always)]
pub(super) fn learn(flow: &mut Flow, segment: &Segment, direction: Direction, seen: Seen) {
    let (own, other) = (direction as usize & 1, direction.opposite() as usize & 1);
    let offered = seen.window.wrapping_add(seen.sack.wrapping_sub(seen.ack));
    let sender = &mut flow.peers[own];
    if sender.max_window < offered {
        sender.max_window = offered;
    }
    if after(seen.end, sender.end) {
        sender.end = seen.end;
        flow.flags[own] |= peer_flag::UNACKNOWLEDGED;
    }
    if segment.has_ack
        && (flow.flags[own] & peer_flag::ACK_SEEN == 0 || after(seen.ack, flow.peers[own].max_ack))
    {
        flow.peers[own].max_ack = seen.ack;
        flow.flags[own] |= peer_flag::ACK_SEEN;
    }

    let sender_max_end = flow.peers[own].max_end;
    let receiver = &mut flow.peers[other];
    if receiver.max_window != 0 && after(seen.end, sender_max_end) {
        receiver.max_window = receiver.max_window.wrapping_add(seen.end.wrapping_sub(sender_max_end));
    }
    let allowed = seen.sack.wrapping_add(seen.window);
    if after(allowed, receiver.max_end.wrapping_sub(1)) {
        receiver.max_end = allowed.wrapping_add(u32::from(seen.window == 0));
    }
    if seen.ack == receiver.end {
        flow.flags[other] &= !peer_flag::UNACKNOWLEDGED;
    }

    if is(segment, ACK) {
        let length = segment.end.wrapping_sub(segment.sequence) as u16;
        let again = flow.last_direction() == direction as u8
            && flow.last_ack == seen.ack
            && flow.last_end == seen.end
            && flow.last_length == length
            && flow.last_window == segment.window;
        let count = flow.retransmissions();
        flow.set_retransmissions(match again {
            false => 0,
            true if count < MAX_RETRANSMISSIONS => count + 1,
            true => count,
        });
        flow.set_last(flow.last_kind(), direction as u8);
        flow.last_ack = seen.ack;
        flow.last_end = seen.end;
        flow.last_length = length;
        flow.last_window = segment.window;
    }
}

/// `tcp_init_sender`: the first SYN of this end, or another one with a higher sequence number.
#[inline(always)]
pub(super) fn begin(flow: &mut Flow, segment: &Segment, direction: Direction) {
    let own = direction as usize & 1;
    let sender = &mut flow.peers[own];
    sender.end = segment.end;
    sender.max_end = segment.end;
    sender.max_window = at_least_1(u32::from(segment.window));
    take_options(flow, direction, &segment.options);
    // RFC 7323 section 2.2: both ends, or none.
    if direction as u8 == Direction::ToSite as u8
        && flow.flags[0] & flow.flags[1] & peer_flag::WINDOW_SCALE == 0
    {
        flow.scales = 0;
    }
}

/// In mid-stream: what can be known from this segment.
#[inline(always)]
pub(super) fn take_up(flow: &mut Flow, direction: Direction, end: u32, window: u32, sack: u32) {
    let (own, other) = (direction as usize & 1, direction.opposite() as usize & 1);
    let max_window = at_least_1(window << flow.scale(own));
    let sender = &mut flow.peers[own];
    sender.end = end;
    sender.max_window = max_window;
    sender.max_end = end.wrapping_add(max_window);
    let receiver = &mut flow.peers[other];
    if receiver.max_window == 0 {
        receiver.end = sack;
        receiver.max_end = sack;
    } else if sack == receiver.end.wrapping_add(1) {
        // Likely the answer to a keepalive.
        receiver.end = sack;
    }
}

/// `tcp_options`.
#[inline(always)]
pub(super) fn take_options(flow: &mut Flow, direction: Direction, options: &Options) {
    if !options.present {
        return;
    }
    let own = direction as usize & 1;
    let mut flags = flow.flags[own] & peer_flag::LIBERAL;
    flow.set_scale(own, 0);
    if let Some(scale) = options.window_scale() {
        flow.set_scale(own, scale);
        flags |= peer_flag::WINDOW_SCALE;
    }
    if options.sack_permitted {
        flags |= peer_flag::SACK_PERMITTED;
    }
    flow.flags[own] = flags;
}

#[inline(always)]
pub(super) fn at_least_1(window: u32) -> u32 {
    if window == 0 { 1 } else { window }
}

/// `a` comes before `b` in sequence space (RFC 9293 section 3.4).
#[inline(always)]
pub(super) fn before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

#[inline(always)]
pub(super) fn after(a: u32, b: u32) -> bool {
    before(b, a)
}
