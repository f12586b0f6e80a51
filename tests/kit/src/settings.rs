//! Settings of the programs in the usual world.
//!
//! On the internet the gateway is 203.0.113.1, 2001:db8:113::1 and fe80::113. On the LAN, whose MTU is 1500,
//! it is 10.200.0.1, fd00:200::1 and fe80::200. 198.51.100.0/24 and 2001:db8:51::/48 may reach its TCP port
//! 22. The outer filter runs in XDP. Timeouts are the default ones, and connections in mid-stream are not
//! adopted.
use std::net::IpAddr;

use anyhow::{Context, Result, bail};
use gateway::kernel::interface::Interface;
use gateway_common::{
    layout::{Addresses, ManagementRule, Prefix, Settings},
    limits::MANAGEMENT_RULES,
    tcp::{DOUBTFUL_TIMEOUT_SECONDS, RETRANSMISSION_SLOT, STATE_SLOTS, State, UNACKNOWLEDGED_SLOT},
    time::Ticks,
    wire::{Ipv6, protocol},
};
use ipnet::IpNet;

use crate::text::number;

/// Returns the usual settings.
pub fn settings() -> Settings {
    let (mut internet, mut lan) = (Addresses::default(), Addresses::default());
    for (addresses, texts) in [
        (&mut internet, ["203.0.113.1", "2001:db8:113::1", "fe80::113"]),
        (&mut lan, ["10.200.0.1", "fd00:200::1", "fe80::200"]),
    ] {
        for text in texts {
            add_address(addresses, text.parse().expect("an address")).expect("room for it");
        }
    }
    let mut management = [ManagementRule::default(); MANAGEMENT_RULES];
    for (rule, text) in management.iter_mut().zip(["tcp 22 198.51.100.0/24", "tcp 22 2001:db8:51::/48"]) {
        *rule = management_rule(text).expect("a rule");
    }
    let mut timeouts = [Ticks::default(); STATE_SLOTS];
    for state in State::ALL {
        timeouts[*state as usize] = Ticks::from_seconds(state.default_timeout_seconds());
    }
    for slot in [RETRANSMISSION_SLOT, UNACKNOWLEDGED_SLOT] {
        timeouts[usize::from(slot)] = Ticks::from_seconds(DOUBTFUL_TIMEOUT_SECONDS);
    }
    Settings {
        ready: 1,
        internet_ifindex: 2,
        lan_ifindex: 1,
        lan_mtu: 1500,
        xdp: 1,
        adopt_midstream: 0,
        management_count: 2,
        _reserved: 0,
        internet,
        lan,
        management,
        timeouts,
    }
}

/// Adds an address of the gateway. Fails if there is no room for it.
pub fn add_address(addresses: &mut Addresses, address: IpAddr) -> Result<()> {
    const FULL: &str = "the gateway has no room for more addresses";
    match address {
        IpAddr::V4(address) => {
            *addresses.v4.get_mut(addresses.v4_count as usize).context(FULL)? = address.into();
            addresses.v4_count += 1;
        }
        IpAddr::V6(address) => {
            *addresses.v6.get_mut(addresses.v6_count as usize).context(FULL)? = address.into();
            addresses.v6_count += 1;
        }
    }
    Ok(())
}

/// Parses a rule of the management allow-list: `udp 161 198.51.100.0/24`.
pub fn management_rule(text: &str) -> Result<ManagementRule> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let [name, port, from] = words[..] else { bail!("{text:?} is not `PROTOCOL PORT PREFIX`") };
    let protocol = match name {
        "tcp" => protocol::TCP,
        "udp" => protocol::UDP,
        _ => bail!("{name:?} is neither tcp nor udp"),
    };
    let from = match from.parse::<IpNet>()? {
        IpNet::V4(net) => Prefix::new(Ipv6::from(IpAddr::V4(net.network())), 96 + net.prefix_len()),
        IpNet::V6(net) => Prefix::new(Ipv6::from(net.network()), net.prefix_len()),
    };
    Ok(ManagementRule { from, port: number(port)?, protocol, _reserved: 0 })
}

/// Returns the usual settings for a gateway with these interfaces.
pub fn settings_of(internet: &Interface, lan: &Interface) -> Result<Settings> {
    Ok(Settings {
        internet: addresses_of(internet)?,
        lan: addresses_of(lan)?,
        internet_ifindex: internet.index,
        lan_ifindex: lan.index,
        lan_mtu: lan.mtu,
        ..settings()
    })
}

/// Returns the addresses of an interface as the maps hold them.
fn addresses_of(interface: &Interface) -> Result<Addresses> {
    let mut addresses = Addresses::default();
    for (slot, address) in addresses.v4.iter_mut().zip(&interface.v4) {
        *slot = (*address).into();
    }
    for (slot, address) in addresses.v6.iter_mut().zip(&interface.v6) {
        *slot = (*address).into();
    }
    addresses.v4_count = interface.v4.len().try_into()?;
    addresses.v6_count = interface.v6.len().try_into()?;
    Ok(addresses)
}
