//! IKE on the wire: ports, and the parts of messages that the gateway reads (RFC 7296 section 3).
use super::frame::{Be16, Be32, Wire};

/// UDP port of IKEv2, RFC 7296 section 2.
pub const PORT: u16 = 500;
/// UDP port of IKEv2 and ESP through NAT, RFC 3948.
pub const NAT_PORT: u16 = 4500;
/// Major version 2, minor version 0.
pub const VERSION_2: u8 = 0x20;

/// IKE header, RFC 7296 section 3.1.
#[derive(Clone, Copy)]
#[repr(C, align(4))]
pub struct IkeHeader {
    /// Initiator's SPI, two words in memory order.
    pub initiator_spi: [u32; 2],
    /// Responder's SPI, two words in memory order; 0 in the first message.
    pub responder_spi: [u32; 2],
    /// Type of the first payload, see [`payload`].
    pub next_payload: u8,
    /// Major (4 bits) and minor version (4 bits).
    pub version: u8,
    /// Exchange type, see [`exchange`].
    pub exchange: u8,
    /// See [`flag`].
    pub flags: u8,
    /// Message id.
    pub message_id: Be32,
    /// Bytes of header and payloads.
    pub length: Be32,
}

/// Notify payload without SPI, RFC 7296 section 3.10.
#[derive(Clone, Copy)]
#[repr(C, align(4))]
pub struct NotifyHeader {
    /// Type of the payload behind this one.
    pub next_payload: u8,
    /// The critical flag and seven reserved bits.
    pub critical: u8,
    /// Bytes of this header and the data.
    pub length: Be16,
    /// Protocol of the SPI; 0 without one.
    pub protocol: u8,
    /// Bytes of the SPI.
    pub spi_bytes: u8,
    /// Notify message type, see [`notify`].
    pub kind: Be16,
}

/// Payload types (RFC 7296 section 3.2).
pub mod payload {
    /// No payload follows.
    pub const NONE: u8 = 0;
    /// Notify.
    pub const NOTIFY: u8 = 41;
}

/// Exchange types (RFC 7296 section 3.1).
pub mod exchange {
    /// IKE_SA_INIT.
    pub const IKE_SA_INIT: u8 = 34;
}

/// Header flags (RFC 7296 section 3.1).
pub mod flag {
    /// The sender initiated the IKE_SA.
    pub const INITIATOR: u8 = 0x08;
    /// The message is a response.
    pub const RESPONSE: u8 = 0x20;
}

/// Notify message types (RFC 7296 section 3.10.1).
pub mod notify {
    /// COOKIE.
    pub const COOKIE: u16 = 16390;
}

// SAFETY: repr(C), integers only, so any bytes are a value (`Wire`).
unsafe impl Wire for IkeHeader {}

// SAFETY: as above.
unsafe impl Wire for NotifyHeader {}

const _: () = assert!(size_of::<IkeHeader>() == 28 && size_of::<NotifyHeader>() == 8);
