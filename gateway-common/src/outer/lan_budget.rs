//! Budgets for the senders of ARP and neighbour discovery on the LAN.
//!
//! A sender is known by its frames' source MAC address. The IP address in a message is a claim, and must not spend
//! the budget of whoever owns it. Each MAC address draws on two of a fixed number of buckets, chosen by a keyed
//! hash, and is refused only when both are empty: a flood from one address exhausts its own two, and another sender
//! is refused only if both of its buckets are among those that floods exhaust.
use crate::{
    limits::NEIGHBOUR_BUCKETS,
    rate::{Bucket, Rate},
    wire::Mac,
};

/// The rate limit of one bucket on one CPU; a sender has two.
const SENDER: Rate = Rate::new(10, 20);
/// The rate limit on one CPU of all senders without an address of their own, together.
const ANONYMOUS: Rate = Rate::new(1_000, 1_000);

const BITS: u32 = NEIGHBOUR_BUCKETS.trailing_zeros();

const _: () = assert!(NEIGHBOUR_BUCKETS.is_power_of_two());

/// Returns the numbers of a sender's two buckets, which differ. `key` is a secret of the gateway's, so that no
/// server can choose a MAC address that shares another's buckets.
#[inline(always)]
pub const fn neighbour_buckets(sender: Mac, key: u64) -> [u32; 2] {
    // Multiplied twice: addresses that a cloud numbers one after the other would else share buckets in rows.
    let factor = key | 1;
    let hash = sender.bits().wrapping_mul(factor);
    let hash = (hash ^ hash >> 32).wrapping_mul(factor);
    let first = (hash >> (u64::BITS - BITS)) as u32;
    let distance = (hash >> (u64::BITS - 2 * BITS)) as u32 & (NEIGHBOUR_BUCKETS as u32 - 1) | 1;
    [first, first ^ distance]
}

/// Charges ARP or neighbour discovery to its sender's two buckets, and returns false if both are empty. An
/// `anonymous` sender is charged to the budget that all such senders share as well; its own comes first, so that a
/// single loud one cannot empty the shared one.
#[inline(always)]
pub fn charge_neighbour(
    [first, second]: [&mut Bucket; 2],
    shared: &mut Bucket,
    anonymous: bool,
    now_ns: u64,
) -> bool {
    let take = |bucket: &mut Bucket, rate: Rate| bucket.take(rate.interval_ns(), rate.burst, now_ns);
    (take(first, SENDER) || take(second, SENDER)) && (!anonymous || take(shared, ANONYMOUS))
}
