//! Why a packet was dropped: the one list. Numbers and names are stable; a reason says what was
//! wrong with the packet, not which program noticed.

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $number:literal $name:ident)+) => {
        /// Why a packet was dropped.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u8)]
        pub enum Reason {
            $($(#[doc = $doc])+ $name = $number,)+
        }

        impl Reason {
            /// All reasons, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// The reason of this number.
            pub const fn from_number(number: u8) -> Option<Self> {
                match number {
                    $($number => Some(Self::$name),)+
                    _ => None,
                }
            }

            /// Its stable name, as in metrics, logs and replay cases.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)+
                }
            }

            /// One sentence for people.
            pub const fn sentence(self) -> &'static str {
                match self {
                    $(Self::$name => concat!($($doc),+).trim_ascii(),)+
                }
            }
        }
    };
}

reasons! {
    /// The gateway's settings are not in their map yet, so nothing is allowed.
    1 NotConfigured
    /// The outer frame is shorter than its headers say, or its headers contradict one another.
    2 OuterMalformed
    /// The outer frame is neither IPv4, IPv6 nor ARP.
    3 OuterNotIp
    /// The outer header has IPv4 options, or IPv6 extension headers other than one fragment header.
    4 OuterHasIpOptions
    /// The outer packet is not for an address of the gateway.
    5 OuterNotGatewayAddress
    /// The outer packet is neither ESP, IKE, management nor an ICMP error that path-MTU discovery needs.
    6 OuterProtocolNotAllowed
    /// The outer packet is UDP or TCP to a port that is neither IKE's nor allowed for management.
    7 OuterPortNotAllowed
    /// Its source sent more IKE than its budget has.
    8 IkeOverBudget
    /// Its source sent more ESP of unknown SPIs than its budget has.
    9 UnknownSpiOverBudget
    /// Its source sent more fragments than its budget has.
    10 FragmentsOverBudget
    /// Its source sent more ICMP than its budget has.
    11 IcmpOverBudget

    /// The SA that decrypted the packet has a reqid that no tunnel has.
    16 UnknownTunnel
    /// The SA's reqid and the packet's XFRM mark name different tunnels.
    17 MarkContradictsTunnel
    /// The SA's SPI is known to belong to another tunnel.
    18 SpiContradictsTunnel
    /// The tunnel is not up with the site's authenticated identity.
    19 TunnelDown
    /// The inner packet is neither IPv4 nor IPv6.
    20 InnerNotIp
    /// The inner packet is shorter than its headers say, or its headers contradict one another.
    21 InnerMalformed
    /// The inner packet is a fragment.
    22 InnerFragment
    /// The inner header has IPv4 options or IPv6 extension headers.
    23 InnerHasIpOptions
    /// The inner packet's TTL or hop limit ends at the gateway.
    24 TtlExpired
    /// The inner source address is not in the LAN of the site whose tunnel it came through.
    25 InnerSourceNotInSite
    /// The destination is not the customer's server.
    26 DestinationNotServer
    /// The packet is neither TCP nor a path-MTU message about a TCP connection.
    27 ProtocolNotAllowed
    /// The TCP port is not the one the customer's server offers.
    28 PortNotAllowed
    /// The TCP header is shorter or longer than it may be.
    29 TcpMalformed
    /// The TCP flags are a combination that no TCP sends.
    30 TcpFlagsInvalid
    /// The packet from the LAN belongs to no connection and does not open one.
    31 NoConnection
    /// The packet does not fit the state of its connection.
    32 TcpStateInvalid
    /// The connection belongs to another tunnel.
    33 FlowOwnedByOtherTunnel
    /// The connection was allowed by an earlier policy and is not by this one.
    34 FlowNoLongerAllowed
    /// The flow table is full.
    35 FlowTableFull
    /// The segment lies outside what both ends of its connection can mean.
    36 OutOfWindow
    /// The RST does not have the sequence number that the other end expects.
    37 RstOutOfSequence
    /// The inner IPv4 header's checksum is wrong.
    38 InnerChecksumWrong
    /// The connection's entry was being added or removed at that moment; the sender's next SYN finds it or
    /// opens another one.
    39 FlowChanging
    /// The packet is larger than the LAN's MTU.
    40 TooBigForLan
    /// The customer has as many flows as its quota allows.
    41 FlowQuotaExceeded
    /// The customer has as many half-open flows as its quota allows.
    42 HalfOpenQuotaExceeded
    /// The customer opens flows faster than its budget allows.
    43 NewFlowsOverBudget

    /// The source on the cloud LAN is not the server of any customer.
    48 SourceNotServer
    /// A server tries to open a connection.
    49 NewFromServer
    /// The server answers to a connection that does not exist.
    50 ReplyWithoutConnection

    /// A packet that is not the gateway's own would leave to the internet unencrypted.
    64 PlaintextToInternet
    /// An ESP packet of one tunnel carries the SPI of another.
    65 SpiOfOtherTunnel
    /// The gateway itself sends something that is neither ESP, IKE nor an allowed answer.
    66 GatewayTrafficNotAllowed
    /// A packet would reach the cloud LAN without the gateway's approval.
    67 NotApprovedForLan
}

/// Slots for counters by [`Reason`] number: a power of two, so that a mask bounds the index.
pub const REASON_SLOTS: usize = 128;

const _: () = {
    let mut i = 0;
    while i < Reason::ALL.len() {
        assert!((Reason::ALL[i] as usize) < REASON_SLOTS);
        i += 1;
    }
};
