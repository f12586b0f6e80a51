//! What stands in the eBPF maps: keys and values, byte for byte. No padding that is not named, no
//! Rust enums (user space may write any byte), addresses as octets so that `bpftool map dump`
//! shows them as people write them. Ports and numbers are in host byte order.
//!
//! | map | key | value | written by | read by |
//! |---|---|---|---|---|
//! | SETTINGS | 0 | [`Settings`] | gatewayd | all programs |
//! | TUNNELS | tunnel id | [`Tunnel`] | gatewayd | ingress programs |
//! | CUSTOMERS, CUSTOMERS6 | server address | [`Customer`] | gatewayd | LAN ingress |
//! | INBOUND_SPIS | SPI | tunnel id | gatewayd | internet XDP and ingress |
//! | OUTBOUND_SPIS | [`OutboundSpi`] | tunnel id | gatewayd | internet egress |
//! | PEERS | outer address | [`Source`] | gatewayd (which), outer filter (budgets) | outer filter |
//! | SOURCES | outer address or /64 | [`Budgets`] | outer filter | outer filter |
//! | STRANGERS | 0, for each CPU | [`Budgets`] of all of those | outer filter | outer filter |
//! | FLOWS, FLOWS6 | [`FlowKey`] | [`Flow`] | ingress programs, expiry | ingress programs, gatewayctl |
//! | NODES, NODES6 | half the node's number | [`crate::wheel::Pair`] | ingress programs, expiry | expiry |
//! | WHEEL | slot | [`crate::wheel::Slot`] | ingress programs, expiry | expiry |
//! | EXPIRY | 0 | [`crate::wheel::Expiry`] | ingress programs, expiry | gatewayctl |
//! | PROGRAMS | [`NextProgram`] | program | gatewayd | ingress programs |
//! | USAGE | customer id | [`Usage`] | ingress programs, expiry | ingress programs, gatewayctl |
//! | COUNTERS | customer id, 0 for none | [`Counters`] | all programs | all programs, gatewayctl |
//! | EVENTS | | [`DropEvent`] | all programs | gatewayd |
use crate::{
    family::Family,
    limits::{MANAGEMENT_RULES, OWN_ADDRESSES, PREFIXES_PER_SITE},
    reason::REASON_SLOTS,
    tcp::STATE_SLOTS,
    wire::{Ipv4, Ipv6},
};

/// A family, and where the maps keep what is its own.
pub trait Kept: Family {
    /// What a site of this tunnel may do in this family.
    fn access(tunnel: &Tunnel) -> &Access<Self>;
    /// The gateway's own addresses, and how many of them count.
    fn own(addresses: &Addresses) -> (&[Self; OWN_ADDRESSES], u32);
}

impl Kept for Ipv4 {
    #[inline(always)]
    fn access(tunnel: &Tunnel) -> &Access<Self> {
        &tunnel.v4
    }

    #[inline(always)]
    fn own(addresses: &Addresses) -> (&[Self; OWN_ADDRESSES], u32) {
        (&addresses.v4, addresses.v4_count)
    }
}

impl Kept for Ipv6 {
    #[inline(always)]
    fn access(tunnel: &Tunnel) -> &Access<Self> {
        &tunnel.v6
    }

    #[inline(always)]
    fn own(addresses: &Addresses) -> (&[Self; OWN_ADDRESSES], u32) {
        (&addresses.v6, addresses.v6_count)
    }
}

/// A prefix.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct Prefix<A> {
    /// Network address, host bits 0.
    pub network: A,
    /// Netmask.
    pub mask: A,
}

impl<A: Family> Prefix<A> {
    /// A prefix of this many bits, at most as many as an address has; host bits are cleared.
    pub fn new(address: A, bits: u8) -> Self {
        let mask = A::netmask(bits);
        Self { network: address.masked(mask), mask }
    }

