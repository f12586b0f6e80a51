//! Bounds that programs and control plane share. Sizes of structures that have a file of their own, such as the wheel of
//! timers or the states of TCP, are there.

/// LAN prefixes of one site and family, stored inline in its map entry: one for each CHILD_SA that a site may have
/// ([`TUNNELS_PER_SITE`](crate::layout::map_list::TUNNELS_PER_SITE)).
pub const PREFIXES_PER_SITE: usize = 8;
/// Addresses of one family that the gateway may have on one interface.
pub const OWN_ADDRESSES: usize = 8;
/// Entries of the management allow-list.
pub const MANAGEMENT_RULES: usize = 16;
/// Sources of outer packets whose budgets are remembered. Beyond that the oldest are evicted, and only the
/// budget that all of them share limits them.
pub const SOURCES: usize = 65_536;
/// Buckets for the senders of ARP and neighbour discovery on the LAN, on each CPU; a power of two. All senders
/// together get no more than these hold.
pub const NEIGHBOUR_BUCKETS: usize = 4096;
/// Sources with a valid IKE cookie that are remembered. Beyond that the oldest are evicted, and have to show one again.
pub const PROVEN: usize = 65_536;
/// Smallest path MTU in bytes that a message from the internet may announce. An inner IPv6 packet of 1280
/// bytes (RFC 8200 section 5) still fits the largest encapsulation: IPv6, UDP, ESP with AES-CBC and
/// HMAC-SHA-512-256. A path that carries less needs `path_mtu` in the policy. gatewayd checks the number
/// against the overheads it knows (`control/mss.rs`).
pub const MIN_PATH_MTU_BYTES: u32 = 1400;
/// Bytes of the ring buffer for drop events: a power of two and a multiple of the page size.
pub const EVENT_RING_BYTES: usize = 256 * 1024;
/// Drop events per second that one customer may write on one CPU.
pub const EVENTS_PER_SECOND: u64 = 20;
/// Largest burst of drop events that one customer may write on one CPU.
pub const EVENTS_BURST: u32 = 20;
