//! Headers as they are on the wire, and reading them from a frame.
mod address;
mod frame;
mod header;
pub mod ike;
mod mac;
mod number;

pub use self::{
    address::{Ipv4, Ipv6},
    frame::{Be16, Be32, Frame, LoopBody, Wire, Words},
    header::{
        ETHERNET_BYTES, Ipv4Header, Ipv6Header, NETWORK_OFFSET, TcpHeader, UdpHeader, VLAN_TAG_BYTES,
        ethertype_of, has_priority_tag, is_foreign,
    },
    ike::{IkeHeader, NotifyHeader},
    mac::Mac,
    number::{ethertype, protocol},
};
