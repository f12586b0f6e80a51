//! Sequence windows: whether a segment fits what both ends can mean (`tcp_in_window`).
//!
//! The windows are those of Guido van Rooij, "Real Stateful TCP Packet Filtering in IP Filter". For the
//! sender of a segment:
//! - I.   data begins within the receiver's window: `seq <= sender.max_end`
//! - II.  data ends no earlier than one window ago: `end >= sender.end - receiver.max_window`
//! - III. the segment acknowledges no more than was sent: `ack <= receiver.end`
//! - IV.  nor much less: `ack >= receiver.end - max(66000, sender.max_window)`
use super::{
    flow::{Flow, peer_flag},
    state::{Direction, State},
};
use crate::{
    index::forget_range,
    packet::{
        options::Options,
        segment::{Kind, Segment},
    },
    seq::Seq,
};

const SYN_ACK: u8 = Kind::SynAck as u8;
const ACK: u8 = Kind::Ack as u8;
const RST: u8 = Kind::Rst as u8;

/// `nf_conntrack_tcp_max_retrans`.
pub(super) const MAX_RETRANSMISSIONS: u8 = 3;
/// `MAXACKWINCONST`.
pub(super) const ACK_WINDOW: u32 = 66_000;

/// A segment's position relative to the windows; `enum nf_ct_tcp_action`.
pub(super) enum Fit {
    /// Inside the windows.
    Inside,
    /// Outside, and passes: a late or repeated segment, harmless, which the other end may want to answer.
    Tolerated,
    /// Outside.
    Outside,
}

/// Returns true if the segment is of this kind. Hides the kind from the verifier, see [`forget_range`].
#[inline(always)]
pub(super) fn is_kind(segment: &Segment, kind: u8) -> bool {
    forget_range(segment.kind as u8, segment.sequence.0) == kind
}

/// Checks the segment against the windows (`tcp_in_window`). The flow keeps what the segment taught it,
/// whatever the result.
#[inline(always)]
pub(super) fn check_window(flow: &mut Flow, segment: &Segment, direction: Direction) -> Fit {
    let (own, other) = (direction as usize & 1, direction.opposite() as usize & 1);
    let is_syn = forget_range(segment.kind as u8, segment.sequence.0) <= SYN_ACK;
    let is_rst = is_kind(segment, RST);
    let mut window = u32::from(segment.window);
    let (mut sequence, mut end) = (segment.sequence, segment.end);
    let (mut ack, mut sack) = (segment.acknowledgment, segment.acknowledgment);
    if flow.flags[other] & peer_flag::SACK_PERMITTED != 0 {
        sack = segment.options.highest_sack;
    }

    if flow.peers[own].max_window == 0 {
        if is_syn {
            init_sender(flow, segment, direction);
            if !segment.has_ack {
                return Fit::Inside;
            }
        } else {
            adopt_sender(flow, direction, end, window, sack);
        }
    } else if is_syn
        && end.after(flow.peers[own].end)
        && (State::SynSent.is(flow.state()) || State::SynRecv.is(flow.state()))
    {
        init_sender(flow, segment, direction);
        if direction == Direction::ToSite && !segment.has_ack {
            return Fit::Inside;
        }
    }

    if !segment.has_ack || (is_rst && ack == Seq(0)) {
        // Broken stacks set ACK in a RST with an acknowledgment number of 0.
        ack = flow.peers[other].end;
        sack = ack;
    }
    if is_rst && sequence == Seq(0) && State::SynSent.is(flow.state()) {
        sequence = flow.peers[own].end;
        end = sequence;
    }

    if let Some(violation) = window_violation(flow, direction, sequence, end, sack) {
        return if flow.flags[own] & peer_flag::LIBERAL != 0 { Fit::Inside } else { violation };
    }
    if !is_syn {
        window <<= flow.scale(own);
    }
    learn(flow, segment, direction, Observed { end, ack, sack, window });
    Fit::Inside
}

/// Checks conditions I to IV; returns `None` if all hold.
#[inline(always)]
fn window_violation(
    flow: &mut Flow,
    direction: Direction,
    sequence: Seq,
    end: Seq,
    sack: Seq,
) -> Option<Fit> {
    let (own, other) = (direction as usize & 1, direction.opposite() as usize & 1);
    let (sender, receiver) = (flow.peers[own], flow.peers[other]);
    let ack_window = if sender.max_window > ACK_WINDOW { sender.max_window } else { ACK_WINDOW };
    let acks_enough = sack.after(receiver.end - ack_window - 1);
    let acks_only_sent = sack.before(receiver.end + 1);
    let ends_in_window = end.after(sender.end - receiver.max_window - 1);

    if !sequence.before(sender.max_end + 1) {
        let overshoot = (end - sender.max_end).wrapping_add(1);
        let only_overshoots = receiver.max_window != 0
            && ends_in_window
            && acks_enough
            && acks_only_sent
            && overshoot <= receiver.max_window;
        if !only_overshoots {
            return Some(Fit::Outside);
        }
        // More than the window allows, but the receiver may accept and acknowledge it.
        flow.peers[own].end = end;
        flow.flags[own] |= peer_flag::UNACKNOWLEDGED;
        return Some(Fit::Tolerated);
    }
    if !acks_only_sent {
        return Some(Fit::Outside);
    }
    if (receiver.max_window != 0 && !ends_in_window) || !acks_enough {
        return Some(Fit::Tolerated);
    }
    None
}

