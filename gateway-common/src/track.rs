//! TCP connections as nf_conntrack tracks them with `nf_conntrack_tcp_be_liberal=0`: what a segment
//! does to its connection's state, whether it fits both ends' windows, how long the connection may
//! then be silent.
//!
//! Read against Linux 6.12, net/netfilter/nf_conntrack_proto_tcp.c; each part names the function it
//! answers to. The windows are those of Guido van Rooij, "Real Stateful TCP Packet Filtering in IP
//! Filter": for the sender of a segment
//! - I.   data begins no later than the receiver's window allows: `seq <= sender.max_end`
//! - II.  data ends no earlier than a window ago: `end >= sender.end - receiver.max_window`
//! - III. it acknowledges no more than was sent: `ack <= receiver.end`
//! - IV.  nor much less: `ack >= receiver.end - max(66000, sender.max_window)`
use crate::{
    layout::{Flow, Peer, Settings, Ticks},
    packet::{Kind, Options, Segment},
    reason::Reason,
    slot::{forget, slot},
    tcp::{self, Direction, RETRANSMISSION_SLOT, STATE_SLOTS, State, Step, UNACKNOWLEDGED_SLOT},
};

/// What became of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tracked {
    /// It goes on; the segment passes.
    On,
    /// It was over: the SYN opens another one in its place.
    Reopen,
}

/// Flags of one end of a connection, [`Flow::flags`]; `IP_CT_TCP_FLAG_*`.
pub mod peer_flag {
    /// Its SYN had a window scale option.
    pub const WINDOW_SCALE: u8 = 0x01;
    /// Its SYN permitted SACK.
    pub const SACK_PERMITTED: u8 = 0x02;
    /// It sent the first FIN.
    pub const CLOSE_INIT: u8 = 0x04;
    /// Its history is not known, so windows are not enforced.
    pub const LIBERAL: u8 = 0x08;
    /// It sent data that is not acknowledged yet.
    pub const UNACKNOWLEDGED: u8 = 0x10;
    /// `max_ack` holds something.
    pub const ACK_SEEN: u8 = 0x20;
}

/// [`Flow::ignored`]: bits 0 and 1 are [`peer_flag::WINDOW_SCALE`] and
/// [`peer_flag::SACK_PERMITTED`] of the SYN that was let through, bits 2 to 5 its window scale.
pub mod ignored {
    /// The server may answer that SYN with a challenge ACK (RFC 5961 section 4).
    pub const CHALLENGE_EXPECTED: u8 = 0x40;
    /// Both ends sent a SYN.
    pub const SIMULTANEOUS: u8 = 0x80;
}

/// Bits 4 to 7 of [`Flow::last`]; `IPS_*`.
pub mod status {
    /// The server has answered.
    pub const REPLY_SEEN: u8 = 0x10;
    /// The handshake was seen whole.
    pub const ASSURED: u8 = 0x20;
    /// It is charged to the customer's quota of half-open flows.
    pub const HALF_OPEN: u8 = 0x40;
}

/// Of [`Flow::ignored`]: the flags of an end.
const IGNORED_FLAGS: u8 = peer_flag::WINDOW_SCALE | peer_flag::SACK_PERMITTED;
/// Of [`Flow::ignored`]: where its window scale begins.
const IGNORED_SCALE_SHIFT: u8 = 2;
/// `nf_conntrack_tcp_max_retrans`.
const MAX_RETRANSMISSIONS: u8 = 3;
/// `MAXACKWINCONST`.
pub(crate) const ACK_WINDOW: u32 = 66_000;
/// `nf_tcp_handle_invalid`: a connection that ends sooner than this is left to end.
const SOON: Ticks = Ticks::from_seconds(120);

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
const FIN: u8 = Kind::Fin as u8;
const ACK: u8 = Kind::Ack as u8;
const RST: u8 = Kind::Rst as u8;

#[inline(always)]
fn is(segment: &Segment, kind: u8) -> bool {
    forget(segment.kind as u8, segment.sequence) == kind
}

impl Flow {
    /// A [`State`] number; 0 while the entry is being removed.
    #[inline(always)]
    pub const fn state(&self) -> u8 {
        self.state & 15
    }

    /// How often the last segment came again, at most 3.
    #[inline(always)]
    pub const fn retransmissions(&self) -> u8 {
        self.state >> 4 & 3
    }

    /// [`Kind`] number of the last segment.
    #[inline(always)]
    pub const fn last_kind(&self) -> u8 {
        self.last & 7
    }

    /// Direction number of the last segment.
    #[inline(always)]
    pub const fn last_direction(&self) -> u8 {
        self.last >> 3 & 1
    }

    /// True if it has any of these [`status`] bits.
    #[inline(always)]
    pub const fn has(&self, status: u8) -> bool {
        self.last & status != 0
    }

    /// The window scale of one end, by direction number.
    #[inline(always)]
    pub const fn scale(&self, end: usize) -> u8 {
        self.scales >> ((end & 1) * 4) & 15
    }

