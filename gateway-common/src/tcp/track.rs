//! TCP connections as nf_conntrack tracks them with `nf_conntrack_tcp_be_liberal=0`: what a segment does to
//! its connection's state, whether it fits both ends' windows, and how long the connection may then stay
//! silent.
//!
//! Checked against Linux 6.12, net/netfilter/nf_conntrack_proto_tcp.c; each function names its counterpart
//! there.
use super::{
    flow::{Flow, Peer, ignored, peer_flag, status},
    state::{Direction, RETRANSMISSION_SLOT, State, Transition, UNACKNOWLEDGED_SLOT, transition},
    step::{Step, note_reply},
    timeout::{shorten_timeout, timeout},
    window::{
        ACK_WINDOW, Fit, MAX_RETRANSMISSIONS, Observed, apply_options, at_least_1, check_window, is_kind,
        learn,
    },
};
use crate::{
    index::forget_range,
    layout::settings::Settings,
    packet::segment::{Kind, Segment},
    reason::Reason,
    seq::Seq,
    time::Ticks,
};

/// The outcome for a tracked connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tracked {
    /// The connection continues; the segment passes.
    Continues,
    /// The connection was over: the SYN opens another one in its place.
    Reopen,
}

const SYN: u8 = Kind::Syn as u8;
const SYN_ACK: u8 = Kind::SynAck as u8;
const ACK: u8 = Kind::Ack as u8;
const RST: u8 = Kind::Rst as u8;

/// [`Flow::ignored`]: mask of an end's flags.
const IGNORED_FLAGS: u8 = peer_flag::WINDOW_SCALE | peer_flag::SACK_PERMITTED;
/// [`Flow::ignored`]: lowest bit of its window scale.
const IGNORED_SCALE_SHIFT: u8 = 2;

/// Opens a connection with this segment from the site (`tcp_new`). Writes it to `flow`, which is all zero;
/// returns false if the segment opens none. With [`Settings::adopt_midstream`] an ACK opens a connection in
/// mid-stream (`nf_conntrack_tcp_loose`).
#[inline(always)]
#[must_use]
pub fn open(flow: &mut Flow, segment: &Segment, settings: &Settings, now: Ticks) -> bool {
    let window = at_least_1(u32::from(segment.window));
    flow.peers[0] = Peer { end: segment.end, max_end: segment.end, max_window: window, max_ack: Seq(0) };
    flow.state = State::SynSent as u8;
    flow.last = segment.kind as u8 | status::HALF_OPEN;
    let timeout = match segment.kind as u8 {
        SYN => {
            // The same as tcp_in_window does: the server may send as much as the SYN offers.
            flow.peers[1].max_end = Seq(window);
            apply_options(flow, Direction::ToServer, &segment.options);
            timeout(settings, State::SynSent as u8)
        }
        ACK if settings.adopt_midstream == 1 => {
            flow.peers[0].max_end = segment.end + window;
            flow.flags = [peer_flag::SACK_PERMITTED | peer_flag::LIBERAL; 2];
            flow.set_state(State::Established as u8);
            // tcp_in_window lets a liberal end pass unchecked, but learns about the unknown other end from a
            // segment that fits: one that acknowledges next to nothing.
            let (ack, sack) = (segment.acknowledgment, segment.options.highest_sack);
            let ack_window = if window > ACK_WINDOW { window } else { ACK_WINDOW };
            if sack.before(Seq(1)) && sack.after(Seq(0) - ack_window - 1) {
                let window = u32::from(segment.window);
                learn(flow, segment, Direction::ToServer, Observed { end: segment.end, ack, sack, window });
            }
            // Not certainly established: no long silence before the server has answered.
            timeout(settings, State::Established as u8).min(timeout(settings, UNACKNOWLEDGED_SLOT))
        }
        _ => return false,
    };
    flow.expires = now.plus(timeout);
    true
}

/// Tracks a further segment of a connection (`nf_conntrack_tcp_packet`). The caller holds the flow's lock.
#[inline(always)]
pub fn track(
    flow: &mut Flow,
    segment: &Segment,
    direction: Direction,
    settings: &Settings,
    now: Ticks,
) -> Result<Tracked, Reason> {
    let was = flow.state();
    let Some(state) = State::from_number(was) else { return Err(Reason::TcpStateInvalid) };
    let next = match transition(state, direction, segment.kind) {
        Transition::Invalid => return Err(Reason::TcpStateInvalid),
        Transition::To(State::SynSent) if State::TimeWait.is(was) || State::Close.is(was) => {
            if may_be_replaced(flow, direction) {
                return Ok(Tracked::Reopen);
            }
            None
        }
        Transition::Ignore => None,
        Transition::To(next) => Some(next as u8),
    };
    let next = match next {
        Some(next) => next,
        None if !answers_ignored_syn(flow, segment, direction) => {
            note_ignored(flow, segment, direction);
            note_reply(flow, direction);
            return Ok(Tracked::Continues);
        }
        None => {
            resync(flow, direction);
            let step = Step { flow, segment, direction, settings, now };
            return judge_by_window(step, State::SynSent as u8, State::SynRecv as u8);
        }
    };
    match special_case(flow, segment, direction, next)? {
        Special::Ignore => {
            note_reply(flow, direction);
            Ok(Tracked::Continues)
        }
        Special::Accept(next) => {
            accept(Step { flow, segment, direction, settings, now }, was, next);
            Ok(Tracked::Continues)
        }
        Special::CheckWindow(next) => {
            judge_by_window(Step { flow, segment, direction, settings, now }, was, next)
        }
    }
}

