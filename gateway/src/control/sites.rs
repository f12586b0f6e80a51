//! The policy's sites by the identity that charon authenticates, and what each may negotiate.
use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use gateway_common::{ids::TunnelId, layout::map_list::REQIDS_PER_SITE};
use ipnet::{IpNet, IpSubnets, Ipv4Subnets, Ipv6Subnets};

use crate::{
    policy::{Customer, CustomerName, Policy, Site, connection_name},
    registry::Assignment,
    strongswan::TrafficSelector,
};

/// Prefixes that stand for one address range in a traffic selector. A range that needs more is cut off, and what is
/// beyond does not pass.
const PREFIXES_OF_A_RANGE: usize = 16;

/// All sites of a policy.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Sites {
    by_identity: HashMap<String, TunnelId>,
    rules: HashMap<TunnelId, SiteRule>,
    reqid_limit: u32,
}

/// The part of the policy that a site's SAs are compared with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SiteRule {
    /// The site's name, `customer.site`.
    pub name: String,
    /// The customer, and the site's place in the customer's list.
    pub place: (CustomerName, usize),
    /// The addresses of the customer's server.
    pub server: Vec<IpAddr>,
    /// The prefixes of the site's LAN.
    pub lan: Vec<IpNet>,
}

impl Sites {
    /// Indexes the sites of a policy.
    pub fn new(policy: &Policy, ids: &Assignment) -> Self {
        let reqid_limit = policy.gateway.limits.tunnels.saturating_mul(REQIDS_PER_SITE);
        let mut sites = Self { reqid_limit, ..Self::default() };
        for customer in policy.customers.values() {
            for (index, site) in customer.sites.iter().enumerate() {
                if let Some(id) = ids.tunnel(&customer.name, &site.name) {
                    sites.by_identity.insert(site.identity.to_string(), id);
                    sites.rules.insert(id, SiteRule::new(customer, index, site));
                }
            }
        }
        sites
    }

    /// Returns the site of an identity. Compares without regard to case, as strongSwan does; policies have lower case
    /// only.
    pub fn by_identity(&self, identity: &str) -> Option<TunnelId> {
        self.by_identity.get(&identity.to_ascii_lowercase()).copied()
    }

    /// Returns the highest reqid that the table of bindings has room for.
    pub fn reqid_limit(&self) -> u32 {
        self.reqid_limit
    }

    /// Iterates over the numbers of all sites.
    pub fn numbers(&self) -> impl Iterator<Item = TunnelId> {
        self.rules.keys().copied()
    }

    /// Returns what a site's SAs are compared with.
    pub fn rule(&self, site: TunnelId) -> Option<&SiteRule> {
        self.rules.get(&site)
    }
}

impl SiteRule {
    fn new(customer: &Customer, index: usize, site: &Site) -> Self {
        Self {
            name: connection_name(&customer.name, &site.name),
            place: (customer.name.clone(), index),
            server: customer.server.addresses().collect(),
            lan: site.lan.clone(),
        }
    }

    /// Returns the part of the site's LAN that a CHILD_SA with these traffic selectors carries to the server; empty if
    /// the selectors and the policy have nothing in common. Selectors may be narrower than the policy, and wider, as
    /// those of route-based routers are (RFC 7296, 2.9).
    pub fn negotiated(&self, local: &[TrafficSelector], remote: &[TrafficSelector]) -> Vec<IpNet> {
        let local: Vec<IpNet> = local.iter().flat_map(prefixes).collect();
        let reaches_server = |lan: &IpNet| {
            let mut server = self.server.iter().filter(|address| address.is_ipv4() == lan.addr().is_ipv4());
            server.any(|address| local.iter().any(|net| net.contains(address)))
        };
        let remote: Vec<IpNet> = remote.iter().flat_map(prefixes).collect();
        let lan = self.lan.iter().filter(|lan| reaches_server(lan));
        let mut parts: Vec<IpNet> =
            lan.flat_map(|lan| remote.iter().filter_map(|net| intersection(lan, net))).collect();
        parts.sort_unstable();
        parts.dedup();
        parts
    }
}

/// Returns the smaller of two prefixes if it lies in the other one.
fn intersection(a: &IpNet, b: &IpNet) -> Option<IpNet> {
    if a.contains(b) {
        Some(b.trunc())
    } else if b.contains(a) {
        Some(a.trunc())
    } else {
        None
    }
}