    /// True if the address lies in it.
    #[inline(always)]
    pub fn contains(&self, address: A) -> bool {
        address.masked(self.mask) == self.network
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
    /// The largest IP packet that the LAN takes, in bytes.
    pub lan_mtu: u32,
    /// 1: the outer filter runs at the XDP hook, so TCX ingress need not charge its budgets again.
    pub xdp: u32,
    /// 1: a connection in mid-stream is taken up, from the LAN side only.
    pub adopt_midstream: u32,
    /// How many of `management` count.
    pub management_count: u32,
    #[doc(hidden)]
    pub _reserved: u32,
    /// The gateway's own addresses on the internet interface.
    pub internet: Addresses,
    /// The gateway's own addresses on the LAN interface.
    pub lan: Addresses,
    /// What else may reach the gateway on the internet interface.
    pub management: [ManagementRule; MANAGEMENT_RULES],
    /// How long a flow stays without a packet, by TCP state number and the slots after those.
    pub timeouts: [Ticks; STATE_SLOTS],
}

impl Settings {
    /// True for an address of the gateway, on either side.
    #[inline(always)]
    pub fn is_own<A: Kept>(&self, address: A) -> bool {
        self.internet.have(address) || self.lan.have(address)
    }
}

/// An interface's addresses.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct Addresses {
    /// How many of `v4` count.
    pub v4_count: u32,
    /// How many of `v6` count.
    pub v6_count: u32,
    /// IPv4 addresses.
    pub v4: [Ipv4; OWN_ADDRESSES],
    /// IPv6 addresses, the link-local one too.
    pub v6: [Ipv6; OWN_ADDRESSES],
}

impl Addresses {
    /// True if the address is among them.
    #[inline(always)]
    pub fn have<A: Kept>(&self, address: A) -> bool {
        let (addresses, count) = A::own(self);
        let mut i = 0;
        while i < OWN_ADDRESSES {
            if i < count as usize && addresses[i] == address {
                return true;
            }
            i += 1;
        }
        false
    }
}

/// One entry of the management allow-list.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct ManagementRule {
    /// Who may reach it; IPv4 mapped into IPv6.
    pub from: Prefix<Ipv6>,
    /// The gateway's port.
    pub port: u16,
    /// TCP or UDP, see [`crate::wire::protocol`].
    pub protocol: u8,
    #[doc(hidden)]
    pub _reserved: u8,
}

/// One tunnel; its key is its id. All zero: no such tunnel. What IPv4 needs comes first.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct Tunnel {
    /// Whose it is; 0: no such tunnel.
    pub customer: u32,
    /// Which server and port this is the customer's: another number after each change of them. A
    /// flow of another one is over.
    pub generation: u16,
    /// The port that the server offers.
    pub port: u16,
    /// 1 while it is up with the site's authenticated identity.
    pub up: u8,
    #[doc(hidden)]
    pub _reserved: [u8; 3],
    /// Of INBOUND_SPIS, so that nearly every packet needs no look there: SPIs of its SAs, two of them, as
    /// there are during a rekeying; 0 for none.
    pub inbound_spis: [u32; 2],
    /// In IPv4.
    pub v4: Access<Ipv4>,
    /// What the customer may take; the same in each of its tunnels.
    pub quota: Quota,
    /// In IPv6.
    pub v6: Access<Ipv6>,
}

/// What a site may do in one address family.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct Access<A> {
    /// The customer's server.
    pub server: A,
    /// The largest TCP segment that fits the tunnel and the LAN, in bytes.
    pub mss: u16,
    /// How many of `lan` count; 0: nothing is allowed in this family.
    pub prefix_count: u8,
    #[doc(hidden)]
    pub _reserved: u8,
    /// The site's LAN.
    pub lan: [Prefix<A>; PREFIXES_PER_SITE],
}

impl<A: Family> Access<A> {
    /// True if the address is in the site's LAN.
    #[inline(always)]
    pub fn has(&self, address: A) -> bool {
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

/// What one customer may take of what all share.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct Quota {
    /// Flows at once.
    pub flows: u32,
    /// Flows at once whose handshake is not complete.
    pub half_open: u32,
    /// One new flow in this many nanoseconds...
    pub new_flow_interval_ns: u32,
    /// ...and so many at once.
    pub new_flow_burst: u32,
}

/// What one customer has taken.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct Usage {
    /// Held while a program changes it.
    pub lock: bpf_spin_lock,
    /// Flows in the table.
    pub flows: u32,
    /// Those of them whose handshake is not complete.
    pub half_open: u32,
    #[doc(hidden)]
    pub _reserved: u32,
    /// The budget for new flows.
    pub new_flows: Bucket,
}