/// Accepts, tolerates or refuses the segment by the windows.
#[inline(always)]
fn judge_by_window(step: Step, was: u8, next: u8) -> Result<Tracked, Reason> {
    match check_window(step.flow, step.segment, step.direction) {
        Fit::Inside => accept(step, was, next),
        Fit::Tolerated => note_reply(step.flow, step.direction),
        Fit::Outside => {
            shorten_timeout(step);
            return Err(Reason::OutOfWindow);
        }
    }
    Ok(Tracked::Continues)
}

/// Returns true if a SYN may replace the connection: one end closed it, or the sender itself reset it.
#[inline(always)]
fn may_be_replaced(flow: &Flow, direction: Direction) -> bool {
    (flow.flags[0] | flow.flags[1]) & peer_flag::CLOSE_INIT != 0
        || (direction.is(flow.last_direction()) && flow.last_kind() == RST)
}

/// Returns true if the other end acknowledges a SYN that was let through although it did not fit: both ends
/// agree, and only the tracked state was out of step.
#[inline(always)]
fn answers_ignored_syn(flow: &Flow, segment: &Segment, direction: Direction) -> bool {
    is_kind(segment, SYN_ACK)
        && flow.last_kind() == SYN
        && !direction.is(flow.last_direction())
        && segment.acknowledgment == flow.last_end
}

/// Restarts the connection from what was noted of that SYN.
#[inline(always)]
fn resync(flow: &mut Flow, direction: Direction) {
    let (own, other) = (direction as usize & 1, direction.opposite() as usize & 1);
    let peer = &mut flow.peers[other];
    peer.end = flow.last_end;
    peer.max_end = flow.last_end;
    peer.max_window = at_least_1(u32::from(flow.last_window));
    flow.ignored &= !ignored::CHALLENGE_EXPECTED;
    flow.set_scale(other, flow.ignored >> IGNORED_SCALE_SHIFT);
    flow.flags[other] = flow.ignored & IGNORED_FLAGS;
    flow.peers[own] = Peer::default();
    flow.set_scale(own, 0);
    flow.flags[own] &= peer_flag::LIBERAL;
}

/// Notes a segment that passes although it does not fit: the other end's answer tells whether it was valid.
#[inline(always)]
fn note_ignored(flow: &mut Flow, segment: &Segment, direction: Direction) {
    flow.set_last(segment.kind as u8, direction as u8);
    flow.last_end = segment.end;
    flow.last_window = segment.window;
    if is_kind(segment, SYN) && direction == Direction::ToServer {
        let mut noted = 0;
        if let Some(scale) = segment.options.window_scale() {
            noted |= peer_flag::WINDOW_SCALE | (scale & 15) << IGNORED_SCALE_SHIFT;
        }
        if segment.options.sack_permitted {
            noted |= peer_flag::SACK_PERMITTED;
        }
        if State::LastAck.is(flow.state()) {
            noted |= ignored::CHALLENGE_EXPECTED;
        }
        flow.ignored = noted;
    }
    if State::SynSent.is(flow.state()) && is_kind(segment, ACK) && direction == Direction::ToSite {
        flow.last_ack = segment.acknowledgment;
    }
}

/// A decision that the state table alone cannot make.
enum Special {
    /// The segment passes and changes nothing.
    Ignore,
    /// The segment passes without a window check.
    Accept(u8),
    /// The windows decide.
    CheckWindow(u8),
}

/// Applies the exceptions to the state table (the `switch` in `nf_conntrack_tcp_packet`).
#[inline(always)]
fn special_case(
    flow: &mut Flow,
    segment: &Segment,
    direction: Direction,
    next: u8,
) -> Result<Special, Reason> {
    const TIME_WAIT: u8 = State::TimeWait as u8;
    const SYN_SENT2: u8 = State::SynSent2 as u8;
    const SYN_RECV: u8 = State::SynRecv as u8;
    const CLOSE: u8 = State::Close as u8;
    match next {
        // A challenge ACK is not the ACK of the last FIN.
        TIME_WAIT
            if State::LastAck.is(flow.state())
                && is_kind(segment, ACK)
                && !direction.is(flow.last_direction())
                && flow.last_kind() == SYN
                && flow.ignored & ignored::CHALLENGE_EXPECTED != 0 =>
        {
            flow.ignored &= !ignored::CHALLENGE_EXPECTED;
            Ok(Special::Ignore)
        }
        SYN_SENT2 => {
            flow.ignored |= ignored::SIMULTANEOUS;
            Ok(Special::CheckWindow(next))
        }
        SYN_RECV
            if direction == Direction::ToSite
                && is_kind(segment, ACK)
                && flow.ignored & ignored::SIMULTANEOUS != 0 =>
        {
            Ok(Special::CheckWindow(State::Established as u8))
        }
        CLOSE if is_kind(segment, RST) => judge_reset(flow, segment, direction, next),
        _ => Ok(Special::CheckWindow(next)),
    }
}

