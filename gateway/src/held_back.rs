//! Removals that are held back until policies have none of them, or an operator approves them.
use crate::{inputs::Reading, kernel::clock::monotonic_ns, policy::Removals};

/// Removals that are held back.
pub struct HeldBack {
    /// The time since when they are, nanoseconds of CLOCK_MONOTONIC. An approval names them by it.
    pub since_ns: u64,
    /// The removals.
    pub removals: Removals,
}

impl HeldBack {
    /// Returns the removals that were held back just now.
    pub fn of(reading: &Reading) -> Option<Self> {
        Some(Self { since_ns: monotonic_ns(), removals: reading.held_back.clone()? })
    }
}
