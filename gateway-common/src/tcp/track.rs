//! TCP connections as nf_conntrack tracks them with `nf_conntrack_tcp_be_liberal=0`: what a segment
//! does to its connection's state, whether it fits both ends' windows, how long the connection may
//! then be silent.
use super::{
    flow::{Flow, Peer, ignored, peer_flag, status},
    state::{self, Direction, RETRANSMISSION_SLOT, State, Transition, UNACKNOWLEDGED_SLOT},
    timeout::{doubt, timeout},
    window::{
        ACK_WINDOW, Fit, MAX_RETRANSMISSIONS, Seen, after, at_least_1, before, is, learn, take_options,
        window,
    },
};
use crate::{
    index::forget,
    layout::settings::Settings,
    packet::segment::{Kind, Segment},
    reason::Reason,
    time::Ticks,
};

/// What became of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tracked {
    /// It goes on; the segment passes.
    On,
    /// It was over: the SYN opens another one in its place.
    Reopen,
}

/// Of [`Flow::ignored`]: the flags of an end.
const IGNORED_FLAGS: u8 = peer_flag::WINDOW_SCALE | peer_flag::SACK_PERMITTED;

/// Of [`Flow::ignored`]: where its window scale begins.
const IGNORED_SCALE_SHIFT: u8 = 2;

/// A connection that this segment from the site opens; `tcp_new`. `adopt`: also one in mid-stream
/// (`nf_conntrack_tcp_loose`). Written to `flow`, which is all zero; false if it opens none.
#[inline(always)]
#[must_use]
pub fn open(flow: &mut Flow, segment: &Segment, settings: &Settings, now: Ticks) -> bool {
    let window = at_least_1(u32::from(segment.window));
    flow.peers[0] = Peer { end: segment.end, max_end: segment.end, max_window: window, max_ack: 0 };
    flow.state = State::SynSent as u8;
    flow.last = segment.kind as u8 | status::HALF_OPEN;
    let timeout = match segment.kind as u8 {
        SYN => {
            // What tcp_in_window makes of it: the server may send as much as the SYN offers.
            flow.peers[1].max_end = window;
            take_options(flow, Direction::ToServer, &segment.options);
            timeout(settings, State::SynSent as u8)
        }
        ACK if settings.adopt_midstream == 1 => {
            flow.peers[0].max_end = segment.end.wrapping_add(window);
            flow.flags = [peer_flag::SACK_PERMITTED | peer_flag::LIBERAL; 2];
            flow.set_state(State::Established as u8);
            // tcp_in_window, which lets a liberal end pass unseen, learns from a segment that fits
            // what is not known of the other end yet: one that acknowledges next to nothing.
            let (ack, sack) = (segment.acknowledgment, segment.options.highest_sack);
            let ack_window = if window > ACK_WINDOW { window } else { ACK_WINDOW };
            if before(sack, 1) && after(sack, 0u32.wrapping_sub(ack_window).wrapping_sub(1)) {
                let window = u32::from(segment.window);
                learn(flow, segment, Direction::ToServer, Seen { end: segment.end, ack, sack, window });
            }
            // Not established for certain: no long silence before the server has answered.
            timeout(settings, State::Established as u8).min(timeout(settings, UNACKNOWLEDGED_SLOT))
        }
        _ => return false,
    };
    flow.expires = now.plus(timeout);
    true
}

const SYN: u8 = Kind::Syn as u8;

const SYN_ACK: u8 = Kind::SynAck as u8;

const ACK: u8 = Kind::Ack as u8;

const RST: u8 = Kind::Rst as u8;

/// One more segment of a connection; `nf_conntrack_tcp_packet`.
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
    let next = match state::transition(state, direction, segment.kind) {
        Transition::Invalid => return Err(Reason::TcpStateInvalid),
        Transition::To(State::SynSent) if was == State::TimeWait as u8 || was == State::Close as u8 => {
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
            ignore(flow, segment, direction);
            note_reply(flow, direction);
            return Ok(Tracked::On);
        }
        None => {
            sync(flow, direction);
            return settle(
                flow,
                segment,
                direction,
                settings,
                now,
                State::SynSent as u8,
                State::SynRecv as u8,
            );
        }
    };
    match special(flow, segment, direction, next)? {
        Special::Ignore => {
            note_reply(flow, direction);
            Ok(Tracked::On)
        }
        Special::InWindow(next) => {
            accept(flow, segment, direction, settings, now, was, next);
            Ok(Tracked::On)
        }
        Special::Judge(next) => settle(flow, segment, direction, settings, now, was, next),
    }
}