/// Judges a RST: it must be exactly what the other end expects next, or come while closing (RFC 5961
/// section 3).
#[inline(always)]
fn judge_reset(flow: &Flow, segment: &Segment, direction: Direction, next: u8) -> Result<Special, Reason> {
    let was = flow.state();
    if is_closing(was) {
        return Ok(Special::Accept(next));
    }
    let other = direction.opposite() as usize & 1;
    let mut next = next;
    if flow.flags[other] & peer_flag::ACK_SEEN != 0 && flow.last_kind() != SYN {
        let established = State::Established.is(was) && flow.has(status::ASSURED);
        if segment.sequence == Seq(0) && !established {
            return Ok(Special::CheckWindow(next));
        }
        let expected = flow.peers[other].max_ack;
        if segment.sequence.before(expected) {
            return Err(Reason::RstOutOfSequence);
        }
        let behind_data = flow.last_kind() == ACK
            && direction.is(flow.last_direction())
            && segment.sequence == flow.last_end;
        if !established || segment.sequence == expected || behind_data {
            return Ok(Special::CheckWindow(next));
        }
        // Not exact: the connection stays, and the other end may answer with a challenge ACK.
        next = was;
    }
    let answers_ignored =
        (flow.has(status::REPLY_SEEN) && flow.last_kind() == SYN && !direction.is(flow.last_direction()))
            || (!flow.has(status::ASSURED) && flow.last_kind() == ACK);
    let answers_challenge = State::SynSent.is(was)
        && flow.last_kind() == ACK
        && Direction::ToSite.is(flow.last_direction())
        && segment.sequence == flow.last_ack;
    if (answers_ignored && segment.acknowledgment == flow.last_end) || answers_challenge {
        return Ok(Special::Accept(next));
    }
    Ok(Special::CheckWindow(next))
}

/// Returns true once an end has closed or reset the connection (`tcp_can_early_drop`).
#[inline(always)]
fn is_closing(state: u8) -> bool {
    State::FinWait.is(state)
        || State::CloseWait.is(state)
        || State::LastAck.is(state)
        || State::TimeWait.is(state)
        || State::Close.is(state)
}

/// Moves the connection to its next state and sets how long it may now stay silent.
#[inline(always)]
fn accept(step: Step, was: u8, next: u8) {
    const ESTABLISHED: u8 = State::Established as u8;
    let Step { flow, segment, direction, settings, now } = step;
    let (was, next) = (forget_range(was, segment.end.0), forget_range(next, segment.end.0));
    flow.set_last(segment.kind as u8, direction as u8);
    flow.set_state(next);
    if was != next && State::FinWait.is(next) {
        flow.flags[direction as usize & 1] |= peer_flag::CLOSE_INIT;
    }

    let retransmission = timeout(settings, RETRANSMISSION_SLOT);
    let unacknowledged = timeout(settings, UNACKNOWLEDGED_SLOT);
    let is_rst = is_kind(segment, RST);
    let mut silence = timeout(settings, next);
    if flow.retransmissions() >= MAX_RETRANSMISSIONS && silence > retransmission {
        silence = retransmission;
    } else if ((is_rst && next == ESTABLISHED)
        || (flow.flags[0] | flow.flags[1]) & peer_flag::UNACKNOWLEDGED != 0)
        && silence > unacknowledged
    {
        silence = unacknowledged;
    } else if flow.last_window == 0 && silence > retransmission {
        silence = retransmission;
    }

    if !flow.has(status::REPLY_SEEN) {
        if is_rst {
            // Only a SYN was ever seen: over at once. If the server refuses, it keeps nothing half-open, and the place among
            // the customer's half-open flows is free. A device's RST proves nothing of the kind: the server may drop it.
            flow.expires = now;
            if direction as u8 == Direction::ToSite as u8 {
                flow.last &= !status::HALF_OPEN;
            }
            note_reply(flow, direction);
            return;
        }
        if is_kind(segment, SYN) && State::SynSent.is(was) {
            // A repeated SYN does not keep the connection alive.
            note_reply(flow, direction);
            return;
        }
        if next == ESTABLISHED && silence > unacknowledged {
            silence = unacknowledged;
        }
    } else if next == ESTABLISHED && (State::SynRecv.is(was) || was == ESTABLISHED) {
        flow.set(status::ASSURED);
    }
    note_reply(flow, direction);
    if flow.has(status::REPLY_SEEN) && !is_opening(next) {
        flow.last &= !status::HALF_OPEN;
    }
    flow.expires = now.plus(silence);
}

/// Returns true while the handshake is not complete.
#[inline(always)]
fn is_opening(state: u8) -> bool {
    State::SynSent.is(state) || State::SynRecv.is(state) || State::SynSent2.is(state)
}
