//! Drop events.
use crate::wire::Ipv6;

/// A dropped packet, reported to user space.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct DropEvent {
    /// Time of the drop, CLOCK_MONOTONIC.
    pub time_ns: u64,
    /// Customer id, 0 if unknown.
    pub customer: u32,
    /// Tunnel id, 0 if unknown.
    pub tunnel: u32,
    /// Source address, IPv4 mapped into IPv6; zero if the packet is neither.
    pub source: Ipv6,
    /// Destination address, as `source`.
    pub destination: Ipv6,
    /// Source port of TCP and UDP.
    pub source_port: u16,
    /// Destination port of TCP and UDP.
    pub destination_port: u16,
    /// Bytes of the frame.
    pub length: u32,
    /// IP protocol.
    pub protocol: u8,
    /// A [`crate::reason::Reason`] number.
    pub reason: u8,
    /// A [`super::Hook`] number.
    pub hook: u8,
    /// TCP flags.
    pub tcp_flags: u8,
    #[doc(hidden)]
    pub _reserved: u32,
}

const _: () = assert!(size_of::<DropEvent>() == 64);
