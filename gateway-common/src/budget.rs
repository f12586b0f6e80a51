//! What one source of outer packets may send: budgets that keep charon and the kernel's SA lookup
//! reachable for the peers that are there, whoever else sends.
//!
//! A source that has an IKE_SA (a peer) has a budget of its own, which no other source can use up.
//! All others share one besides their own: a million of them get what that leaves, and no more.
use crate::outer::Outer;

/// What a packet is charged to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Class {
    /// IKE, for charon.
    Ike = 0,
    /// ESP of an SPI that no tunnel is known to have: for the kernel, which knows.
    UnknownSpi = 1,
    /// A later fragment, for the kernel to reassemble.
    Fragment = 2,
    /// An ICMP error about path MTU.
    Icmp = 3,
}

/// How many there are.
pub const CLASSES: usize = 4;

/// A rate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate {
    /// So many in a second...
    pub per_second: u32,
    /// ...and so many at once.
    pub burst: u32,
}

impl Rate {
    const fn of(per_second: u32, burst: u32) -> Self {
        Self { per_second, burst }
    }

    /// Nanoseconds between two of them.
    #[inline(always)]
    pub const fn interval_ns(self) -> u64 {
        1_000_000_000 / self.per_second as u64
    }
}

impl Class {
    /// All of them.
    pub const ALL: [Self; CLASSES] = [Self::Ike, Self::UnknownSpi, Self::Fragment, Self::Icmp];

    /// What an outer packet is charged to, if anything. `known`: its SPI is that of a tunnel.
    #[inline(always)]
    pub fn of(outer: Outer, known: bool) -> Option<Self> {
        match outer {
            Outer::Ike => Some(Self::Ike),
            Outer::Esp(_) if !known => Some(Self::UnknownSpi),
            Outer::Fragment => Some(Self::Fragment),
            Outer::PathMtu => Some(Self::Icmp),
            Outer::Esp(_) | Outer::Neighbour | Outer::Management => None,
        }
    }

    /// What a peer may send. An SPI may be unknown for long (a rekey while gatewayd is dead), so that
    /// is a line's rate; it is there for those who send in a peer's name.
    #[inline(always)]
    pub const fn of_peer(self) -> Rate {
        match self {
            Self::Ike => Rate::of(100, 200),
            Self::UnknownSpi => Rate::of(200_000, 200_000),
            Self::Fragment => Rate::of(100_000, 100_000),
            Self::Icmp => Rate::of(10, 20),
        }
    }

    /// What any other source may send.
    #[inline(always)]
    pub const fn of_stranger(self) -> Rate {
        match self {
            Self::Ike => Rate::of(10, 30),
            Self::UnknownSpi => Rate::of(1_000, 1_000),
            Self::Fragment => Rate::of(100, 100),
            Self::Icmp => Rate::of(10, 20),
        }
    }

    /// What all others may send together, on one CPU.
    #[inline(always)]
    pub const fn of_strangers(self) -> Rate {
        match self {
            Self::Ike => Rate::of(500, 1_000),
            Self::UnknownSpi => Rate::of(20_000, 20_000),
            Self::Fragment => Rate::of(1_000, 1_000),
            Self::Icmp => Rate::of(1_000, 1_000),
        }
    }
}
