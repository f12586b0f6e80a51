//! Drop reasons: the one list. Numbers and names are stable. A reason describes what is wrong with the packet,
//! not which program noticed.

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $number:literal $name:ident)+) => {
        /// The reason for a drop.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u8)]
        pub enum Reason {
            $($(#[doc = $doc])+ $name = $number,)+
        }

        impl Reason {
            /// All reasons, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// Returns the reason of this number.
            pub const fn from_number(number: u8) -> Option<Self> {
                match number {
                    $($number => Some(Self::$name),)+
                    _ => None,
                }
            }

            /// Returns the stable name, as in metrics, logs and replay cases.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)+
                }
            }

            /// Returns one sentence for people.
            pub const fn sentence(self) -> &'static str {
                match self {
                    $(Self::$name => concat!($($doc),+).trim_ascii(),)+
                }
            }
        }
    };
}

reasons! {
    // 1 to 15: the frame and the outer packet, at the hooks of the internet interface and in the program `outer`
    // (`outer/classify.rs`). LAN ingress gives 1 and 14 too.

    /// The gateway is not configured yet, so it drops everything.
    1 NotConfigured
    /// The outer frame is shorter than its headers say, or its headers contradict each other.
    2 OuterMalformed
    /// The outer frame is neither IPv4, IPv6 nor ARP.
    3 OuterNotIp
    /// The outer header has IPv4 options, or IPv6 extension headers other than one fragment header.
    4 OuterHasIpOptions
    /// The outer packet's destination is not an address of the gateway.
    5 OuterNotGatewayAddress
    /// The outer packet is neither ESP, IKE, management traffic nor an ICMP error that path-MTU discovery needs.
    6 OuterProtocolNotAllowed
    /// The outer packet's UDP or TCP port is neither an IKE port nor allowed for management.
    7 OuterPortNotAllowed
    /// The source sent more IKE packets than its budget allows.
    8 IkeOverBudget
    /// The source sent more ESP packets with unknown SPIs than its budget allows.
    9 UnknownSpiOverBudget
    /// The source sent more fragments than its budget allows.
    10 FragmentsOverBudget
    /// The source sent more ICMP packets than its budget allows.
    11 IcmpOverBudget
    /// The path-MTU message quotes no ESP packet that the gateway sent to a peer with an SPI in use.
    12 PathMtuOfUnknownPacket
    /// The path-MTU message announces an MTU too small for IPv6 inside a tunnel.
    13 PathMtuTooSmall
    /// The frame is for another MAC address or for a VLAN.
    14 FrameNotForGateway
    /// In a flood, the IKE_SA_INIT lacks a valid cookie and cannot be answered with one.
    15 IkeInitUnanswerable

    // 16 to 47: the inner packet. Rule one (`decide/site.rs`) at internet ingress gives all of them; rule two
    // (`decide/server.rs`) at LAN ingress shares those about headers, connections and the tunnel.

    /// The SA that decrypted the packet has a reqid that is bound to no site.
    16 UnknownTunnel
    /// The packet's XFRM mark is not that of the tunnel to which the SA's reqid is bound.
    17 MarkContradictsTunnel
    /// The SA's SPI is known to belong to another tunnel.
    18 SpiContradictsTunnel
    /// The site has no tunnel up for the device's address.
    19 TunnelDown
    /// The inner packet is neither IPv4 nor IPv6.
    20 InnerNotIp
    /// The inner packet is shorter than its headers say, or its headers contradict each other.
    21 InnerMalformed
    /// The inner packet is a fragment.
    22 InnerFragment
    /// The inner header has IPv4 options or IPv6 extension headers.
    23 InnerHasIpOptions
    /// The inner packet's TTL or hop limit expires at the gateway.
    24 TtlExpired
    /// The inner source address is not in the LAN of the site that the tunnel belongs to.
    25 InnerSourceNotInSite
    /// The destination is not the customer's server.
    26 DestinationNotServer
    /// The packet is neither TCP nor a path-MTU message about a TCP connection.
    27 ProtocolNotAllowed
    /// The TCP port is not the port of the customer's server.
    28 PortNotAllowed
    /// The TCP header's length is invalid.
    29 TcpMalformed
    /// No TCP sends this combination of TCP flags.
    30 TcpFlagsInvalid
    /// The packet from the site belongs to no connection and does not open one.
    31 NoConnection
    /// The packet does not fit the state of its connection.
    32 TcpStateInvalid
    /// The connection belongs to another tunnel.
    33 FlowOwnedByOtherTunnel
    /// An earlier policy allowed the connection, and the current one does not.
    34 FlowNoLongerAllowed
    /// The flow table is full.
    35 FlowTableFull
    /// The segment lies outside the sequence windows of its connection.
    36 OutOfWindow
    /// The RST does not have the sequence number that the other end expects.
    37 RstOutOfSequence
    /// The inner IPv4 header's checksum is wrong.
    38 InnerChecksumWrong
    /// Another CPU was adding or removing the connection's entry, so the sender's next SYN finds it or opens a
    /// new one.
    39 FlowChanging
    /// The packet is larger than the LAN's MTU.
    40 TooBigForLan
    /// The customer has as many flows as its quota allows.
    41 FlowQuotaExceeded
    /// The customer has as many half-open flows as its quota allows.
    42 HalfOpenQuotaExceeded
    /// The customer opens flows faster than its budget allows.
    43 NewFlowsOverBudget
    /// The site has as many flows as its share of the customer's quota allows.
    44 SiteFlowQuotaExceeded
    /// The site has as many half-open flows as its share of the customer's quota allows.
    45 SiteHalfOpenQuotaExceeded
    /// The site opens flows faster than its share of the customer's budget allows.
    46 SiteNewFlowsOverBudget

    // 48 to 63: packets from the cloud LAN, at LAN ingress: rule two, and neighbours (`outer/lan_neighbour.rs`).

    /// The source on the cloud LAN is not the server of any customer.
    48 SourceNotServer
    /// A server tried to open a connection.
    49 NewFromServer
    /// The server answers on a connection that does not exist.
    50 ReplyWithoutConnection
    /// The sender of ARP or neighbour discovery on the cloud LAN sent more than its budget allows.
    51 NeighbourOverBudget
    /// The ARP or neighbour discovery names another MAC address than the frame comes from.
    52 NeighbourContradictsFrame

    // 64 to 127: egress, the last line of defence: `internet_egress`, and 67 `lan_egress`.

    /// A forwarded packet would leave to the internet unencrypted.
    64 PlaintextToInternet
    /// An ESP packet of one tunnel carries the SPI of another tunnel.
    65 SpiOfOtherTunnel
    /// The gateway itself sent a packet that is neither ESP, IKE nor an allowed answer.
    66 GatewayTrafficNotAllowed
    /// A packet would reach the cloud LAN without the gateway's approval.
    67 NotApprovedForLan
}

/// Slots of an array indexed by [`Reason`] number.
pub const REASON_SLOTS: usize = 112;

const _: () = {
    let mut i = 0;
    while i < Reason::ALL.len() {
        assert!((Reason::ALL[i] as usize) < REASON_SLOTS);
        i += 1;
    }
};