    /// True if the connection is over.
    #[inline(always)]
    pub const fn is_over(&self, now: Ticks) -> bool {
        self.state() == 0 || self.expires.has_come(now)
    }

    /// Marks it as being removed: whoever finds it treats it as gone.
    #[inline(always)]
    pub fn end(&mut self) {
        self.set_state(0);
    }

    /// Becomes another one; the lock, which must be held, stays.
    #[inline(always)]
    pub fn replace(&mut self, by: Self) {
        // Field by field, since a copy of the whole would write the lock.
        let Self { lock: _, tunnel, expires, peers, last_ack, last_end, .. } = by;
        (self.tunnel, self.expires, self.peers) = (tunnel, expires, peers);
        (self.last_ack, self.last_end) = (last_ack, last_end);
        let Self { last_window, last_length, generation, flags, scales, ignored, state, last, .. } = by;
        (self.last_window, self.last_length, self.generation) = (last_window, last_length, generation);
        (self.flags, self.scales, self.ignored) = (flags, scales, ignored);
        (self.state, self.last) = (state, last);
    }

    #[inline(always)]
    fn set_state(&mut self, state: u8) {
        self.state = self.state & 0xf0 | state & 15;
    }

    #[inline(always)]
    fn set_retransmissions(&mut self, count: u8) {
        self.state = self.state & 15 | (count & 3) << 4;
    }

    #[inline(always)]
    fn set_last(&mut self, kind: u8, direction: u8) {
        self.last = self.last & 0xf0 | kind & 7 | (direction & 1) << 3;
    }

    #[inline(always)]
    fn set_scale(&mut self, end: usize, scale: u8) {
        let shift = (end & 1) * 4;
        self.scales = self.scales & !(15 << shift) | (scale & 15) << shift;
    }

    #[inline(always)]
    fn set(&mut self, status: u8) {
        self.last |= status;
    }
}

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
    let next = match tcp::step(state, direction, segment.kind) {
        Step::Invalid => return Err(Reason::TcpStateInvalid),
        Step::To(State::SynSent) if was == State::TimeWait as u8 || was == State::Close as u8 => {
            if may_be_replaced(flow, direction) {
                return Ok(Tracked::Reopen);
            }
            None
        }
        Step::Ignore => None,
        Step::To(next) => Some(next as u8),
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

/// Whether a segment fits the windows; `enum nf_ct_tcp_action`.
enum Fit {
    In,
    /// It does not, and passes: late or repeated, harmless, and the other end may want to answer.
    Ignored,
    Out,
}

/// `tcp_in_window`. What it learns stays, whatever the answer.
#[inline(always)]
fn window(flow: &mut Flow, segment: &Segment, direction: Direction) -> Fit {
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
fn misfit(flow: &mut Flow, direction: Direction, sequence: u32, end: u32, sack: u32) -> Option<Fit> {
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
struct Seen {
    end: u32,
    ack: u32,
    sack: u32,
    window: u32,
}

#[inline(always)]
fn learn(flow: &mut Flow, segment: &Segment, direction: Direction, seen: Seen) {
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
fn begin(flow: &mut Flow, segment: &Segment, direction: Direction) {
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
fn take_up(flow: &mut Flow, direction: Direction, end: u32, window: u32, sack: u32) {
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
fn take_options(flow: &mut Flow, direction: Direction, options: &Options) {
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

/// `nf_tcp_handle_invalid`: FINs or RSTs outside the windows from both ends say that the connection
/// is over for them: do not keep it for hours.
#[inline(always)]
fn doubt(flow: &mut Flow, segment: &Segment, direction: Direction, settings: &Settings, now: Ticks) {
    let ends = |kind: u8| kind == FIN || kind == RST;
    if !flow.has(status::ASSURED) || !ends(segment.kind as u8) {
        return;
    }
    if flow.last_direction() == direction as u8 || !ends(flow.last_kind()) {
        flow.set_last(segment.kind as u8, direction as u8);
        return;
    }
    let left = flow.expires.since(now);
    let unacknowledged = timeout(settings, UNACKNOWLEDGED_SLOT);
    if left >= SOON && left > unacknowledged {
        flow.expires = now.plus(unacknowledged);
    }
}

#[inline(always)]
fn note_reply(flow: &mut Flow, direction: Direction) {
    if direction as u8 == Direction::ToSite as u8 {
        flow.set(status::REPLY_SEEN);
    }
}

#[inline(always)]
fn timeout(settings: &Settings, number: u8) -> Ticks {
    settings.timeouts[slot::<STATE_SLOTS>(number)]
}

#[inline(always)]
fn at_least_1(window: u32) -> u32 {
    if window == 0 { 1 } else { window }
}

/// `a` comes before `b` in sequence space (RFC 9293 section 3.4).
#[inline(always)]
pub(crate) fn before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

#[inline(always)]
pub(crate) fn after(a: u32, b: u32) -> bool {
    before(b, a)
}