/// Judges the segment by the windows, and does what follows.
#[inline(always)]
fn settle(
    flow: &mut Flow,
    segment: &Segment,
    direction: Direction,
    settings: &Settings,
    now: Ticks,
    was: u8,
    next: u8,
) -> Result<Tracked, Reason> {
    match window(flow, segment, direction) {
        Fit::In => accept(flow, segment, direction, settings, now, was, next),
        Fit::Ignored => note_reply(flow, direction),
        Fit::Out => {
            doubt(flow, segment, direction, settings, now);
            return Err(Reason::OutOfWindow);
        }
    }
    Ok(Tracked::On)
}

/// A SYN may take the place of a connection that one end closed, or that the sender itself reset.
#[inline(always)]
fn may_be_replaced(flow: &Flow, direction: Direction) -> bool {
    (flow.flags[0] | flow.flags[1]) & peer_flag::CLOSE_INIT != 0
        || (flow.last_direction() == direction as u8 && flow.last_kind() == RST)
}

/// The server acknowledges a SYN that was let through though it did not fit: both ends agree, and
/// only we were out of step.
#[inline(always)]
fn answers_ignored_syn(flow: &Flow, segment: &Segment, direction: Direction) -> bool {
    is(segment, SYN_ACK)
        && flow.last_kind() == SYN
        && flow.last_direction() != direction as u8
        && segment.acknowledgment == flow.last_end
}

