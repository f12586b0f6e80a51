//! The customers, each with one site.
//!
//! | customer and tunnel | server | LANs | device | peer | inbound SPI |
//! |---|---|---|---|---|---|
//! | N | 10.200.0.10+N, fd00:200::10+N | 10.N.0.0/16, fd00:N::/48 | .0.2, ::2 | 198.18.0.N | 0xc0de0000+N |
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Number of customers that must not notice the flood.
pub const VICTIMS: u32 = 8;
/// The customer whose site floods.
pub const ATTACKER: Party = Party { id: VICTIMS + 1 };
/// The port that servers offer.
pub const PORT: u16 = 80;
/// The gateway's addresses on the internet.
pub const GATEWAY: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, 1)),
];
/// The gateway's MAC address on each of its interfaces.
pub const GATEWAY_MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0, 1];
/// The MAC address of the router that stands for the internet on the gateway's link.
pub const ROUTER_MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0, 0xfe];

/// Returns the address of a new site: one of 198.19.0.0/16, of which the internet's namespace has all.
pub fn new_site(number: u16) -> Ipv4Addr {
    let [high, low] = number.to_be_bytes();
    Ipv4Addr::new(198, 19, high, low)
}

/// Returns true for the address of a new site.
pub fn is_new_site(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(address) if address.octets()[..2] == [198, 19])
}

/// A customer with its one site and the site's tunnel.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Party {
    /// Customer id and tunnel id, 1 to [`VICTIMS`] + 1.
    pub id: u32,
}

impl Party {
    /// Returns the customers that must not notice the flood.
    pub fn victims() -> impl Iterator<Item = Self> {
        (1..=VICTIMS).map(|id| Self { id })
    }

    /// Returns all customers.
    pub fn all() -> impl Iterator<Item = Self> {
        Self::victims().chain([ATTACKER])
    }

    /// Returns the SPI that its peer sends with.
    pub fn spi(self) -> u32 {
        0xc0de_0000 + self.id
    }

    /// Returns the source MAC address of its packets, which tells `replay_identity` the SPI.
    pub fn mac(self) -> [u8; 6] {
        let [a, b, c, d] = self.spi().to_be_bytes();
        [0x02, 0, a, b, c, d]
    }

    /// Returns the name of the gateway's interface to its site.
    pub fn interface(self) -> String {
        format!("site{}", self.id)
    }

    /// Returns its server's IPv4 address.
    pub fn server4(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 200, 0, 10 + self.id as u8)
    }

    /// Returns its server's IPv6 address.
    pub fn server6(self) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, 0x200, 0, 0, 0, 0, 0, 0x10 + self.id as u16)
    }

    /// Returns the IPv4 address of `host` in its site's LAN.
    pub fn lan4(self, host: u16) -> Ipv4Addr {
        let [high, low] = host.to_be_bytes();
        Ipv4Addr::new(10, self.id as u8, high, low)
    }

    /// Returns the IPv6 address of `host` in its site's LAN.
    pub fn lan6(self, host: u16) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, self.id as u16, 0, 0, 0, 0, 0, host)
    }

    /// Returns its peer's outer address.
    pub fn peer(self) -> Ipv4Addr {
        Ipv4Addr::new(198, 18, 0, self.id as u8)
    }
}