/// The numbers of a segment, adjusted as `tcp_in_window` does.
pub(super) struct Observed {
    pub end: Seq,
    pub ack: Seq,
    pub sack: Seq,
    pub window: u32,
}

/// Updates both ends by a segment inside the windows.
#[inline(always)]
pub(super) fn learn(flow: &mut Flow, segment: &Segment, direction: Direction, seen: Observed) {
    let (own, other) = (direction as usize & 1, direction.opposite() as usize & 1);
    let offered = seen.window.wrapping_add(seen.sack - seen.ack);
    let sender = &mut flow.peers[own];
    if sender.max_window < offered {
        sender.max_window = offered;
    }
    if seen.end.after(sender.end) {
        sender.end = seen.end;
        flow.flags[own] |= peer_flag::UNACKNOWLEDGED;
    }
    if segment.has_ack
        && (flow.flags[own] & peer_flag::ACK_SEEN == 0 || seen.ack.after(flow.peers[own].max_ack))
    {
        flow.peers[own].max_ack = seen.ack;
        flow.flags[own] |= peer_flag::ACK_SEEN;
    }

    let sender_max_end = flow.peers[own].max_end;
    let receiver = &mut flow.peers[other];
    if receiver.max_window != 0 && seen.end.after(sender_max_end) {
        receiver.max_window = receiver.max_window.wrapping_add(seen.end - sender_max_end);
    }
    let allowed = seen.sack + seen.window;
    if allowed.after(receiver.max_end - 1) {
        receiver.max_end = allowed + u32::from(seen.window == 0);
    }
    if seen.ack == receiver.end {
        flow.flags[other] &= !peer_flag::UNACKNOWLEDGED;
    }

    if is_kind(segment, ACK) {
        note_retransmission(flow, segment, direction, &seen);
    }
}

/// Counts the segment as a retransmission if it equals the last one, and records it as the last one.
#[inline(always)]
fn note_retransmission(flow: &mut Flow, segment: &Segment, direction: Direction, seen: &Observed) {
    let length = (segment.end - segment.sequence) as u16;
    let is_repeated = direction.is(flow.last_direction())
        && flow.last_ack == seen.ack
        && flow.last_end == seen.end
        && flow.last_length == length
        && flow.last_window == segment.window;
    let count = flow.retransmissions();
    flow.set_retransmissions(match is_repeated {
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

/// Initialises the sender from its first SYN, or from another one with a higher sequence number
/// (`tcp_init_sender`).
#[inline(always)]
fn init_sender(flow: &mut Flow, segment: &Segment, direction: Direction) {
    let own = direction as usize & 1;
    let sender = &mut flow.peers[own];
    sender.end = segment.end;
    sender.max_end = segment.end;
    sender.max_window = at_least_1(u32::from(segment.window));
    apply_options(flow, direction, &segment.options);
    // RFC 7323 section 2.2: both ends scale, or neither does.
    if direction == Direction::ToSite && flow.flags[0] & flow.flags[1] & peer_flag::WINDOW_SCALE == 0 {
        flow.scales = 0;
    }
}

/// Initialises the sender in mid-stream, from what this segment tells.
#[inline(always)]
fn adopt_sender(flow: &mut Flow, direction: Direction, end: Seq, window: u32, sack: Seq) {
    let (own, other) = (direction as usize & 1, direction.opposite() as usize & 1);
    let max_window = at_least_1(window << flow.scale(own));
    let sender = &mut flow.peers[own];
    sender.end = end;
    sender.max_window = max_window;
    sender.max_end = end + max_window;
    let receiver = &mut flow.peers[other];
    if receiver.max_window == 0 {
        receiver.end = sack;
        receiver.max_end = sack;
    } else if sack == receiver.end + 1 {
        // Likely the answer to a keepalive.
        receiver.end = sack;
    }
}

/// Records window scale and SACK of a SYN (`tcp_options`).
#[inline(always)]
pub(super) fn apply_options(flow: &mut Flow, direction: Direction, options: &Options) {
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

/// Returns the window, or 1 for a closed one: 0 means that nothing was seen of an end.
#[inline(always)]
pub(super) fn at_least_1(window: u32) -> u32 {
    if window == 0 { 1 } else { window }
}