/// A rate that is kept to, in one number: the generic cell rate algorithm (ITU-T I.371).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct Bucket {
    /// When all of it is there again, CLOCK_MONOTONIC.
    pub whole_at_ns: u64,
}

impl Bucket {
    /// Takes one, if there is one: one comes in `interval_ns`, `burst` at once.
    #[inline(always)]
    pub fn take(&mut self, interval_ns: u64, burst: u32, now_ns: u64) -> bool {
        let arrival = if self.whole_at_ns > now_ns { self.whole_at_ns } else { now_ns };
        if arrival - now_ns > interval_ns * (burst as u64).saturating_sub(1) {
            return false;
        }
        self.whole_at_ns = arrival + interval_ns;
        true
    }
}

/// One customer; its key is its server's address.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct Customer {
    /// The customer's id, never 0.
    pub id: u32,
}

/// Who owns an outbound SPI: the peer chose it, so another peer may have chosen the same.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
#[repr(C)]
pub struct OutboundSpi {
    /// The peer's outer address; IPv4 mapped into IPv6.
    pub peer: Ipv6,
    /// The SPI.
    pub spi: u32,
}

/// What was taken of the budgets for outer packets.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct Budgets {
    /// By [`crate::budget::Class`] number.
    pub classes: [Bucket; crate::budget::CLASSES],
}

/// What one peer has taken.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct Source {
    /// Held while a program changes it.
    pub lock: bpf_spin_lock,
    #[doc(hidden)]
    pub _reserved: u32,
    /// What it has taken.
    pub budgets: Budgets,
}

/// A connection, its direction taken out. The server's address and port follow from the customer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
#[repr(C)]
pub struct FlowKey<A> {
    /// Whose connection it is.
    pub customer: u32,
    /// The device's address.
    pub lan_address: A,
    /// The device's port.
    pub lan_port: u16,
    #[doc(hidden)]
    pub _reserved: u16,
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

/// One connection, in one cache line: key and element header of the kernel's hash table take 64
/// bytes, so that with those the value begins at the next line. Arrays are indexed by
/// [`crate::tcp::Direction`] number. What is packed is read through the methods.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct Flow {
    /// Held while a program changes the flow.
    pub lock: bpf_spin_lock,
    /// The tunnel it belongs to.
    pub tunnel: u32,
    /// When it ends unless a packet comes.
    pub expires: Ticks,
    /// Both ends: the device's, the server's.
    pub peers: [Peer; 2],
    /// The last segment: acknowledgment number.
    pub last_ack: u32,
    /// The last segment: sequence number after it.
    pub last_end: u32,
    /// The last segment: window, unscaled.
    pub last_window: u16,
    /// The last segment: how many sequence numbers it took, which with `last_end` says where it began.
    pub last_length: u16,
    /// [`Tunnel::generation`] when it was opened.
    pub generation: u16,
    /// Both ends' flags, see [`crate::track::peer_flag`].
    pub flags: [u8; 2],
    /// Both ends' window scale, 0 to 14: the device's in bits 0 to 3, the server's in bits 4 to 7.
    pub scales: u8,
    /// Of a SYN that was let through on a live connection: its options and window scale, see
    /// [`crate::track::ignored`].
    pub ignored: u8,
    /// Bits 0 to 3: a [`crate::tcp::State`] number, 0 while the entry is being removed. Bits 4 and 5:
    /// how often the last segment came again, at most 3.
    pub state: u8,
    /// The last segment, bits 0 to 2: a [`crate::packet::Kind`] number; bit 3: a direction number.
    /// Bits 4 to 7: [`crate::track::status`].
    pub last: u8,
}

/// Where a server is on the LAN, as the kernel's neighbour table had it.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct NextHop<A> {
    /// The server's address. The customer's may have become another one, or its number another customer's.
    pub address: A,
    /// When it was asked for; 0: never. An age, unlike a time to come, cannot be taken for another one when
    /// a customer is silent on this CPU for weeks, and [`Ticks`] wrap.
    pub asked: Ticks,
    /// The server's MAC address.
    pub destination: [u8; 6],
    /// The LAN interface's.
    pub source: [u8; 6],
}

