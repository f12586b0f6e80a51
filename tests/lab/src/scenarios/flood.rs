//! Scenarios under a flood of IKE from strangers.
use std::{
    net::Ipv4Addr,
    os::fd::OwnedFd,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Result, ensure};
use gateway_common::reason::Reason;
use gateway_tests_kit::{
    frame::{ike, ike_sa_init, spoof},
    packet::{Ethernet, Ip},
    raw::{packet_socket, put_if_room},
};

use super::tunnels::{Trigger, child_by_gateway, child_by_site, ike_by_site, refused_in_rekey};
use crate::{
    gateway::increase,
    lab::Lab,
    scenario::Scenario,
    topology::{GATEWAY, GATEWAY_MAC, INTERNET_HOST, INTERNET_MAC},
};

pub const SCENARIOS: &[Scenario] =
    &[Scenario { name: "rekeys_succeed_while_a_million_sources_send_ike", run: rekeys_under_flood }];

const SOURCES: u32 = 1_000_000;
/// Packets sent in one go: less than half of a veth's ring (VETH_RING_SIZE of drivers/net/veth.c). The pause
/// after it gives the emulated machine's other processor its turn, so that only the gateway drops packets.
const BURST: u32 = 100;
const PAUSE: Duration = Duration::from_millis(1);

/// Both ends rekey IKE_SAs and CHILD_SAs, again and again, while a million spoofed addresses send one
/// IKE_SA_INIT each.
fn rekeys_under_flood(lab: &mut Lab) -> Result<()> {
    let before = lab.drops()?;
    let wire = packet_socket(&lab.topology.internet, "gateway")?;
    let ended = AtomicBool::new(false);
    let (rekeyed, flooded) = thread::scope(|scope| {
        let flood = scope.spawn(|| flood(&wire, &ended));
        let mut rekeyed = rekey_all(lab);
        while rekeyed.is_ok() && !flood.is_finished() {
            rekeyed = rekey_all(lab);
        }
        ended.store(true, Ordering::Relaxed);
        (rekeyed, flood.join())
    });
    rekeyed?;
    flooded.map_err(|_| anyhow::anyhow!("the flood panicked"))??;
    let dropped: u64 = increase(&before, &lab.drops()?).values().sum();
    ensure!(dropped > u64::from(SOURCES) / 2, "only {dropped} of {SOURCES} packets were dropped");
    Ok(())
}

fn rekey_all(lab: &mut Lab) -> Result<()> {
    let rekeys: [(&str, Trigger); 4] = [
        ("berlin", ike_by_site),
        ("berlin", child_by_gateway),
        ("austin", child_by_site),
        ("london", child_by_gateway),
    ];
    for (name, trigger) in rekeys {
        let mut refused = refused_in_rekey(lab, name, trigger)?;
        refused.by_gateway.retain(|(customer, reason), _| customer != "-" || *reason != over_budget());
        ensure!(refused.by_gateway.is_empty(), "{name}: refused: {refused:?}");
    }
    Ok(())
}

fn over_budget() -> String {
    format!("{:?}", Reason::IkeOverBudget)
}

/// Sends one packet from each source, or fewer if `ended` is set before.
fn flood(wire: &OwnedFd, ended: &AtomicBool) -> Result<()> {
    const FIRST: u32 = 0x1000_0000;
    const APART: u32 = 17;
    const SPI: u64 = 0x5a5a_5a5a_5a5a_5a5a;
    let ip = Ip { id: 0, df: true, ..Ip::new(INTERNET_HOST.into(), GATEWAY.into()) };
    let mut frame = Ethernet::new(INTERNET_MAC, GATEWAY_MAC).around(&ike(&ip, &ike_sa_init(SPI))?);
    for number in 0..SOURCES {
        if ended.load(Ordering::Relaxed) {
            break;
        }
        spoof(&mut frame, Ipv4Addr::from(FIRST + number * APART));
        // Retry while the link's queue is full.
        while !put_if_room(wire, &frame)? {
            thread::sleep(PAUSE);
        }
        if number % BURST == 0 {
            thread::sleep(PAUSE);
        }
    }
    Ok(())
}
