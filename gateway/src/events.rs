//! Forwards drop events and the programs' own log from the kernel's ring buffers to the daemon's log.
use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
};

use anyhow::{Context, Result};
use aya::{
    Ebpf,
    maps::{MapData, RingBuf},
};
use aya_log::EbpfLogger;
use gateway_common::{
    layout::{DropEvent, Hook},
    packet::flag,
    reason::Reason,
    wire::{Frame, protocol},
};
use log::Log;
use tokio::io::unix::AsyncFd;
use tracing::info;

use crate::{
    kernel::{maps, pins::Pins},
    policy::{CustomerName, SiteName},
    registry::Assignment,
};

/// Drop events logged per wake-up, so that a flood of them does not starve the daemon's other tasks.
const DROPS_PER_WAKEUP: usize = 256;

/// The ring buffers of drop events and of the programs' log.
pub struct Events {
    drops: AsyncFd<RingBuf<MapData>>,
    log: AsyncFd<EbpfLogger<&'static dyn Log>>,
}

impl Events {
    /// Opens both ring buffers.
    pub fn open(pins: &Pins, ebpf: &mut Ebpf) -> Result<Self> {
        let log = EbpfLogger::init(ebpf).context("cannot open the programs' log")?;
        let drops = maps::events(pins)?;
        // SAFETY: both values own their file descriptor for their whole lifetime and never replace it.
        unsafe { Ok(Self { drops: AsyncFd::register(drops)?, log: AsyncFd::register(log)? }) }
    }

    /// Waits for events and logs them. Cancellation safe.
    pub async fn log(&mut self, names: &Names) -> Result<()> {
        tokio::select! {
            guard = self.drops.readable_mut() => {
                let mut guard = guard?;
                for _ in 0..DROPS_PER_WAKEUP {
                    let Some(item) = guard.get_inner_mut().next() else {
                        guard.clear_ready();
                        break;
                    };
                    let bytes: &[u8] = &item;
                    if let Some(event) = bytes.read::<RawDropEvent>(0) {
                        log_drop(&event.0, names);
                    }
                }
            }
            guard = self.log.readable_mut() => {
                let mut guard = guard?;
                guard.get_inner_mut().flush();
                guard.clear_ready();
            }
        }
        Ok(())
    }
}

/// Names for the log: those of customers by customer number, and of sites by site number.
#[derive(Default)]
pub struct Names {
    customers: HashMap<u32, CustomerName>,
    sites: HashMap<u32, SiteName>,
}

impl Names {
    /// Collects the names of one policy.
    pub fn new(ids: &Assignment) -> Self {
        let sites = ids.iter().flat_map(|(_, ids)| ids.tunnels.iter());
        Self {
            customers: ids.iter().map(|(name, ids)| (ids.id.get(), name.clone())).collect(),
            sites: sites.map(|(name, id)| (id.get(), name.clone())).collect(),
        }
    }
}

fn log_drop(event: &DropEvent, names: &Names) {
    let unknown = "-";
    info!(
        target: "drop",
        reason = Reason::from_number(event.reason).map_or("?", Reason::name),
        customer = names.customers.get(&event.customer).map_or(unknown, CustomerName::as_str),
        site = names.sites.get(&event.tunnel).map_or(unknown, SiteName::as_str),
        hook = Hook::ALL.get(usize::from(event.hook)).map_or("?", |hook| hook.name()),
        bytes = event.length,
        "{}",
        describe_packet(event)
    );
}

/// Returns text such as `192.168.1.2:40000 > 10.200.0.11:80 tcp SYN`.
fn describe_packet(event: &DropEvent) -> String {
    let (source, destination): (IpAddr, IpAddr) = (event.source.into(), event.destination.into());
    let from = SocketAddr::new(source, event.source_port);
    let to = SocketAddr::new(destination, event.destination_port);
    match event.protocol {
        protocol::TCP => format!("{from} > {to} tcp {}", flags(event.tcp_flags)),
        protocol::UDP => format!("{from} > {to} udp"),
        protocol::ICMP => format!("{source} > {destination} icmp"),
        protocol::ICMPV6 => format!("{source} > {destination} icmp6"),
        protocol::ESP => format!("{source} > {destination} esp"),
        0 if source.is_unspecified() && destination.is_unspecified() => {
            "frame without readable addresses".to_owned()
        }
        other => format!("{source} > {destination} protocol {other}"),
    }
}

fn flags(flags: u8) -> String {
    let names = [
        (flag::SYN, "SYN"),
        (flag::FIN, "FIN"),
        (flag::RST, "RST"),
        (flag::PSH, "PSH"),
        (flag::ACK, "ACK"),
        (flag::URG, "URG"),
    ];
    let set: Vec<&str> = names.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, name)| *name).collect();
    if set.is_empty() { "no flags".to_owned() } else { set.join(",") }
}

/// A [`DropEvent`] in the byte layout of the ring buffer.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct RawDropEvent(DropEvent);

// SAFETY: a repr(C) struct of integers without padding (gateway_common::layout).
unsafe impl gateway_common::wire::Wire for RawDropEvent {}
