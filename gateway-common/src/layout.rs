//! What stands in the eBPF maps: keys and values, byte for byte. No padding that is not named, no
//! Rust enums (user space may write any byte), addresses as octets so that `bpftool map dump`
//! shows them as people write them. Ports and numbers are in host byte order.
//!
//! | map | key | value | written by | read by |
//! |---|---|---|---|---|
//! | SETTINGS | 0 | [`Settings`] | gatewayd | all programs |
//! | TUNNELS | tunnel id | [`Tunnel`] | gatewayd | ingress programs |
//! | CUSTOMERS | server address | [`Customer`] | gatewayd | ingress programs |
//! | INBOUND_SPIS | SPI | tunnel id | gatewayd | internet ingress |
//! | OUTBOUND_SPIS | [`OutboundSpi`] | tunnel id | gatewayd | internet egress |
//! | FLOWS | [`FlowKey`] | [`Flow`] | ingress programs | ingress programs |
//! | COUNTERS | customer id, 0 for none | [`Counters`] | all programs | gatewayctl |
//! | EVENTS | | [`DropEvent`] | all programs | gatewayd |
use crate::{
    limits::{MANAGEMENT_RULES, OWN_ADDRESSES, PREFIXES_PER_SITE},
    reason::REASON_SLOTS,
    tcp::STATE_SLOTS,
    wire::Ipv4,
};

/// An IPv4 prefix.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct Prefix {
    /// Network address, host bits 0.
    pub network: Ipv4,
    /// Netmask.
    pub mask: Ipv4,
}

impl Prefix {
    /// A prefix of this many bits, at most 32; host bits of the address are cleared.
    pub const fn new(address: Ipv4, bits: u8) -> Self {
        let mask = match bits {
            0 => 0,
            1..=31 => u32::MAX << (32 - bits),
            _ => u32::MAX,
        };
        Self { network: Ipv4::from_bits(address.bits() & mask), mask: Ipv4::from_bits(mask) }
    }

    /// True if the address lies in it.
    #[inline(always)]
    pub const fn contains(&self, address: Ipv4) -> bool {
        // Byte order does not matter to a mask.
        u32::from_ne_bytes(address.octets) & u32::from_ne_bytes(self.mask.octets)
            == u32::from_ne_bytes(self.network.octets)
    }
}

/// What holds for the whole gateway.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Settings {
    /// 1 once all of it is filled in; programs drop everything before.
    pub ready: u32,
    /// Interface index of the internet interface.
    pub internet_ifindex: u32,
    /// Interface index of the LAN interface, where `bpf_redirect_neigh` sends to.
    pub lan_ifindex: u32,
    /// How many of `internet_addresses` count.
    pub internet_address_count: u32,
    /// How many of `lan_addresses` count.
    pub lan_address_count: u32,
    /// How many of `management` count.
    pub management_count: u32,
    /// 1: a connection in mid-stream is taken up, from the LAN side only.
    pub adopt_midstream: u32,
    /// The gateway's own addresses on the internet interface.
    pub internet_addresses: [Ipv4; OWN_ADDRESSES],
    /// The gateway's own addresses on the LAN interface.
    pub lan_addresses: [Ipv4; OWN_ADDRESSES],
    /// What else may reach the gateway on the internet interface.
    pub management: [ManagementRule; MANAGEMENT_RULES],
    /// How long a flow stays without a packet, by TCP state number and the slots after those.
    pub timeouts: [Ticks; STATE_SLOTS],
}

impl Settings {
    /// True for an address of the gateway, on either side.
    #[inline(always)]
    pub fn is_own(&self, address: Ipv4) -> bool {
        among(&self.internet_addresses, self.internet_address_count, address)
            || among(&self.lan_addresses, self.lan_address_count, address)
    }
}

/// True if the address is among the first `count`.
#[inline(always)]
pub fn among(addresses: &[Ipv4; OWN_ADDRESSES], count: u32, address: Ipv4) -> bool {
    let mut i = 0;
    while i < OWN_ADDRESSES {
        if i < count as usize && addresses[i] == address {
            return true;
        }
        i += 1;
    }
    false
}

/// One entry of the management allow-list.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct ManagementRule {
    /// Who may reach it.
    pub from: Prefix,
    /// The gateway's port.
    pub port: u16,
    /// TCP or UDP, see [`crate::wire::protocol`].
    pub protocol: u8,
    #[doc(hidden)]
    pub _reserved: u8,
}

