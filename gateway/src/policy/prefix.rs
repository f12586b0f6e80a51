//! IPv4 addresses and prefixes as they are written in policies.
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

use super::fault::{Invalid, quote};

/// A shorter prefix would take in more than any one network holds.
const MIN_PREFIX_LENGTH: u8 = 8;

/// Prefixes in which no host has its address (RFC 6890).
const SPECIAL: [(Ipv4Net, &str); 5] = [
    (Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 8), "`this network` (RFC 1122)"),
    (Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8), "loopback"),
    (Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 0, 0), 16), "link-local"),
    (Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 4), "multicast"),
    (Ipv4Net::new_assert(Ipv4Addr::new(240, 0, 0, 0), 4), "reserved or broadcast"),
];

/// A prefix of unicast addresses, /8 to /32, with no host bits set.
pub(super) fn parse_prefix(text: &str) -> Result<Ipv4Net, Invalid> {
    let example = "an IPv4 prefix, such as `192.168.0.0/16`";
    let shown = quote(text);
    let Ok(prefix) = text.parse::<Ipv4Net>() else {
        if text.parse::<Ipv6Net>().is_ok() || text.parse::<Ipv6Addr>().is_ok() {
            return Err(Invalid::new(format!("{shown} is IPv6, which is not supported yet"), example));
        }
        if text.parse::<Ipv4Addr>().is_ok() {
            return Err(Invalid::new(
                format!("{shown} has no prefix length"),
                format!("`{text}/32` for this one address, or {example}"),
            ));
        }
        return Err(Invalid::new(format!("{shown} is not an IPv4 prefix"), example));
    };
    if prefix.prefix_len() < MIN_PREFIX_LENGTH {
        return Err(Invalid::new(format!("{shown} is too wide"), "a prefix length from 8 to 32"));
    }
    if let Some((_, name)) = SPECIAL.iter().find(|(special, _)| overlap(special, &prefix)) {
        return Err(Invalid::new(format!("{shown} is {name}: no host has such an address"), example));
    }
    if prefix.trunc() != prefix {
        return Err(Invalid::new(
            format!("{shown} has host bits set"),
            format!("`{}`, or `{}/32` for this one address", prefix.trunc(), prefix.addr()),
        ));
    }
    Ok(prefix)
}

/// One unicast address.
pub(super) fn parse_address(text: &str) -> Result<Ipv4Addr, Invalid> {
    let example = "an IPv4 address, such as `10.200.0.11`";
    let shown = quote(text);
    let Ok(address) = text.parse::<Ipv4Addr>() else {
        let fault = match text.parse::<Ipv6Addr>() {
            Ok(_) => format!("{shown} is IPv6, which is not supported yet"),
            Err(_) => format!("{shown} is not an IPv4 address"),
        };
        return Err(Invalid::new(fault, example));
    };
    match SPECIAL.iter().find(|(special, _)| special.contains(&address)) {
        Some((_, name)) => {
            Err(Invalid::new(format!("{shown} is {name}: no host has such an address"), example))
        }
        None => Ok(address),
    }
}

/// Whether two prefixes have an address in common. Prefixes do so only if one contains the other.
pub(super) fn overlap(a: &Ipv4Net, b: &Ipv4Net) -> bool {
    a.contains(b) || b.contains(a)
}