/// Returns the prefixes of a traffic selector, as charon prints it (`ts_printf_hook` in strongSwan's
/// traffic_selector.c): `10.1.0.0/16`, `10.1.0.0/16[tcp/http]` or `10.1.0.1..10.1.0.9`. A selector of another protocol
/// than TCP has none: only TCP passes. Ports are left to the kernel and to the policy: an answer outside of the
/// selector matches no XFRM policy, and plaintext never leaves.
fn prefixes(selector: &TrafficSelector) -> Vec<IpNet> {
    let text = match selector {
        TrafficSelector::Net(net) => return vec![*net],
        TrafficSelector::Other(text) => text,
    };
    let (addresses, protocol) = match text.split_once('[') {
        Some((addresses, rest)) => {
            (addresses, rest.trim_end_matches(']').split('/').next().unwrap_or_default())
        }
        None => (&**text, "tcp"),
    };
    if !matches!(protocol, "tcp" | "6" | "0") {
        return Vec::new();
    }
    if let Ok(net) = addresses.parse() {
        return vec![net];
    }
    let Some((first, last)) = addresses.split_once("..") else { return Vec::new() };
    let range = match (first.parse::<IpAddr>(), last.parse::<IpAddr>()) {
        (Ok(IpAddr::V4(first)), Ok(IpAddr::V4(last))) => v4_range(first, last),
        (Ok(IpAddr::V6(first)), Ok(IpAddr::V6(last))) => v6_range(first, last),
        _ => return Vec::new(),
    };
    range.take(PREFIXES_OF_A_RANGE).collect()
}

fn v4_range(first: Ipv4Addr, last: Ipv4Addr) -> IpSubnets {
    IpSubnets::V4(Ipv4Subnets::new(first, last, 0))
}

fn v6_range(first: Ipv6Addr, last: Ipv6Addr) -> IpSubnets {
    IpSubnets::V6(Ipv6Subnets::new(first, last, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule() -> SiteRule {
        let lan = ["192.168.0.0/16", "10.20.0.0/16", "fd00:1::/64"];
        SiteRule {
            name: "acme.berlin".into(),
            place: ("acme".parse().unwrap(), 0),
            server: vec!["10.200.0.11".parse().unwrap(), "fd00:200::11".parse().unwrap()],
            lan: lan.map(|net| net.parse().unwrap()).into(),
        }
    }

    fn negotiated(local: &[&str], remote: &[&str]) -> Vec<String> {
        let selector = |text: &&str| match text.parse() {
            Ok(net) => TrafficSelector::Net(net),
            Err(_) => TrafficSelector::Other((*text).to_owned()),
        };
        let selectors = |texts: &[&str]| texts.iter().map(selector).collect::<Vec<_>>();
        let parts = rule().negotiated(&selectors(local), &selectors(remote));
        parts.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn narrow_selectors_narrow_the_lan() {
        assert_eq!(negotiated(&["10.200.0.11/32"], &["192.168.7.0/24"]), ["192.168.7.0/24"]);
        assert_eq!(
            negotiated(&["10.200.0.0/24"], &["192.168.7.0/24", "10.20.0.0/16"]),
            ["10.20.0.0/16", "192.168.7.0/24"]
        );
    }

    #[test]
    fn wide_selectors_leave_the_policys_lan() {
        assert_eq!(negotiated(&["0.0.0.0/0"], &["0.0.0.0/0"]), ["10.20.0.0/16", "192.168.0.0/16"]);
        assert_eq!(negotiated(&["0.0.0.0/0", "::/0"], &["::/0"]), ["fd00:1::/64"]);
    }

    #[test]
    fn selectors_without_the_server_or_the_lan_have_nothing_in_common_with_the_policy() {
        for (local, remote) in [
            ("10.200.0.99/32", "192.168.0.0/16"),
            ("10.200.0.11/32", "10.99.0.0/16"),
            ("fd00:200::11/128", "192.168.0.0/16"),
            ("10.200.0.11/32", "fd00:1::/64"),
            ("dynamic", "192.168.0.0/16"),
        ] {
            assert_eq!(negotiated(&[local], &[remote]), [""; 0], "{local} {remote}");
        }
    }

    #[test]
    fn ports_and_ranges_are_read_and_other_protocols_carry_nothing() {
        assert_eq!(negotiated(&["10.200.0.11/32[tcp/http]"], &["192.168.0.0/16[tcp]"]), ["192.168.0.0/16"]);
        assert_eq!(
            negotiated(&["10.200.0.11/32"], &["192.168.1.2..192.168.1.5"]),
            ["192.168.1.2/31", "192.168.1.4/31"]
        );
        assert_eq!(negotiated(&["10.200.0.11/32[udp]"], &["192.168.0.0/16"]), [""; 0]);
        assert_eq!(negotiated(&["10.200.0.11/32"], &["192.168.0.0/16[icmp]", "x..y"]), [""; 0]);
    }
}
