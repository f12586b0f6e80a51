//! Flows: one tracked TCP connection each, as the flow tables hold it.
use crate::{
    lock::bpf_spin_lock,
    seq::Seq,
    time::Ticks,
    wire::{Ipv4, Ipv6},
};

/// The key of a flow, the same in both directions. The server's address and port follow from the customer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
#[repr(C)]
pub struct FlowKey<A> {
    /// The customer's id.
    pub customer: u32,
    /// The device's address.
    pub lan_address: A,
    /// The device's port.
    pub lan_port: u16,
    #[doc(hidden)]
    pub _reserved: u16,
}

impl<A> FlowKey<A> {
    /// Builds the key of a customer's flow.
    #[inline(always)]
    pub const fn new(customer: u32, lan_address: A, lan_port: u16) -> Self {
        Self { customer, lan_address, lan_port, _reserved: 0 }
    }
}

/// One connection, in one cache line: key and element header of the kernel's hash table take 64 bytes, so
/// the value begins at the next line. Arrays are indexed by [`crate::tcp::Direction`] number. Packed fields
/// are read through the methods.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct Flow {
    /// Held while a program changes the flow.
    pub lock: bpf_spin_lock,
    /// The tunnel that owns the flow.
    pub tunnel: u32,
    /// When the flow ends unless another packet arrives.
    pub expires: Ticks,
    /// Both ends: the device, the server.
    pub peers: [Peer; 2],
    /// Last segment: acknowledgment number.
    pub last_ack: Seq,
    /// Last segment: sequence number after it.
    pub last_end: Seq,
    /// Last segment: window, unscaled.
    pub last_window: u16,
    /// Last segment: count of sequence numbers it took. With `last_end` this gives where it began.
    pub last_length: u16,
    /// [`crate::layout::Tunnel::generation`] when the flow was opened.
    pub generation: u16,
    /// Both ends' flags, see [`peer_flag`].
    pub flags: [u8; 2],
    /// Both ends' window scale, 0 to 14: the device's in bits 0 to 3, the server's in bits 4 to 7.
    pub scales: u8,
    /// Options and window scale of a SYN that was let through on a live connection, see [`ignored`].
    pub ignored: u8,
    /// Bits 0 to 3: a [`crate::tcp::State`] number, 0 while the entry is being removed. Bits 4 and 5: how
    /// often the last segment was repeated, at most 3.
    pub state: u8,
    /// Last segment, bits 0 to 2: a [`crate::packet::Kind`] number; bit 3: a direction number. Bits 4 to 7:
    /// [`status`].
    pub last: u8,
}

impl Flow {
    /// Returns the [`crate::tcp::State`] number; 0 while the entry is being removed.
    #[inline(always)]
    pub const fn state(&self) -> u8 {
        self.state & 15
    }

    /// Returns how often the last segment was repeated, at most 3.
    #[inline(always)]
    pub const fn retransmissions(&self) -> u8 {
        self.state >> 4 & 3
    }

    /// Returns the [`crate::packet::Kind`] number of the last segment.
    #[inline(always)]
    pub const fn last_kind(&self) -> u8 {
        self.last & 7
    }

    /// Returns the direction number of the last segment.
    #[inline(always)]
    pub const fn last_direction(&self) -> u8 {
        self.last >> 3 & 1
    }

    /// Returns true if any of these [`status`] bits is set.
    #[inline(always)]
    pub const fn has(&self, status: u8) -> bool {
        self.last & status != 0
    }

    /// Returns the window scale of one end, by direction number.
    #[inline(always)]
    pub const fn scale(&self, end: usize) -> u8 {
        self.scales >> ((end & 1) * 4) & 15
    }

    /// Returns true if the connection is over.
    #[inline(always)]
    pub const fn is_over(&self, now: Ticks) -> bool {
        self.state() == 0 || self.expires.has_come(now)
    }

    /// Returns true if the connection is not over and was opened under this generation of the tunnel's
    /// policy.
    #[inline(always)]
    pub const fn is_live(&self, generation: u16, now: Ticks) -> bool {
        !self.is_over(now) && self.generation == generation
    }

    /// Marks the flow as being removed: programs that find it treat it as gone.
    #[inline(always)]
    pub fn end(&mut self) {
        self.set_state(0);
    }

    /// Overwrites the flow with another one but for the lock, which must be held.
    #[inline(always)]
    pub fn replace(&mut self, by: Self) {
        // Field by field: a copy of the whole would write the lock.
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

/// One end of a connection, as far as its segments show; `struct ip_ct_tcp_state`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct Peer {
    /// One more than the highest sequence number it sent.
    pub end: Seq,
    /// The highest sequence number it may send, given the other end's window.
    pub max_end: Seq,
    /// The largest window it offered, scaled; 0 before its first segment.
    pub max_window: u32,
    /// The highest acknowledgment number it sent.
    pub max_ack: Seq,
}

/// Flags of one end of a connection, [`Flow::flags`]; `IP_CT_TCP_FLAG_*`.
pub mod peer_flag {
    /// Its SYN had a window scale option.
    pub const WINDOW_SCALE: u8 = 0x01;
    /// Its SYN permitted SACK.
    pub const SACK_PERMITTED: u8 = 0x02;
    /// It sent the first FIN.
    pub const CLOSE_INIT: u8 = 0x04;
    /// Its history is unknown, so windows are not enforced.
    pub const LIBERAL: u8 = 0x08;
    /// It sent data that is not acknowledged yet.
    pub const UNACKNOWLEDGED: u8 = 0x10;
    /// `max_ack` is valid.
    pub const ACK_SEEN: u8 = 0x20;
}

/// [`Flow::ignored`]: bits 0 and 1 are [`peer_flag::WINDOW_SCALE`] and [`peer_flag::SACK_PERMITTED`] of the
/// SYN that was let through, bits 2 to 5 its window scale.
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
    /// The whole handshake was seen.
    pub const ASSURED: u8 = 0x20;
    /// The flow is charged to the quotas of half-open flows, its customer's and its site's.
    pub const HALF_OPEN: u8 = 0x40;
}

const _: () = assert!(size_of::<FlowKey<Ipv4>>() == 12 && size_of::<FlowKey<Ipv6>>() == 24);
const _: () = assert!(size_of::<Flow>() == 64);
