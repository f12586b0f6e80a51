//! Programs, and where they are attached.

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
