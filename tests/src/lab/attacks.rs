//! The attacks. Adding one is adding an entry.
use super::attack::Attack;

/// All of them.
pub const ATTACKS: &[Attack] = &[];
