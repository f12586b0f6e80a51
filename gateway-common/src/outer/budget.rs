//! Budgets for sources of outer packets. They keep charon and the kernel's SA lookup reachable for
//! connected peers, whoever else sends.
//!
//! A source with an IKE_SA (a peer) has a budget that no other source can use up. Every other source (a
//! stranger) has its own budget and shares a second one with all strangers: a million of them together get
//! no more than that.
use super::arrival::Outer;
use crate::{
    index::masked_index,
    lock::bpf_spin_lock,
    rate::{Bucket, Rate},
};

/// The budgets of one source, one bucket per class.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct Budgets {
    /// Indexed by [`Class`] number.
    pub classes: [Bucket; CLASSES],
}

/// The budgets of one peer.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct PeerBudgets {
    /// Held while a program changes the budgets.
    pub lock: bpf_spin_lock,
    #[doc(hidden)]
    pub _reserved: u32,
    /// The budgets.
    pub budgets: Budgets,
}

impl Budgets {
    /// Takes a token of this class and returns true, or returns false if none is left.
    #[inline(always)]
    pub fn take(&mut self, class: Class, rate: Rate, now_ns: u64) -> bool {
        self.bucket(class).take(rate.interval_ns(), rate.burst, now_ns)
    }

    #[inline(always)]
    fn bucket(&mut self, class: Class) -> &mut Bucket {
        &mut self.classes[masked_index::<CLASSES>(class as u8)]
    }
}

/// Charges a stranger's packet to its own budget and to the one that all strangers share; returns false if
/// either is empty. The own budget comes first, so that a single loud source cannot empty the shared one. `own`
/// finds or creates the source's budgets. It is called only if the shared budget is not spent: in a flood from
/// many sources each new one would evict another from a table that the packet needs no more.
#[inline(always)]
pub fn charge_stranger<'a>(
    shared: &mut Budgets,
    own: impl FnOnce() -> Option<&'a mut Budgets>,
    class: Class,
    now_ns: u64,
) -> bool {
    let rate = class.shared_rate();
    if shared.bucket(class).is_spent(rate.interval_ns(), rate.burst, now_ns) {
        return false;
    }
    if let Some(own) = own()
        && !own.take(class, class.stranger_rate(), now_ns)
    {
        return false;
    }
    shared.take(class, rate, now_ns)
}

/// The class of a budget.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Class {
    /// IKE, for charon.
    Ike = 0,
    /// ESP with an SPI of no known tunnel, for the kernel, which knows every SA.
    UnknownSpi = 1,
    /// A later fragment, for the kernel to reassemble.
    Fragment = 2,
    /// An ICMP error about path MTU.
    Icmp = 3,
}

/// Number of classes.
pub const CLASSES: usize = 4;

impl Class {
    /// All classes.
    pub const ALL: [Self; CLASSES] = [Self::Ike, Self::UnknownSpi, Self::Fragment, Self::Icmp];

    /// Returns the class that an outer packet is charged to, if any. `known`: its SPI belongs to a known
    /// tunnel.
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

    /// Returns the rate limit of a peer. An SPI may stay unknown for long (a rekey while gatewayd is down),
    /// so unknown SPIs are limited at line rate only; that limit is for senders that spoof a peer's
    /// address.
    #[inline(always)]
    pub const fn peer_rate(self) -> Rate {
        match self {
            Self::Ike => Rate::new(100, 200),
            Self::UnknownSpi => Rate::new(200_000, 200_000),
            Self::Fragment => Rate::new(100_000, 100_000),
            Self::Icmp => Rate::new(10, 20),
        }
    }

    /// Returns the rate limit of a stranger.
    #[inline(always)]
    pub const fn stranger_rate(self) -> Rate {
        match self {
            Self::Ike => Rate::new(10, 30),
            Self::UnknownSpi => Rate::new(1_000, 1_000),
            Self::Fragment => Rate::new(100, 100),
            Self::Icmp => Rate::new(10, 20),
        }
    }

    /// Returns the rate limit that all strangers share on one CPU.
    #[inline(always)]
    pub const fn shared_rate(self) -> Rate {
        match self {
            Self::Ike => Rate::new(500, 1_000),
            Self::UnknownSpi => Rate::new(20_000, 20_000),
            Self::Fragment => Rate::new(1_000, 1_000),
            Self::Icmp => Rate::new(1_000, 1_000),
        }
    }
}
