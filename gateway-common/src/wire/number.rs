//! Protocol numbers assigned by IEEE and IANA.

/// EtherType numbers (IEEE 802), host byte order.
pub mod ethertype {
    use network_types::eth::EtherType;
    /// IPv4, RFC 894.
    pub const IPV4: u16 = u16::from_be(EtherType::Ipv4 as u16);
    /// IPv6, RFC 2464.
    pub const IPV6: u16 = u16::from_be(EtherType::Ipv6 as u16);
    /// A VLAN tag, IEEE 802.1Q.
    pub const VLAN: u16 = u16::from_be(EtherType::Ieee8021q as u16);
    /// ARP, RFC 826.
    pub const ARP: u16 = u16::from_be(EtherType::Arp as u16);
}

/// IP protocol numbers (IANA).
pub mod protocol {
    use network_types::ip::IpProto;
    /// ICMP, RFC 792.
    pub const ICMP: u8 = IpProto::Icmp as u8;
    /// TCP, RFC 9293.
    pub const TCP: u8 = IpProto::Tcp as u8;
    /// UDP, RFC 768.
    pub const UDP: u8 = IpProto::Udp as u8;
    /// ESP, RFC 4303.
    pub const ESP: u8 = IpProto::Esp as u8;
    /// ICMPv6, RFC 4443.
    pub const ICMPV6: u8 = IpProto::Ipv6Icmp as u8;
    /// The fragment header of IPv6, RFC 8200 section 4.5.
    pub const IPV6_FRAGMENT: u8 = IpProto::Ipv6Frag as u8;
}

const _: () = assert!(ethertype::IPV4 == 0x0800 && ethertype::ARP == 0x0806);