/// Takes over what was noted of that SYN.
#[inline(always)]
fn sync(flow: &mut Flow, direction: Direction) {
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

/// Notes a segment that passes though it does not fit: if it means something to the other end, the
/// answer will tell.
#[inline(always)]
fn ignore(flow: &mut Flow, segment: &Segment, direction: Direction) {
    flow.set_last(segment.kind as u8, direction as u8);
    flow.last_end = segment.end;
    flow.last_window = segment.window;
    if is(segment, SYN) && direction as u8 == Direction::ToServer as u8 {
        let mut noted = 0;
        if let Some(scale) = segment.options.window_scale() {
            noted |= peer_flag::WINDOW_SCALE | (scale & 15) << IGNORED_SCALE_SHIFT;
        }
        if segment.options.sack_permitted {
            noted |= peer_flag::SACK_PERMITTED;
        }
        if flow.state() == State::LastAck as u8 {
            noted |= ignored::CHALLENGE_EXPECTED;
        }
        flow.ignored = noted;
    }
    if flow.state() == State::SynSent as u8 && is(segment, ACK) && direction as u8 == Direction::ToSite as u8
    {
        flow.last_ack = segment.acknowledgment;
    }
}

/// What the table of states alone cannot say.
enum Special {
    /// It passes and changes nothing.
    Ignore,
    /// It passes without looking at windows.
    InWindow(u8),
    /// The windows decide.
    Judge(u8),
}

#[inline(always)]
fn special(flow: &mut Flow, segment: &Segment, direction: Direction, next: u8) -> Result<Special, Reason> {
    const TIME_WAIT: u8 = State::TimeWait as u8;
    const SYN_SENT2: u8 = State::SynSent2 as u8;
    const SYN_RECV: u8 = State::SynRecv as u8;
    const CLOSE: u8 = State::Close as u8;
    match next {
        // A challenge ACK is not the ACK of the last FIN.
        TIME_WAIT
            if flow.state() == State::LastAck as u8
                && is(segment, ACK)
                && flow.last_direction() != direction as u8
                && flow.last_kind() == SYN
                && flow.ignored & ignored::CHALLENGE_EXPECTED != 0 =>
        {
            flow.ignored &= !ignored::CHALLENGE_EXPECTED;
            Ok(Special::Ignore)
        }
        SYN_SENT2 => {
            flow.ignored |= ignored::SIMULTANEOUS;
            Ok(Special::Judge(next))
        }
        SYN_RECV
            if direction as u8 == Direction::ToSite as u8
                && is(segment, ACK)
                && flow.ignored & ignored::SIMULTANEOUS != 0 =>
        {
            Ok(Special::Judge(State::Established as u8))
        }
        CLOSE if is(segment, RST) => reset(flow, segment, direction, next),
        _ => Ok(Special::Judge(next)),
    }
}

/// A RST must be exactly what the other end expects next, or come while closing (RFC 5961 section 3).
#[inline(always)]
fn reset(flow: &Flow, segment: &Segment, direction: Direction, next: u8) -> Result<Special, Reason> {
    let was = flow.state();
    if is_closing(was) {
        return Ok(Special::InWindow(next));
    }
    let other = direction.opposite() as usize & 1;
    let mut next = next;
    if flow.flags[other] & peer_flag::ACK_SEEN != 0 && flow.last_kind() != SYN {
        let established = was == State::Established as u8 && flow.has(status::ASSURED);
        if segment.sequence == 0 && !established {
            return Ok(Special::Judge(next));
        }
        let expected = flow.peers[other].max_ack;
        if before(segment.sequence, expected) {
            return Err(Reason::RstOutOfSequence);
        }
        let behind_data = flow.last_kind() == ACK
            && flow.last_direction() == direction as u8
            && segment.sequence == flow.last_end;
        if !established || segment.sequence == expected || behind_data {
            return Ok(Special::Judge(next));
        }
        // Not exact: the connection stays, and the other end may answer with a challenge ACK.
        next = was;
    }
    let answers_ignored =
        (flow.has(status::REPLY_SEEN) && flow.last_kind() == SYN && flow.last_direction() != direction as u8)
            || (!flow.has(status::ASSURED) && flow.last_kind() == ACK);
    let answers_challenge = was == State::SynSent as u8
        && flow.last_kind() == ACK
        && flow.last_direction() == Direction::ToSite as u8
        && segment.sequence == flow.last_ack;
    if (answers_ignored && segment.acknowledgment == flow.last_end) || answers_challenge {
        return Ok(Special::InWindow(next));
    }
    Ok(Special::Judge(next))
}

/// `tcp_can_early_drop`.
#[inline(always)]
fn is_closing(state: u8) -> bool {
    state == State::FinWait as u8
        || state == State::CloseWait as u8
        || state == State::LastAck as u8
        || state == State::TimeWait as u8
        || state == State::Close as u8
}

/// The segment belongs to the connection: its state, and how long it may be silent now.
#[inline(always)]
fn accept(
    flow: &mut Flow,
    segment: &Segment,
    direction: Direction,
    settings: &Settings,
    now: Ticks,
    was: u8,
    next: u8,
) {
    const ESTABLISHED: u8 = State::Established as u8;
    let (was, next) = (forget(was, segment.end), forget(next, segment.end));
    flow.set_last(segment.kind as u8, direction as u8);
    flow.set_state(next);
    if was != next && next == State::FinWait as u8 {
        flow.flags[direction as usize & 1] |= peer_flag::CLOSE_INIT;
    }

    let retransmission = timeout(settings, RETRANSMISSION_SLOT);
    let unacknowledged = timeout(settings, UNACKNOWLEDGED_SLOT);
    let is_rst = is(segment, RST);
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
            // All that ever was is a SYN: over at once.
            flow.expires = now;
            note_reply(flow, direction);
            return;
        }
        if is(segment, SYN) && was == State::SynSent as u8 {
            // A SYN sent again and again does not keep it alive.
            note_reply(flow, direction);
            return;
        }
        if next == ESTABLISHED && silence > unacknowledged {
            silence = unacknowledged;
        }
    } else if next == ESTABLISHED && (was == State::SynRecv as u8 || was == ESTABLISHED) {
        flow.set(status::ASSURED);
    }
    note_reply(flow, direction);
    if flow.has(status::REPLY_SEEN) && !is_opening(next) {
        flow.last &= !status::HALF_OPEN;
    }
    flow.expires = now.plus(silence);
}

/// The handshake is not complete.
#[inline(always)]
fn is_opening(state: u8) -> bool {
    state == State::SynSent as u8 || state == State::SynRecv as u8 || state == State::SynSent2 as u8
}

#[inline(always)]
fn note_reply(flow: &mut Flow, direction: Direction) {
    if direction as u8 == Direction::ToSite as u8 {
        flow.set(status::REPLY_SEEN);
    }
}
