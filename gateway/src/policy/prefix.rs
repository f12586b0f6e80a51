//! Addresses and prefixes in the notation of policies.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::fault::{Invalid, quote};

/// Shortest IPv4 prefix. No single network is larger.
const MIN_PREFIX_LENGTH: u8 = 8;
/// Shortest IPv6 prefix.
const MIN_PREFIX_LENGTH6: u8 = 16;

const ADDRESS: &str = "an IP address, such as `10.200.0.11` or `fd00:200::11`";
const PREFIX: &str = "a prefix, such as `192.168.0.0/16` or `fd00:1::/64`";

/// Special-purpose prefixes (RFC 6890): no host has a routable unicast address in them.
const SPECIAL: [(IpNet, &str); 10] = [
    (v4([0, 0, 0, 0], 8), "`this network` (RFC 1122)"),
    (v4([127, 0, 0, 0], 8), "loopback"),
    (v4([169, 254, 0, 0], 16), "link-local"),
    (v4([224, 0, 0, 0], 4), "multicast"),
    (v4([240, 0, 0, 0], 4), "reserved or broadcast"),
    (v6([0; 8], 128), "unspecified"),
    (v6([0, 0, 0, 0, 0, 0, 0, 1], 128), "loopback"),
    (v6([0, 0, 0, 0, 0, 0xffff, 0, 0], 96), "IPv4-mapped"),
    (v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10), "link-local"),
    (v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8), "multicast"),
];

const fn v4([a, b, c, d]: [u8; 4], length: u8) -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), length))
}

const fn v6([a, b, c, d, e, f, g, h]: [u16; 8], length: u8) -> IpNet {
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, g, h), length))
}

/// Parses a prefix of unicast addresses, IPv4 /8 to /32 or IPv6 /16 to /128, with no host bits set.
pub(super) fn parse_prefix(text: &str) -> Result<IpNet, Invalid> {
    let shown = quote(text);
    let Ok(prefix) = text.parse::<IpNet>() else {
        return Err(match text.parse::<IpAddr>() {
            Ok(address) => Invalid::new(
                format!("{shown} has no prefix length"),
                format!("`{}` for this one address, or {PREFIX}", IpNet::from(address)),
            ),
            Err(_) => Invalid::new(format!("{shown} is not a prefix"), PREFIX),
        });
    };
    let least = if is_v4(&prefix) { MIN_PREFIX_LENGTH } else { MIN_PREFIX_LENGTH6 };
    if prefix.prefix_len() < least {
        let expected = format!("a prefix length from {least} to {}", prefix.max_prefix_len());
        return Err(Invalid::new(format!("{shown} is too wide"), expected));
    }
    if let Some((_, name)) = SPECIAL.iter().find(|(special, _)| overlap(special, &prefix)) {
        return Err(Invalid::new(format!("{shown} is {name}: no host has such an address"), PREFIX));
    }
    if prefix.trunc() != prefix {
        return Err(Invalid::new(
            format!("{shown} has host bits set"),
            format!("`{}`, or `{}` for this one address", prefix.trunc(), IpNet::from(prefix.addr())),
        ));
    }
    Ok(prefix)
}

/// Parses one unicast address.
pub(super) fn parse_address(text: &str) -> Result<IpAddr, Invalid> {
    let shown = quote(text);
    let Ok(address) = text.parse::<IpAddr>() else {
        return Err(Invalid::new(format!("{shown} is not an IP address"), ADDRESS));
    };
    match SPECIAL.iter().find(|(special, _)| special.contains(&address)) {
        Some((_, name)) => {
            Err(Invalid::new(format!("{shown} is {name}: no host has such an address"), ADDRESS))
        }
        None => Ok(address),
    }
}

/// Returns true if the prefixes share an address, which they do only if one contains the other.
pub(super) fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

/// Returns true for an IPv4 prefix.
pub(super) fn is_v4(prefix: &IpNet) -> bool {
    matches!(prefix, IpNet::V4(_))
}

/// Returns the name of an address family.
pub(super) fn family(is_v4: bool) -> &'static str {
    if is_v4 { "IPv4" } else { "IPv6" }
}
