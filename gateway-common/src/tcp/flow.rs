//! A connection in its table.
use crate::{
    lock::bpf_spin_lock,
    time::Ticks,
    wire::{Ipv4, Ipv6},
};

/// A connection, its direction taken out. The server's address and port follow from the customer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
#[repr(C)]
pub struct FlowKey<A> {
    /// Whose connection it is.
    pub customer: u32,
    /// The device's address.
    pub lan_address: A,
    /// The device's port.
    pub lan_port: u16,
    #[doc(hidden)]
    pub _reserved: u16,
}

impl<A> FlowKey<A> {
    /// The key of a customer's connection.
    #[inline(always)]
    pub const fn new(customer: u32, lan_address: A, lan_port: u16) -> Self {
        Self { customer, lan_address, lan_port, _reserved: 0 }
    }
}

/// One connection, in one cache line: key and element header of the kernel's hash table take 64
/// bytes, so that with those the value begins at the next line. Arrays are indexed by
/// [`crate::tcp::Direction`] number. What is packed is read through the methods.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct Flow {
    /// Held while a program changes the flow.
    pub lock: bpf_spin_lock,
    /// The tunnel it belongs to.
    pub tunnel: u32,
    /// When it ends unless a packet comes.
    pub expires: Ticks,
    /// Both ends: the device's, the server's.
    pub peers: [Peer; 2],
    /// The last segment: acknowledgment number.
    pub last_ack: u32,
    /// The last segment: sequence number after it.
    pub last_end: u32,
    /// The last segment: window, unscaled.
    pub last_window: u16,
    /// The last segment: how many sequence numbers it took, which with `last_end` says where it began.
    pub last_length: u16,
    /// [`Tunnel::generation`] when it was opened.
    pub generation: u16,
    /// Both ends' flags, see [`crate::track::peer_flag`].
    pub flags: [u8; 2],
    /// Both ends' window scale, 0 to 14: the device's in bits 0 to 3, the server's in bits 4 to 7.
    pub scales: u8,
    /// Of a SYN that was let through on a live connection: its options and window scale, see
    /// [`crate::track::ignored`].
    pub ignored: u8,
    /// Bits 0 to 3: a [`crate::tcp::State`] number, 0 while the entry is being removed. Bits 4 and 5:
    /// how often the last segment came again, at most 3.
    pub state: u8,
    /// The last segment, bits 0 to 2: a [`crate::packet::Kind`] number; bit 3: a direction number.
    /// Bits 4 to 7: [`crate::track::status`].
    pub last: u8,
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

    /// True if it is not over, and allowed by the policy of this generation.
    #[inline(always)]
    pub const fn is_live(&self, generation: u16, now: Ticks) -> bool {
        !self.is_over(now) && self.generation == generation
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
    pub(super) fn set_state(&mut self, state: u8) {
        self.state = self.state & 0xf0 | state & 15;
    }

    #[inline(always)]
    pub(super) fn set_retransmissions(&mut self, count: u8) {
        self.state = self.state & 15 | (count & 3) << 4;
    }

    #[inline(always)]
    pub(super) fn set_last(&mut self, kind: u8, direction: u8) {
        self.last = self.last & 0xf0 | kind & 7 | (direction & 1) << 3;
    }

    #[inline(always)]
    pub(super) fn set_scale(&mut self, end: usize, scale: u8) {
        let shift = (end & 1) * 4;
        self.scales = self.scales & !(15 << shift) | (scale & 15) << shift;
    }

    #[inline(always)]
    pub(super) fn set(&mut self, status: u8) {
        self.last |= status;
    }
}

/// What was seen of one end of a connection; `struct ip_ct_tcp_state`. Sequence numbers, host byte
/// order.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct Peer {
    /// The highest sequence number it sent, and one more.
    pub end: u32,
    /// The highest it may send, by what the other end offered.
    pub max_end: u32,
    /// The largest window it offered, scaled; 0: nothing was seen of it yet.
    pub max_window: u32,
    /// The highest it acknowledged.
    pub max_ack: u32,
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

const _: () = assert!(size_of::<FlowKey<Ipv4>>() == 12 && size_of::<FlowKey<Ipv6>>() == 24);
const _: () = assert!(size_of::<Flow>() == 64);
