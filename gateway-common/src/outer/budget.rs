//! What one source of outer packets may send: budgets that keep charon and the kernel's SA lookup
//! reachable for the peers that are there, whoever else sends.
//!
//! A source that has an IKE_SA (a peer) has a budget of its own, which no other source can use up.
use super::arrival::Outer;
use crate::{
    lock::bpf_spin_lock,
    rate::{Bucket, Rate},
};

/// What was taken of the budgets for outer packets.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct Budgets {
    /// By [`Class`] number.
    pub classes: [Bucket; CLASSES],
}

/// What one peer has taken.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct PeerBudgets {
    /// Held while a program changes it.
    pub lock: bpf_spin_lock,
    #[doc(hidden)]
    pub _reserved: u32,
    /// What it has taken.
    pub budgets: Budgets,
}

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
            Self::Ike => Rate::new(100, 200),
            Self::UnknownSpi => Rate::new(200_000, 200_000),
            Self::Fragment => Rate::new(100_000, 100_000),
            Self::Icmp => Rate::new(10, 20),
        }
    }

    /// What any other source may send.
    #[inline(always)]
    pub const fn of_stranger(self) -> Rate {
        match self {
            Self::Ike => Rate::new(10, 30),
            Self::UnknownSpi => Rate::new(1_000, 1_000),
            Self::Fragment => Rate::new(100, 100),
            Self::Icmp => Rate::new(10, 20),
        }
    }

    /// What all others may send together, on one CPU.
    #[inline(always)]
    pub const fn of_strangers(self) -> Rate {
        match self {
            Self::Ike => Rate::new(500, 1_000),
            Self::UnknownSpi => Rate::new(20_000, 20_000),
            Self::Fragment => Rate::new(1_000, 1_000),
            Self::Icmp => Rate::new(1_000, 1_000),
        }
    }
}
