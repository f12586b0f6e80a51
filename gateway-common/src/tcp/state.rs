//! TCP connection states as a middlebox sees them, by flags and direction.
//!
//! States, transitions and default timeouts are those of nf_conntrack (Linux 6.12,
//! net/netfilter/nf_conntrack_proto_tcp.c, `tcp_conntracks` and `tcp_timeouts`).
use crate::{index::masked_index, packet::segment::Kind};

/// A connection's state.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum State {
    /// The device sent a SYN.
    SynSent = 1,
    /// The server sent its SYN-ACK.
    SynRecv = 2,
    /// The device acknowledged it.
    Established = 3,
    /// One side sent a FIN.
    FinWait = 4,
    /// The FIN was acknowledged.
    CloseWait = 5,
    /// Both sides sent a FIN.
    LastAck = 6,
    /// Both FINs were acknowledged.
    TimeWait = 7,
    /// A RST ended it.
    Close = 8,
    /// Both sides sent a SYN (simultaneous open).
    SynSent2 = 9,
}

impl State {
    /// All states, in the order of their numbers.
    pub const ALL: &[Self] = &[
        Self::SynSent,
        Self::SynRecv,
        Self::Established,
        Self::FinWait,
        Self::CloseWait,
        Self::LastAck,
        Self::TimeWait,
        Self::Close,
        Self::SynSent2,
    ];

    /// Returns the state of this number, as maps hold it.
    #[inline(always)]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::SynSent),
            2 => Some(Self::SynRecv),
            3 => Some(Self::Established),
            4 => Some(Self::FinWait),
            5 => Some(Self::CloseWait),
            6 => Some(Self::LastAck),
            7 => Some(Self::TimeWait),
            8 => Some(Self::Close),
            9 => Some(Self::SynSent2),
            _ => None,
        }
    }

    /// Returns true if a state number, as flows hold it, is this state's. Flows hold numbers and not states
    /// because user space may write any byte, and because [`crate::index::forget_range`] hides numbers from
    /// the verifier.
    #[inline(always)]
    pub const fn is(self, number: u8) -> bool {
        number == self as u8
    }

    /// Returns the name that tools print.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SynSent => "syn-sent",
            Self::SynRecv => "syn-recv",
            Self::Established => "established",
            Self::FinWait => "fin-wait",
            Self::CloseWait => "close-wait",
            Self::LastAck => "last-ack",
            Self::TimeWait => "time-wait",
            Self::Close => "close",
            Self::SynSent2 => "syn-sent2",
        }
    }

    /// Returns how long a connection may stay silent in this state unless configured otherwise. The
    /// defaults are nf_conntrack's, except for established connections: 2 hours and 4 minutes (RFC 5382
    /// REQ-5).
    pub const fn default_timeout_seconds(self) -> u32 {
        match self {
            Self::SynSent | Self::SynSent2 => 120,
            Self::SynRecv => 60,
            Self::Established => 7440,
            Self::FinWait => 120,
            Self::CloseWait => 60,
            Self::LastAck => 30,
            Self::TimeWait => 120,
            Self::Close => 10,
        }
    }
}

/// Slots of an array indexed by [`State`] number: a power of two.
pub const STATE_SLOTS: usize = 16;

/// The timeout slot of connections whose last segment is repeated or whose window is closed.
pub const RETRANSMISSION_SLOT: u8 = 10;

/// The timeout slot of connections with unacknowledged data.
pub const UNACKNOWLEDGED_SLOT: u8 = 11;

/// The default of both timeouts, as in nf_conntrack.
pub const DOUBTFUL_TIMEOUT_SECONDS: u32 = 300;

/// The direction of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Direction {
    /// From the site's device to the customer's server.
    ToServer = 0,
    /// From the server to the device.
    ToSite = 1,
}

impl Direction {
    /// Returns true if a direction number, as flows hold it, is this direction's.
    #[inline(always)]
    pub const fn is(self, number: u8) -> bool {
        number == self as u8
    }

    /// Returns the opposite direction.
    #[inline(always)]
    pub const fn opposite(self) -> Self {
        match self {
            Self::ToServer => Self::ToSite,
            Self::ToSite => Self::ToServer,
        }
    }
}

/// The effect of a segment on its connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transition {
    /// The connection enters or keeps this state.
    To(State),
    /// The segment passes and the state stays: only the other end knows whether the segment is valid.
    Ignore,
    /// The segment cannot belong to the connection.
    Invalid,
}

/// Returns the effect of a segment of this kind and direction on a connection in this state.
#[inline(always)]
pub fn transition(state: State, direction: Direction, kind: Kind) -> Transition {
    let row = (direction as u8) << 7 | (kind as u8) << 4;
    match TABLE[masked_index::<{ TABLE.len() }>(row | state as u8)] {
        IG => Transition::Ignore,
        next => match State::from_number(next) {
            Some(next) => Transition::To(next),
            None => Transition::Invalid,
        },
    }
}

const SS: u8 = State::SynSent as u8;

const SR: u8 = State::SynRecv as u8;

const ES: u8 = State::Established as u8;

const FW: u8 = State::FinWait as u8;

const CW: u8 = State::CloseWait as u8;

const LA: u8 = State::LastAck as u8;

const TW: u8 = State::TimeWait as u8;

const CL: u8 = State::Close as u8;

const S2: u8 = State::SynSent2 as u8;

const IG: u8 = 0xfe;

const IV: u8 = 0;

/// Indexed by direction (bit 7), kind (bits 4 to 6) and state (bits 0 to 3).
static TABLE: [u8; 256] = {
    //   from:            SS  SR  ES  FW  CW  LA  TW  CL  S2
    let rows: [[[u8; 9]; 5]; 2] = [
        [
            /* SYN     */ [SS, IG, IG, IG, IG, IG, SS, SS, S2],
            /* SYN-ACK */ [IV, SR, IV, IV, IV, IV, IV, IV, SR],
            /* FIN     */ [IV, FW, FW, LA, LA, LA, TW, CL, IV],
            /* ACK     */ [IV, ES, ES, CW, CW, TW, TW, CL, IV],
            /* RST     */ [CL, CL, CL, CL, CL, CL, CL, CL, CL],
        ],
        [
            // A server reopens nothing. nf_conntrack lets a server's SYN turn TIME_WAIT into a connection
            // of its own, which is a new connection from the server's side.
            /* SYN     */
            [S2, IV, IV, IV, IV, IV, IV, IV, S2],
            /* SYN-ACK */ [SR, IG, IG, IG, IG, IG, IG, IG, SR],
            /* FIN     */ [IV, FW, FW, LA, LA, LA, TW, CL, IV],
            /* ACK     */ [IG, SR, ES, CW, CW, TW, TW, CL, IG],
            /* RST     */ [CL, CL, CL, CL, CL, CL, CL, CL, CL],
        ],
    ];
    let mut table = [IV; 256];
    let mut direction = 0;
    while direction < 2 {
        let mut kind = 0;
        while kind < 5 {
            let mut state = 0;
            while state < 9 {
                table[direction << 7 | kind << 4 | (state + 1)] = rows[direction][kind][state];
                state += 1;
            }
            kind += 1;
        }
        direction += 1;
    }
    table
};