/// One tunnel; its key is its id. All zero: no such tunnel.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct Tunnel {
    /// Whose it is; 0: no such tunnel.
    pub customer: u32,
    /// 1 while it is up with the site's authenticated identity.
    pub up: u8,
    /// How many of `lan` count.
    pub prefix_count: u8,
    /// The largest TCP segment that fits the tunnel, in bytes.
    pub mss: u16,
    /// The customer's server.
    pub server: Ipv4,
    /// The port it offers.
    pub port: u16,
    #[doc(hidden)]
    pub _reserved: u16,
    /// The policy's generation for this customer.
    pub generation: u32,
    /// The site's LAN.
    pub lan: [Prefix; PREFIXES_PER_SITE],
}

impl Tunnel {
    /// True if the address is in the site's LAN.
    #[inline(always)]
    pub fn has(&self, address: Ipv4) -> bool {
        let mut i = 0;
        while i < PREFIXES_PER_SITE {
            if i < self.prefix_count as usize && self.lan[i].contains(address) {
                return true;
            }
            i += 1;
        }
        false
    }
}

/// One customer; its key is its server's address.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct Customer {
    /// The customer's id, never 0.
    pub id: u32,
    /// The policy's generation; a flow of another one is decided again.
    pub generation: u32,
    /// The port its server offers.
    pub port: u16,
    #[doc(hidden)]
    pub _reserved: u16,
}

/// Who owns an outbound SPI: the peer chose it, so another peer may have chosen the same.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(C)]
pub struct OutboundSpi {
    /// The peer's outer address.
    pub peer: Ipv4,
    /// The SPI.
    pub spi: u32,
}

/// A connection, its direction taken out. The server's address follows from the customer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(C)]
pub struct FlowKey {
    /// Whose connection it is.
    pub customer: u32,
    /// The device's address.
    pub lan_address: Ipv4,
    /// The device's port.
    pub lan_port: u16,
    /// The server's port.
    pub server_port: u16,
}

/// `struct bpf_spin_lock`; the kernel finds it by its name in BTF.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct bpf_spin_lock {
    #[doc(hidden)]
    pub val: u32,
}

/// A time on CLOCK_MONOTONIC, or a span of it, in ticks of 2^20 ns (1.05 ms), wrapping after 52 days.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
#[repr(C)]
pub struct Ticks {
    /// Units of 2^20 ns.
    pub ticks: u32,
}

impl Ticks {
    /// Of nanoseconds, rounded down.
    #[inline(always)]
    pub const fn from_ns(ns: u64) -> Self {
        Self { ticks: (ns >> 20) as u32 }
    }

    /// Of seconds, rounded down.
    pub const fn from_seconds(seconds: u32) -> Self {
        Self::from_ns(seconds as u64 * 1_000_000_000)
    }

    /// This span after this time.
    #[inline(always)]
    pub const fn plus(self, span: Self) -> Self {
        Self { ticks: self.ticks.wrapping_add(span.ticks) }
    }

    /// True if this time has come. Right for 26 days before and after.
    #[inline(always)]
    pub const fn has_come(self, now: Self) -> bool {
        now.ticks.wrapping_sub(self.ticks) as i32 >= 0
    }

    /// The span from `now` to this time, 0 if it has come.
    #[inline(always)]
    pub const fn since(self, now: Self) -> Self {
        if self.has_come(now) {
            Self { ticks: 0 }
        } else {
            Self { ticks: self.ticks.wrapping_sub(now.ticks) }
        }
    }

    /// In nanoseconds.
    pub const fn as_ns(self) -> u64 {
        (self.ticks as u64) << 20
    }
}

/// What was seen of one end of a connection; `struct ip_ct_tcp_state`. Sequence numbers, host byte
/// order.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct Peer {
    /// The highest sequence number it sent, and one more.
    pub end: u32,
    /// The highest it may send, by what the other end offered.
    pub max_end: u32,
    /// The largest window it offered, scaled; 0: nothing was seen of it yet.
    pub max_window: u32,
    /// The highest it acknowledged.
    pub max_ack: u32,
}

