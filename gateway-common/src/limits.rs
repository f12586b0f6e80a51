//! Every bound of the data plane, in one place.

/// LAN prefixes of one site, kept inline in its tunnel's map entry.
pub const PREFIXES_PER_SITE: usize = 4;
/// Addresses the gateway may have on one interface.
pub const OWN_ADDRESSES: usize = 8;
/// Entries of the management allow-list.
pub const MANAGEMENT_RULES: usize = 16;
/// Bytes of the ring buffer for drop events; a power of two and a multiple of the page size.
pub const EVENT_RING_BYTES: usize = 256 * 1024;
/// Drop events one customer may write on one CPU: so many a second...
pub const EVENTS_PER_SECOND: u64 = 20;
/// ...and so many at once.
pub const EVENTS_BURST: u64 = 20;

/// The largest TCP segment that fits every tunnel we offer over a path of 1500 bytes: 1500 less
/// outer IPv4 (20), UDP encapsulation (8), ESP header (8), CBC IV (16), padding and trailer (at
/// most 17), HMAC-SHA-512-256 (32), inner IPv4 (20) and TCP (20), rounded down to a multiple of 4.
pub const TUNNEL_MSS_BYTES: u16 = (1500 - 20 - 8 - 8 - 16 - 17 - 32 - 20 - 20) & !3;
