//! The surroundings of a measured gateway: a network namespace with the gateway and the far ends of its two
//! veths.
//!
//! Both ends share a namespace so that the identity in an skb survives the wire. `replay_identity` or the
//! sending socket writes that identity, as decryption would. Whole frames enter at the far ends and are
//! dropped there on arrival, so only the gateway routes.
use std::{collections::BTreeMap, net::Ipv4Addr, os::fd::OwnedFd, time::Duration};

use anyhow::{Context, Result};
use gateway_tests_kit::{
    bpf::{Classifier, Counter, Link, Way},
    namespace::Namespace,
    process, raw,
    text::mac_text,
};
use nix::{
    sys::time::TimeValLike,
    time::{ClockId, clock_gettime},
};

use super::{
    frames::{Batch, GATEWAY_MAC, Origin, SERVER_MAC, SITE_MAC, Side},
    rules::{LAN_INTERFACE, SERVERS, SITE_INTERFACE, server},
};

/// The interface that frames from sites enter.
pub const SITES_END: &str = "sites";
/// The interface that frames from servers enter.
const SERVERS_END: &str = "servers";
/// The gateway's next hop to the sites.
const ROUTER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 254);

/// A gateway's surroundings.
pub struct Ground {
    /// The namespace of the gateway and both far ends.
    pub namespace: Namespace,
    /// Sockets by customer. All sites share number 0: their packets get an identity on the way.
    senders: BTreeMap<u32, OwnedFd>,
    sinks: [Sink; 2],
    _links: Vec<Link>,
}

/// A program that counts and drops all packets, with its counter.
struct Sink {
    counter: Counter,
    program: Classifier,
}

impl Sink {
    fn new() -> Result<Self> {
        let counter = Counter::new()?;
        Ok(Self { program: Classifier::counting_drop(&counter)?, counter })
    }
}

/// The outcome of a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Passed {
    /// Time to send the batch. It includes forwarding, because one CPU does all the work.
    pub lasted: Duration,
    /// Number of frames that arrived, by the side they were sent from.
    pub arrived: [u64; 2],
}

impl Ground {
    /// Makes a ground. The servers of `customers` are neighbours of the gateway and can send.
    pub fn create(name: &str, customers: &[u32]) -> Result<Self> {
        let namespace = Namespace::create(name, true)?;
        let mut ip = namespace.command("ip");
        process::run_with_input(ip.args(["-batch", "-"]), &links(customers))?;
        let sinks = [Sink::new()?, Sink::new()?];
        let (senders, links) = namespace.enter(|| {
            // Frames from sites arrive at the servers' end.
            let links = [(SERVERS_END, Side::Site), (SITES_END, Side::Lan)]
                .map(|(end, side)| sinks[side as usize].program.attach(end, Way::Ingress));
            let [site, lan] = links;
            let mut senders = BTreeMap::from([(0, raw::sender(SITES_END, 0)?)]);
            for customer in customers {
                senders.insert(*customer, raw::sender(SERVERS_END, *customer)?);
            }
            Ok((senders, vec![site?, lan?]))
        })?;
        Ok(Self { namespace, senders, sinks, _links: links })
    }

    /// Drops and counts all packets at the gateway's first ingress hook, so that nothing is forwarded any
    /// more.
    pub fn drop_at_ingress(&mut self) -> Result<()> {
        let sinks = &self.sinks;
        let links = self.namespace.enter(|| {
            [(SITE_INTERFACE, Side::Site), (LAN_INTERFACE, Side::Lan)]
                .map(|(interface, side)| sinks[side as usize].program.attach(interface, Way::Ingress))
                .into_iter()
                .collect::<Result<Vec<_>>>()
        })?;
        self._links.extend(links);
        Ok(())
    }

    /// Removes the namespace.
    pub fn remove(self) -> Result<()> {
        self.namespace.remove()
    }

    /// Sends a batch and counts the frames that arrive.
    pub fn send(&self, batch: &Batch) -> Result<Passed> {
        let sender = |origin: Origin| {
            let key = if origin.side == Side::Site { 0 } else { origin.customer };
            self.senders.get(&key).with_context(|| format!("customer {key} has no server here"))
        };
        let frames: Vec<_> =
            batch.iter().map(|(origin, frame)| Ok((sender(origin)?, frame))).collect::<Result<_>>()?;
        let before = self.arrived()?;
        let start = now()?;
        for (socket, frame) in frames {
            raw::put(socket, frame)?;
        }
        let end = now()?;
        let after = self.arrived()?;
        Ok(Passed {
            lasted: end.saturating_sub(start),
            arrived: [after[0] - before[0], after[1] - before[1]],
        })
    }

    fn arrived(&self) -> Result<[u64; 2]> {
        Ok([self.sinks[0].counter.get()?, self.sinks[1].counter.get()?])
    }
}

/// Returns the interfaces, addresses and neighbours as lines for `ip -batch`.
fn links(customers: &[u32]) -> String {
    let mut lines = String::new();
    for (near, far, far_mac) in
        [(SITE_INTERFACE, SITES_END, SITE_MAC), (LAN_INTERFACE, SERVERS_END, SERVER_MAC)]
    {
        let (near_mac, far_mac) = (mac_text(GATEWAY_MAC), mac_text(far_mac));
        lines += &format!(
            "link add {near} address {near_mac} type veth peer name {far} address {far_mac}\n\
             link set {near} up\nlink set {far} up\n"
        );
    }
    let (first, last) = (Ipv4Addr::from_bits(SERVERS.0.to_bits() | ((1 << (32 - SERVERS.1)) - 2)), SERVERS.1);
    let router = mac_text(SITE_MAC);
    lines += &format!(
        "link set lo up\naddr add 203.0.113.1/24 dev {SITE_INTERFACE}\naddr add {first}/{last} dev {LAN_INTERFACE}\n\
         neigh add {ROUTER} lladdr {router} dev {SITE_INTERFACE} nud permanent\n\
         route add default via {ROUTER} dev {SITE_INTERFACE}\n"
    );
    for customer in customers {
        let (server, mac) = (server(*customer), mac_text(SERVER_MAC));
        lines += &format!("neigh replace {server} lladdr {mac} dev {LAN_INTERFACE} nud permanent\n");
    }
    lines
}

/// Reads the clock used for measurements.
pub fn now() -> Result<Duration> {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC_RAW).context("read the clock")?;
    Ok(Duration::from_nanos(time.num_nanoseconds().cast_unsigned()))
}
