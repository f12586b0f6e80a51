//! The programs and their hooks.

/// A hook that a program is attached to.
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
    /// All hooks, in the order of their numbers.
    pub const ALL: [Self; 5] =
        [Self::InternetXdp, Self::InternetIngress, Self::LanIngress, Self::InternetEgress, Self::LanEgress];

    /// Returns the name of the hook, which is the program's.
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

/// A program that another one tail-calls, by its index in PROGRAMS.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum NextProgram {
    /// After `internet_ingress`, for IPv4 out of a tunnel.
    SiteV4 = 0,
    /// After `internet_ingress`, for IPv6 out of a tunnel.
    SiteV6 = 1,
    /// After `lan_ingress`, for IPv4.
    ServerV4 = 2,
    /// After `lan_ingress`, for IPv6.
    ServerV6 = 3,
    /// After `internet_ingress`, for packets that came out of no tunnel.
    Outer = 4,
}

impl NextProgram {
    /// All programs, in the order of their indices.
    pub const ALL: [Self; 5] = [Self::SiteV4, Self::SiteV6, Self::ServerV4, Self::ServerV6, Self::Outer];

    /// Returns the program's name.
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

/// Bit of skb->mark that only `internet_ingress` sets, beside the tunnel's mark. `lan_egress` lets only
/// approved packets through.
pub const APPROVED_MARK: u32 = 1 << 31;
