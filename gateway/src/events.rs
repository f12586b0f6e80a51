//! Drop events and the programs' own log, from the kernel's rings to the daemon's log.
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

use crate::{kernel::maps, kernel::pins::Pins, registry::Assignment};

/// Drop events that are taken at a time, so that a flood of them does not keep the daemon from the rest.
const DROPS_AT_A_TIME: usize = 256;

/// Both rings.
pub struct Events {
    drops: AsyncFd<RingBuf<MapData>>,
    log: AsyncFd<EbpfLogger<&'static dyn Log>>,
}

impl Events {
    /// Opens them.
    pub fn open(pins: &Pins, ebpf: &mut Ebpf) -> Result<Self> {
        let log = EbpfLogger::init(ebpf).context("open the programs' log")?;
        let drops = maps::events(pins)?;
        // SAFETY: both own their descriptor for as long as they live, and it stays the same one.
        unsafe { Ok(Self { drops: AsyncFd::register(drops)?, log: AsyncFd::register(log)? }) }
    }

    /// Waits until there is something, and logs it. Safe to cancel.
    pub async fn log(&mut self, ids: &Assignment) -> Result<()> {
        tokio::select! {
            guard = self.drops.readable_mut() => {
                let mut guard = guard?;
                let names = names(ids);
                for _ in 0..DROPS_AT_A_TIME {
                    let Some(item) = guard.get_inner_mut().next() else {
                        guard.clear_ready();
                        break;
                    };
                    let bytes: &[u8] = &item;
                    if let Some(event) = bytes.read::<Raw>(0) {
                        describe(&event.0, &names);
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

/// Names by customer number, and by tunnel number.
type Names<'a> = (HashMap<u32, &'a str>, HashMap<u32, &'a str>);

fn names(ids: &Assignment) -> Names<'_> {
    let customers = ids.iter().map(|(name, ids)| (ids.id.get(), name.as_str())).collect();
    let sites =
        ids.iter().flat_map(|(_, ids)| ids.tunnels.iter()).map(|(name, id)| (id.get(), name.as_str()));
    (customers, sites.collect())
}

fn describe(event: &DropEvent, (customers, sites): &Names<'_>) {
    let unknown = "-";
    info!(
        target: "drop",
        reason = Reason::from_number(event.reason).map_or("?", Reason::name),
        customer = customers.get(&event.customer).copied().unwrap_or(unknown),
        site = sites.get(&event.tunnel).copied().unwrap_or(unknown),
        hook = Hook::ALL.get(usize::from(event.hook)).map_or("?", |hook| hook.name()),
        bytes = event.length,
        "{}",
        packet(event)
    );
}

/// `192.168.1.2:40000 > 10.200.0.11:80 tcp SYN`, `[fd00:1::2]:40000 > [fd00:200::11]:80 tcp SYN`
fn packet(event: &DropEvent) -> String {
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
            "a frame whose addresses were not read".to_owned()
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

/// A [`DropEvent`] as bytes of the ring.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Raw(DropEvent);

// SAFETY: repr(C) integers, every byte of them named (layout.rs).
unsafe impl gateway_common::wire::Wire for Raw {}