impl<A: Family> NextHop<A> {
    /// How long an answer holds.
    pub const HOLDS: Ticks = Ticks::from_seconds(1);

    /// True if it says where this server is, and still holds.
    #[inline(always)]
    pub fn holds(&self, server: A, now: Ticks) -> bool {
        self.asked.ticks != 0
            && now.ticks.wrapping_sub(self.asked.ticks) < Self::HOLDS.ticks
            && self.address == server
    }
}

/// What was counted for one customer on one CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Counters {
    /// Packets passed on to servers and to sites, by direction number; of what GRO merged, the segments.
    pub passed: [u64; 2],
    /// Bytes of them, from the IP header on.
    pub passed_bytes: [u64; 2],
    /// The customer's server in IPv4. It is no counter, and stands in their first cache line as that is touched
    /// anyway.
    pub next_hop_v4: NextHop<Ipv4>,
    /// The same in IPv6.
    pub next_hop_v6: NextHop<Ipv6>,
    #[doc(hidden)]
    pub _reserved: u32,
    /// ESP packets of an SPI that is not in INBOUND_SPIS (yet); the kernel decides on those.
    pub unknown_spi: u64,
    /// Flows opened.
    pub opened: u64,
    /// Drop events that were not written: over budget, or the ring full.
    pub events_lost: u64,
    /// The budget for events.
    pub events: Bucket,
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
    /// Source address, IPv4 mapped into IPv6; zero if neither.
    pub source: Ipv6,
    /// Destination address, likewise.
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

/// A program that another one goes on in, by its index in PROGRAMS.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum NextProgram {
    /// Of `internet_ingress`, for IPv4 out of a tunnel.
    SiteV4 = 0,
    /// Of `internet_ingress`, for IPv6 out of a tunnel.
    SiteV6 = 1,
    /// Of `lan_ingress`, for IPv4.
    ServerV4 = 2,
    /// Of `lan_ingress`, for IPv6.
    ServerV6 = 3,
    /// Of `internet_ingress`, for what came out of no tunnel.
    Outer = 4,
}

impl NextProgram {
    /// All of them, in the order of their indices.
    pub const ALL: [Self; 5] = [Self::SiteV4, Self::SiteV6, Self::ServerV4, Self::ServerV6, Self::Outer];

    /// The program's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SiteV4 => "site_v4",
            Self::SiteV6 => "site_v6",
            Self::ServerV4 => "server_v4",
            Self::ServerV6 => "server_v6",
            Self::Outer => "outer",
        }
    }
}

/// Set in skb->mark, beside the tunnel id, by `internet_ingress` alone: `lan_egress` lets only
/// such packets through.
pub const APPROVED_MARK: u32 = 1 << 31;

const _: () = assert!(size_of::<Addresses>() == 168);
const _: () = assert!(size_of::<Settings>() == 32 + 2 * 168 + 16 * 36 + 64);
const _: () = assert!(size_of::<Tunnel>() == 12 + 8 + 40 + 16 + 148);
const _: () = assert!(size_of::<FlowKey<Ipv4>>() == 12 && size_of::<FlowKey<Ipv6>>() == 24);
const _: () = assert!(size_of::<Flow>() == 64 && size_of::<Usage>() == 24);
const _: () = assert!(
    size_of::<OutboundSpi>() == 20 && size_of::<Counters>() == 32 + 20 + 32 + 4 + 32 + 8 * REASON_SLOTS
);
const _: () = assert!(size_of::<DropEvent>() == 64);

#[cfg(feature = "user")]
mod pod {
    //! Plain data for aya's maps.
    use super::{Ipv4, Ipv6};

    macro_rules! pod {
        ($($type:ty),+ $(,)?) => {
            // SAFETY: repr(C), integers only, every byte named (see the sizes above).
            $(unsafe impl aya::Pod for $type {})+
        };
    }
    pod!(Ipv4, Ipv6, super::Settings, super::Tunnel, super::Customer, super::OutboundSpi);
    pod!(super::Source, super::Budgets, super::Usage, super::Flow, super::Counters);
    pod!(super::FlowKey<Ipv4>, super::FlowKey<Ipv6>);
}