/// One connection: with key and the kernel's own 64 bytes of a hash element and its bucket, 160
/// bytes. Arrays are indexed by [`crate::tcp::Direction`] number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Flow {
    /// Held while a program changes the flow.
    pub lock: bpf_spin_lock,
    /// The tunnel it belongs to.
    pub tunnel: u32,
    /// The policy generation that allowed it.
    pub generation: u32,
    /// When it ends unless a packet comes.
    pub expires: Ticks,
    /// Both ends: the device's, the server's.
    pub peers: [Peer; 2],
    /// Both ends' window scale, 0 to 14.
    pub scale: [u8; 2],
    /// Both ends' flags, see [`crate::track::peer_flag`].
    pub flags: [u8; 2],
    /// The last segment: acknowledgment number.
    pub last_ack: u32,
    /// The last segment: sequence number after it.
    pub last_end: u32,
    /// The last segment: window, unscaled.
    pub last_window: u16,
    /// The last segment: a [`crate::packet::Kind`] number.
    pub last_kind: u8,
    /// The last segment: a direction number.
    pub last_direction: u8,
    /// Of a SYN that was let through on a live connection: its options, as in `flags`.
    pub last_flags: u8,
    /// Of that SYN: its window scale.
    pub last_scale: u8,
    /// A [`crate::tcp::State`] number.
    pub state: u8,
    /// How often the last segment came again.
    pub retransmissions: u8,
    /// See [`crate::track::status`].
    pub status: u8,
    #[doc(hidden)]
    pub _reserved: u8,
    /// The last segment: how many sequence numbers it took, which with `last_end` says where it began.
    pub last_length: u16,
    /// Packets, wrapping.
    pub packets: [u32; 2],
}

/// What was counted for one customer on one CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Counters {
    /// Packets passed on to servers and to sites, by direction number.
    pub passed: [u64; 2],
    /// Bytes of them, from the IPv4 header on.
    pub passed_bytes: [u64; 2],
    /// ESP packets of an SPI that is not in INBOUND_SPIS (yet); the kernel decides on those.
    pub unknown_spi: u64,
    /// Flows opened.
    pub opened: u64,
    /// Drop events that were not written: over budget, or the ring full.
    pub events_lost: u64,
    /// When the event budget is whole again (GCRA's theoretical arrival time), CLOCK_MONOTONIC.
    pub events_budget_ns: u64,
    /// Packets dropped, by [`crate::reason::Reason`] number.
    pub dropped: [u64; REASON_SLOTS],
}

/// A dropped packet, for people.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct DropEvent {
    /// When, on CLOCK_MONOTONIC.
    pub time_ns: u64,
    /// Whose, 0 if unknown.
    pub customer: u32,
    /// By which tunnel, 0 if unknown.
    pub tunnel: u32,
    /// Source address, zero if not IPv4.
    pub source: Ipv4,
    /// Destination address.
    pub destination: Ipv4,
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
    /// A [`Hook`] number.
    pub hook: u8,
    /// TCP flags.
    pub tcp_flags: u8,
    #[doc(hidden)]
    pub _reserved: u32,
}

/// Where a program is attached.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Hook {
    /// Native XDP of the internet interface.
    InternetXdp = 0,
    /// TCX ingress of the internet interface.
    InternetIngress = 1,
    /// TCX ingress of the LAN interface.
    LanIngress = 2,
    /// TCX egress of the internet interface.
    InternetEgress = 3,
    /// TCX egress of the LAN interface.
    LanEgress = 4,
}

impl Hook {
    /// All of them, in the packet's order.
    pub const ALL: [Self; 5] =
        [Self::InternetXdp, Self::InternetIngress, Self::LanIngress, Self::InternetEgress, Self::LanEgress];

    /// The program's name, which is the hook's.
    pub const fn name(self) -> &'static str {
        match self {
            Self::InternetXdp => "internet_xdp",
            Self::InternetIngress => "internet_ingress",
            Self::LanIngress => "lan_ingress",
            Self::InternetEgress => "internet_egress",
            Self::LanEgress => "lan_egress",
        }
    }
}

/// Set in skb->mark, beside the tunnel id, by `internet_ingress` alone: `lan_egress` lets only
/// such packets through.
pub const APPROVED_MARK: u32 = 1 << 31;

const _: () = assert!(size_of::<Settings>() == 7 * 4 + 16 * 4 + 16 * 12 + 16 * 4);
const _: () = assert!(size_of::<Tunnel>() == 52);
const _: () = assert!(size_of::<FlowKey>() == 12);
const _: () = assert!(size_of::<Flow>() == 80);
const _: () = assert!(size_of::<DropEvent>() == 40);

#[cfg(feature = "user")]
mod pod {
    //! Plain data for aya's maps.
    // SAFETY: repr(C), integers only, every byte named (see the sizes above).
    unsafe impl aya::Pod for super::Settings {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Tunnel {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Customer {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::OutboundSpi {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::FlowKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Flow {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Counters {}
    // SAFETY: as above.
    unsafe impl aya::Pod for crate::wire::Ipv4 {}
}
